//! The engine with system calls that are slow, short or fail as a script says, before real threads
//! or a real ring.

use std::cell::Cell;
use std::collections::{BTreeSet, VecDeque};
use std::fs::File;
use std::os::fd::{BorrowedFd, FromRawFd};
use std::os::unix::fs::FileExt;
use std::rc::Rc;
use std::time::Duration;

use aio::{AioContext, MonitorKind};
use proptest::prelude::*;
use virtio_bindings::virtio_blk as vb;

use super::gate::Switches;
use super::*;
use crate::blk::backend::tests::{CAPACITY, TempFile, conforms, step};
use crate::blk::device::Status;
use crate::blk::device::test_rig::{Posted, Rig, disk_content};

const OK: u8 = Status::Ok as u8;
const IOERR: u8 = Status::IoErr as u8;

/// What a call does. Without a step it does what the kernel does, in no time.
#[derive(Debug, Clone, Copy)]
enum Step {
    Fails(i32),
    /// No more than so many bytes.
    Moves(usize),
    Takes(Duration),
}

/// A call that was made: whether it writes, where, how many bytes, and with which flags.
type Call = (bool, u64, usize, i32);

#[derive(Debug, Clone, Default)]
struct Script(Rc<Scripted>);

#[derive(Debug, Default)]
struct Scripted {
    now_ns: Cell<u64>,
    sleeps: Cell<u64>,
    /// Each call takes so long.
    each: Cell<Duration>,
    steps: RefCell<VecDeque<Step>>,
    made: RefCell<Vec<Call>>,
}

impl Script {
    fn then(&self, steps: &[Step]) {
        self.0.steps.borrow_mut().extend(steps);
    }

    fn made(&self) -> Vec<Call> {
        self.0.made.take()
    }

    fn pass(&self, time: Duration) {
        self.0.now_ns.set(self.0.now_ns.get() + time.as_nanos() as u64);
    }

    fn call(
        &self,
        writes: bool,
        data: &[libc::iovec],
        (offset, flags): (u64, i32),
        kernel: impl FnOnce(&[libc::iovec]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let bytes = data.iter().map(|piece| piece.iov_len).sum();
        self.0.made.borrow_mut().push((writes, offset, bytes, flags));
        self.pass(self.0.each.get());
        match self.0.steps.borrow_mut().pop_front() {
            Some(Step::Fails(errno)) => Err(io::Error::from_raw_os_error(errno)),
            Some(Step::Moves(mut most)) => {
                let mut data = data.to_vec();
                for piece in &mut data {
                    piece.iov_len = piece.iov_len.min(most);
                    most -= piece.iov_len;
                }
                kernel(&data)
            }
            Some(Step::Takes(time)) => {
                self.pass(time);
                self.0.sleeps.set(self.0.sleeps.get() + 1);
                kernel(data)
            }
            None => kernel(data),
        }
    }
}

impl Calls for Script {
    fn now_ns(&self) -> u64 {
        self.0.now_ns.get()
    }

    fn switches(&self) -> Switches {
        Switches { voluntary: self.0.sleeps.get(), involuntary: 0 }
    }

    unsafe fn write(
        &self,
        file: BorrowedFd<'_>,
        data: &[libc::iovec],
        offset: u64,
        flags: i32,
    ) -> io::Result<usize> {
        // SAFETY: the caller's promise.
        self.call(true, data, (offset, flags), |data| unsafe { Kernel.write(file, data, offset, flags) })
    }

    unsafe fn read(
        &self,
        file: BorrowedFd<'_>,
        data: &[libc::iovec],
        offset: u64,
        flags: i32,
    ) -> io::Result<usize> {
        // SAFETY: the caller's promise.
        self.call(false, data, (offset, flags), |data| unsafe { Kernel.read(file, data, offset, flags) })
    }
}

/// An engine on a loop of its own.
struct Bench {
    script: Script,
    image: Arc<FileImage>,
    engine: InlineEngine<Script>,
    done: Rc<RefCell<Vec<FinishedRequest>>>,
    context: AioContext,
    rig: Rig,
}

/// How requests ended: the answers at once, and those of the ring or the threads.
struct Ended {
    /// What each request has written, with its status at the end.
    written: Vec<Vec<u8>>,
    inline: usize,
    passed_on: usize,
}

impl Ended {
    fn statuses(&self) -> Vec<u8> {
        self.written.iter().filter_map(|written| written.last().copied()).collect()
    }
}

impl Bench {
    /// RWF_NOWAIT is known not to work for writes, as on ext4, unless a test says otherwise.
    fn new(image: FileImage, monitor: MonitorKind) -> Self {
        let context = AioContext::builder().monitor(monitor).build().unwrap();
        let done: Rc<RefCell<Vec<FinishedRequest>>> = Rc::default();
        let collected = Rc::clone(&done);
        let done_with = Rc::new(move |_: &AioContext, finished: &mut Vec<FinishedRequest>| {
            collected.borrow_mut().append(finished);
        });
        let image = Arc::new(image);
        let behind = match monitor {
            MonitorKind::IoUring => {
                Behind::Ring(RingEngine::new(Arc::clone(&image), &context, done_with).unwrap())
            }
            _ => Behind::Pool(PoolEngine::new(Arc::clone(&image), &context, done_with)),
        };
        let script = Script::default();
        let engine = InlineEngine::with(Arc::clone(&image), behind, script.clone());
        engine.state.borrow_mut().no_nowait_write = true;
        let rig = Rig::new(image.device_config());
        Self { script, image, engine, done, context, rig }
    }

    fn of(file: &TempFile) -> Self {
        Self::new(FileImage::open(file.path(), false, false).unwrap(), MonitorKind::Epoll)
    }

    /// One batch, until all of it is answered, each request once.
    fn run(&mut self, posted: &[Posted]) -> Ended {
        let (requests, written): (Vec<_>, Vec<_>) = self.rig.begin_all(posted).into_iter().unzip();
        let mut heads: BTreeSet<u16> = requests.iter().map(PendingRequest::head).collect();
        assert_eq!(heads.len(), posted.len());
        let mut inline: Vec<FinishedRequest> = Vec::new();
        for request in requests {
            inline.extend(self.engine.submit(request));
        }
        self.engine.commit(|finished| inline.push(finished));
        let inline_count = inline.len();
        while self.done.borrow().len() + inline_count < posted.len() {
            self.context.poll(true).unwrap();
        }
        while self.context.poll(false).unwrap() {}
        let passed_on = self.done.borrow().len();
        for finished in inline.into_iter().chain(self.done.take()) {
            assert!(heads.remove(&finished.head()), "answered twice");
            self.rig.push_any(finished);
        }
        assert!(heads.is_empty());
        let written = written.iter().map(|written| self.rig.written(written)).collect();
        Ended { written, inline: inline_count, passed_on }
    }
}

fn write(sector: u64, sectors: usize, fill: u8) -> Posted {
    Posted::request(vb::VIRTIO_BLK_T_OUT, sector).readable(&vec![fill; sectors * 512]).status()
}

fn read(sector: u64, sectors: usize) -> Posted {
    Posted::request(vb::VIRTIO_BLK_T_IN, sector).writable(sectors * 512).status()
}

fn flush() -> Posted {
    Posted::request(vb::VIRTIO_BLK_T_FLUSH, 0).status()
}

/// The content of a disk after these writes.
fn content_after(writes: &[(usize, usize, u8)]) -> Vec<u8> {
    let mut content = disk_content(CAPACITY);
    for &(sector, sectors, fill) in writes {
        content[sector * 512..(sector + sectors) * 512].fill(fill);
    }
    content
}

#[test]
fn writes_to_adjacent_sectors_are_one_call() {
    let file = TempFile::with(&disk_content(CAPACITY));
    let mut bench = Bench::of(&file);
    let posted = [write(8, 8, 1), write(16, 8, 2), write(24, 1, 3), write(40, 8, 4), write(32, 8, 5)];
    let ended = bench.run(&posted);
    assert_eq!((ended.statuses(), ended.inline), (vec![OK; 5], 5));
    let calls = [(true, 4096, 17 * 512, 0), (true, 40 * 512, 4096, 0), (true, 32 * 512, 4096, 0)];
    assert_eq!(bench.script.made(), calls);
    let writes = [(8, 8, 1), (16, 8, 2), (24, 1, 3), (40, 8, 4), (32, 8, 5)];
    assert!(file.content() == content_after(&writes));
}

/// A write that overlaps is not adjacent: the later one wins, as in the order of the ring.
#[test]
fn writes_that_overlap_are_separate_and_in_order() {
    let file = TempFile::with(&disk_content(CAPACITY));
    let mut bench = Bench::of(&file);
    bench.run(&[write(8, 8, 1), write(12, 8, 2)]);
    assert_eq!(bench.script.made().len(), 2);
    assert!(file.content() == content_after(&[(8, 8, 1), (12, 8, 2)]));
}

#[test]
fn the_rest_of_a_short_write_is_passed_on() {
    let file = TempFile::with(&disk_content(CAPACITY));
    let mut bench = Bench::of(&file);
    bench.script.then(&[Step::Moves(6_000)]);
    let ended = bench.run(&[write(8, 8, 1), write(16, 8, 2), write(24, 8, 3)]);
    assert_eq!((ended.statuses(), ended.inline, ended.passed_on), (vec![OK; 3], 1, 2));
    assert_eq!(bench.script.made().len(), 1);
    assert!(file.content() == content_after(&[(8, 8, 1), (16, 8, 2), (24, 8, 3)]));
}

/// A file that cannot grow (F_SEAL_GROW): the kernel refuses what is beyond its end.
#[test]
fn only_the_request_that_cannot_be_written_fails() {
    // SAFETY: the name is a C string.
    let fd = unsafe { libc::memfd_create(c"disk".as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING) };
    assert!(fd >= 0);
    // SAFETY: the descriptor is new and has no other owner.
    let file = unsafe { File::from_raw_fd(fd) };
    file.set_len(24 * 512).unwrap();
    // SAFETY: passes no memory.
    assert_eq!(unsafe { libc::fcntl(fd, libc::F_ADD_SEALS, libc::F_SEAL_GROW) }, 0);
    let other = file.try_clone().unwrap();
    let mut bench = Bench::new(FileImage::from_parts(file, CAPACITY, None), MonitorKind::Epoll);
    let ended = bench.run(&[write(8, 8, 1), write(16, 8, 2), write(24, 8, 3), write(0, 8, 4)]);
    assert_eq!(ended.statuses(), [OK, OK, IOERR, OK]);
    assert_eq!(bench.script.made().len(), 2);
    let mut content = vec![0; 24 * 512];
    other.read_exact_at(&mut content, 0).unwrap();
    assert!(content == [vec![4; 4096], vec![1; 4096], vec![2; 4096]].concat());
}

#[test]
fn an_error_of_several_writes_is_that_of_none_of_them_yet() {
    for errno in [libc::ENOSPC, libc::EFAULT, libc::EIO, libc::EINTR, libc::EAGAIN] {
        let file = TempFile::with(&disk_content(CAPACITY));
        let mut bench = Bench::of(&file);
        bench.script.then(&[Step::Fails(errno)]);
        let ended = bench.run(&[write(8, 8, 1), write(16, 8, 2)]);
        assert_eq!((ended.statuses(), ended.passed_on), (vec![OK; 2], 2), "{errno}");
        assert!(file.content() == content_after(&[(8, 8, 1), (16, 8, 2)]));
    }
}

#[test]
fn the_error_of_a_single_write_is_answered() {
    for errno in [libc::ENOSPC, libc::EDQUOT, libc::EFBIG, libc::EFAULT, libc::EIO] {
        let file = TempFile::with(&disk_content(CAPACITY));
        let mut bench = Bench::of(&file);
        bench.script.then(&[Step::Fails(errno)]);
        let ended = bench.run(&[write(8, 8, 1), write(32, 8, 2)]);
        assert_eq!((ended.statuses(), ended.inline), (vec![IOERR, OK], 2), "{errno}");
        assert!(file.content() == content_after(&[(32, 8, 2)]));
    }
}

#[test]
fn a_write_that_would_wait_is_passed_on() {
    for errno in [libc::EAGAIN, libc::EINTR] {
        let file = TempFile::with(&disk_content(CAPACITY));
        let mut bench = Bench::of(&file);
        bench.script.then(&[Step::Fails(errno)]);
        let ended = bench.run(&[write(8, 8, 1)]);
        assert_eq!((ended.statuses(), ended.passed_on), (vec![OK], 1), "{errno}");
        assert!(file.content() == content_after(&[(8, 8, 1)]));
    }
}

/// The file system decides about RWF_NOWAIT with the first write.
#[test]
fn rwf_nowait_is_used_where_it_works() {
    let file = TempFile::with(&disk_content(CAPACITY));
    let mut bench = Bench::of(&file);
    bench.engine.state.borrow_mut().no_nowait_write = false;
    bench.script.then(&[Step::Fails(libc::EOPNOTSUPP)]);
    for sector in [8, 24] {
        assert_eq!(bench.run(&[write(sector, 8, 1)]).inline, 1);
    }
    let flags: Vec<i32> = bench.script.made().iter().map(|call| call.3).collect();
    assert_eq!(flags, [libc::RWF_NOWAIT, 0, 0]);

    // Here it works, and what would wait is passed on. The next is not tried.
    let mut bench = Bench::of(&file);
    bench.engine.state.borrow_mut().no_nowait_write = false;
    bench.script.then(&[Step::Fails(libc::EAGAIN)]);
    let passed_on: Vec<usize> = [8, 24].map(|sector| bench.run(&[write(sector, 8, 1)]).passed_on).into();
    assert_eq!(passed_on, [1, 1]);
    let calls = bench.script.made();
    assert_eq!((calls.len(), calls[0].3), (1, libc::RWF_NOWAIT));
    assert!(!bench.engine.state.borrow().no_nowait_write);
}

/// Each call sleeps for 20 ms. The guest writes one request every millisecond, for ten minutes.
#[test]
fn a_file_that_sleeps_holds_up_the_loop_once_per_backoff() {
    let file = TempFile::with(&disk_content(CAPACITY));
    let mut bench = Bench::of(&file);
    bench.script.0.each.set(Duration::from_millis(20));
    let (mut slow_at, mut stalls) = (Vec::new(), 0);
    for ms in 0..600_000_u64 {
        bench.script.pass(Duration::from_millis(1));
        // Requests that are passed on are not of interest here, so only a few of them are posted.
        let now_ns = bench.script.now_ns();
        if ms % 1_000 != 0 && !bench.engine.state.borrow_mut().gate.is_open(|| now_ns) {
            continue;
        }
        let calls_before = bench.engine.stats().calls;
        let ended = bench.run(&[write(8, 8, 1)]);
        assert_eq!(ended.statuses(), [OK]);
        let calls = bench.engine.stats().calls - calls_before;
        assert_eq!(u64::try_from(ended.inline).unwrap(), calls);
        if calls > 0 {
            slow_at.push(now_ns / 1_000_000_000);
        }
        stalls = bench.engine.stats().stalls;
    }
    // The back-offs are 2 s, 20 s, 40 s, 80 s, 160 s and 320 s.
    assert_eq!((slow_at, stalls), (vec![0, 2, 21, 61, 141, 301], 6));
}

/// The stall is returned once, at the end of the batch, and the rest of the batch is passed on.
#[test]
fn the_rest_of_a_batch_is_passed_on_when_a_call_was_slow() {
    let file = TempFile::with(&disk_content(CAPACITY));
    let mut bench = Bench::of(&file);
    bench.script.then(&[Step::Takes(Duration::from_millis(20))]);
    let posted: Vec<Posted> = (0..8).map(|index| write(index * 16 % CAPACITY, 1, 1)).collect();
    let requests = bench.rig.begin_all(&posted);
    let mut at_once = 0;
    for (request, _) in requests {
        at_once += usize::from(bench.engine.submit(request).is_some());
    }
    let stall = bench.engine.commit(|_| at_once += 1).unwrap();
    assert_eq!((at_once, bench.script.made().len()), (1, 1));
    assert!(stall.excess_ns > 19_000_000 && stall.backoff_ns == stall.excess_ns * 100);
    while bench.done.borrow().len() < 7 {
        bench.context.poll(true).unwrap();
    }
    assert_eq!(bench.engine.commit(|_| ()), None);
}

/// Calls that are each short enough, but not all of them together.
#[test]
fn a_batch_works_for_half_a_millisecond() {
    let file = TempFile::with(&disk_content(CAPACITY));
    let mut bench = Bench::of(&file);
    bench.script.0.each.set(Duration::from_micros(50));
    let posted: Vec<Posted> = (0..10).map(|index| write(index * 17 % 50, 1, 1)).collect();
    for batches in 1..=3 {
        let ended = bench.run(&posted);
        assert_eq!((ended.statuses(), ended.inline), (vec![OK; 10], 10));
        assert_eq!(bench.engine.stats(), InlineStats { calls: 10 * batches, stalls: 0 });
    }
    bench.script.0.each.set(Duration::from_micros(120));
    bench.script.made();
    let ended = bench.run(&posted);
    assert_eq!((ended.statuses(), ended.inline, ended.passed_on), (vec![OK; 10], 5, 5));
    assert_eq!(bench.engine.stats().stalls, 0);
}

#[test]
fn large_durable_and_far_writes_are_passed_on() {
    let file = TempFile::with(&disk_content(1024));
    let mut bench = Bench::of(&file);
    assert_eq!(bench.run(&[write(0, 257, 1)]).passed_on, 1);
    assert_eq!(bench.run(&[write(0, 256, 1)]).inline, 1);
    // One call moves no more than that.
    bench.script.made();
    assert_eq!(bench.run(&[write(0, 200, 1), write(200, 57, 2)]).inline, 2);
    assert_eq!(bench.script.made().len(), 2);
    // RLIMIT_FSIZE: the kernel would send SIGXFSZ.
    bench.engine.write_end = 512 * 512;
    let ended = bench.run(&[write(504, 8, 1), write(512, 8, 1), write(508, 8, 1)]);
    assert_eq!((ended.inline, ended.passed_on), (1, 2));
    bench.rig.device.write_config(32, &[0]);
    assert_eq!(bench.run(&[write(0, 8, 1)]).passed_on, 1);
    assert_eq!(bench.run(&[flush()]).passed_on, 1);
    let past = bench.script.made().iter().filter(|call| call.1 + call.2 as u64 > 512 * 512).count();
    assert_eq!(past, 0);
}

#[test]
fn nothing_is_written_after_a_flush_has_failed() {
    let file = TempFile::with(&disk_content(CAPACITY));
    let mut bench = Bench::of(&file);
    bench.image.syncs().begin().end_of_write(&Err(io::Error::from_raw_os_error(libc::EIO)));
    let ended = bench.run(&[write(8, 8, 1), write(16, 8, 1), read(8, 8)]);
    assert_eq!(ended.statuses(), [IOERR, IOERR, OK]);
    assert!(bench.script.made().iter().all(|call| !call.0));
    assert!(file.content() == disk_content(CAPACITY));
}

#[test]
fn cached_reads_are_inline_and_others_are_passed_on() {
    let file = TempFile::with(&disk_content(CAPACITY));
    let mut bench = Bench::of(&file);
    let expected = [&disk_content(CAPACITY)[8 * 512..16 * 512], &[OK]].concat();
    let ended = bench.run(&[read(8, 8), read(8, 8)]);
    assert_eq!((ended.written, ended.inline), (vec![expected.clone(), expected.clone()], 2));
    let nowait = (false, 4096, 4096, libc::RWF_NOWAIT);
    assert_eq!(bench.script.made(), [nowait, nowait]);
    // A part of it, or nothing, is not in the page cache.
    for (step, calls) in [(Step::Moves(1000), 1), (Step::Fails(libc::EAGAIN), 1), (Step::Moves(4096), 0)] {
        bench.script.then(&[step]);
        let ended = bench.run(&[read(8, 8)]);
        assert_eq!((ended.written, ended.passed_on), (vec![expected.clone()], 1), "{step:?}");
        assert_eq!(bench.script.made().len(), calls);
    }
    // The step that was left over.
    assert_eq!(bench.run(&[read(8, 8)]).inline, 1);
    bench.script.made();
    // A file that does not have it.
    bench.script.then(&[Step::Fails(libc::EOPNOTSUPP)]);
    for calls in [1, 0] {
        assert_eq!(bench.run(&[read(8, 8)]).written, std::slice::from_ref(&expected));
        assert_eq!(bench.script.made().len(), calls);
    }
}

#[test]
fn a_read_beyond_the_end_of_the_file_fails() {
    let file = TempFile::with(&disk_content(16));
    let image = FileImage::from_parts(File::open(file.path()).unwrap(), CAPACITY, None);
    let mut bench = Bench::new(image, MonitorKind::Epoll);
    let ended = bench.run(&[read(16, 8), read(12, 8), read(0, 8)]);
    assert_eq!(ended.statuses(), [IOERR, IOERR, OK]);
}

/// A ring takes several reads with one system call.
#[test]
fn only_a_read_that_is_alone_is_inline_before_a_ring() {
    if AioContext::builder().monitor(MonitorKind::IoUring).build().is_err() {
        eprintln!("skipped: no io_uring");
        return;
    }
    let file = TempFile::with(&disk_content(CAPACITY));
    let image = FileImage::open(file.path(), false, false).unwrap();
    let mut bench = Bench::new(image, MonitorKind::IoUring);
    let content = disk_content(CAPACITY);
    let expected = [&content[8 * 512..16 * 512], &[OK]].concat();
    for (count, inline) in [(1, 1), (2, 0), (8, 0), (1, 1)] {
        let ended = bench.run(&vec![read(8, 8); count]);
        assert_eq!((ended.written, ended.inline), (vec![expected.clone(); count], inline), "{count}");
    }
    assert_eq!(bench.script.made().len(), 2);
    // A write does not change that.
    let ended = bench.run(&[write(0, 8, 9), read(8, 8), write(8, 8, 9)]);
    assert_eq!((ended.statuses(), ended.inline), (vec![OK; 3], 3));
}

/// Guest memory that is gone: the kernel returns EFAULT, and no signal.
#[test]
fn memory_that_is_not_mapped_is_an_error_of_the_call() {
    let file = TempFile::with(&disk_content(CAPACITY));
    let image = FileImage::open(file.path(), false, false).unwrap();
    let gone = libc::iovec { iov_base: std::ptr::without_provenance_mut(4096), iov_len: 4096 };
    // SAFETY: nothing is mapped below the lowest address (mmap_min_addr), so the kernel touches
    // nothing.
    let (write, read) =
        unsafe { (Kernel.write(image.as_fd(), &[gone], 0, 0), Kernel.read(image.as_fd(), &[gone], 0, 0)) };
    for result in [write, read] {
        assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::EFAULT));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Whatever calls do, the answers and the content are those of the model.
    #[test]
    fn the_engine_conforms(
        steps in prop::collection::vec(step(), 1..30),
        faults in prop::collection::vec(prop_oneof![
            (1..9_000_usize).prop_map(Step::Moves),
            Just(Step::Fails(libc::EAGAIN)),
            Just(Step::Fails(libc::EINTR)),
            Just(Step::Takes(Duration::from_millis(2))),
        ], 0..20),
    ) {
        let file = TempFile::with(&disk_content(CAPACITY));
        let bench = Bench::of(&file);
        bench.script.then(&faults);
        let Bench { engine, done, context, image, script, .. } = bench;
        conforms(&mut Rig::new(image.device_config()), &steps, |request| {
            script.pass(Duration::from_millis(100));
            let mut finished = engine.submit(request);
            engine.commit(|answer| finished = Some(answer));
            while finished.is_none() {
                context.poll(true).unwrap();
                finished = done.borrow_mut().pop();
            }
            finished.unwrap()
        });
    }
}

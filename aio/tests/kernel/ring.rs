//! A ring that delivers completions only when it is asked (SINGLE_ISSUER and DEFER_TASKRUN), so
//! that what happens between two wake-ups is up to the test; and Linux's older asynchronous
//! interface, for its poll.
#![expect(
    unsafe_code,
    reason = "pushes SQEs that point to memory of the ring's owner, and calls io_submit(2)"
)]

use crate::os::EventFd;
use aio::io_uring::{IoUring, opcode, squeue, types};
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::AsRawFd;

/// IORING_ENTER_GETEVENTS: runs what is deferred.
const GET_EVENTS: u32 = 1;
/// Counters that a multishot read may fill before it ends.
const BUFFERS: u16 = 16;

pub(crate) struct Ring {
    ring: IoUring,
    /// Where READ puts a counter. Never freed: the kernel may still use it for a while after the
    /// ring is closed.
    value: ManuallyDrop<Box<u64>>,
    /// Where READ_MULTISHOT puts them. As above.
    values: ManuallyDrop<Box<[u64; BUFFERS as usize]>>,
}

impl Ring {
    pub(crate) fn new() -> io::Result<Self> {
        let ring = IoUring::builder().setup_single_issuer().setup_defer_taskrun().build(8)?;
        let values = ManuallyDrop::new(Box::new([0; BUFFERS as usize]));
        Ok(Self { ring, value: ManuallyDrop::new(Box::new(0)), values })
    }

    fn push(&mut self, entry: &squeue::Entry) {
        // SAFETY: what the entry points to is never freed, or it is nothing but a descriptor.
        unsafe { self.ring.submission().push(entry) }.expect("room in the submission queue");
        self.ring.submit().expect("io_uring_enter");
    }

    /// Arms a one-shot poll for input.
    pub(crate) fn poll_once(&mut self, fd: &EventFd) {
        self.push(&opcode::PollAdd::new(types::Fd(fd.as_raw_fd()), libc::POLLIN as u32).build());
    }

    /// Arms a poll for input that stays.
    pub(crate) fn poll_multishot(&mut self, fd: &EventFd) {
        self.push(&opcode::PollAdd::new(types::Fd(fd.as_raw_fd()), libc::POLLIN as u32).multi(true).build());
    }

    /// Starts a read of the counter.
    pub(crate) fn read(&mut self, fd: &EventFd) {
        let at = (&raw mut **self.value).cast();
        self.push(&opcode::Read::new(types::Fd(fd.as_raw_fd()), at, 8).build());
    }

    /// Starts a read of the counter that stays.
    pub(crate) fn read_multishot(&mut self, fd: &EventFd) {
        let at = self.values.as_mut_ptr().cast();
        self.push(&opcode::ProvideBuffers::new(at, 8, BUFFERS, 0, 0).build());
        assert_eq!(self.results(), [0], "IORING_OP_PROVIDE_BUFFERS");
        self.push(&opcode::ReadMulti::new(types::Fd(fd.as_raw_fd()), 0, 0).build());
    }

    /// What the last READ has read.
    pub(crate) fn value(&self) -> u64 {
        // SAFETY: a live u64; the kernel writes it only while a read is in flight, and its
        // completion has been reaped.
        unsafe { (&raw const **self.value).read_volatile() }
    }

    /// Signals an eventfd from inside the kernel, as KVM does, `times` times (eventfd_signal()).
    pub(crate) fn signal(&mut self, fd: &EventFd, times: u32) {
        self.ring.submitter().register_eventfd(fd.as_raw_fd()).expect("IORING_REGISTER_EVENTFD");
        for _ in 0..times {
            self.push(&opcode::Nop::new().build());
            assert_eq!(self.results(), [0], "IORING_OP_NOP");
        }
        self.ring.submitter().unregister_eventfd().expect("IORING_UNREGISTER_EVENTFD");
    }

    /// Runs what is deferred until nothing is left, and returns what has completed.
    pub(crate) fn results(&mut self) -> Vec<i32> {
        let mut results = Vec::new();
        let mut quiet = 0;
        while quiet < 2 {
            // SAFETY: no argument.
            unsafe { self.ring.submitter().enter::<libc::sigset_t>(0, 0, GET_EVENTS, None) }
                .expect("io_uring_enter");
            let before = results.len();
            results.extend(self.ring.completion().map(|cqe| cqe.result()));
            quiet = if results.len() == before { quiet + 1 } else { 0 };
        }
        results
    }

    /// Returns true if something has completed, and has not failed.
    pub(crate) fn completed(&mut self) -> bool {
        let results = self.results();
        assert!(results.iter().all(|result| *result > 0), "{results:?}");
        !results.is_empty()
    }
}

/// Polls an eventfd once with IOCB_CMD_POLL, `ring` between submission and the look; returns true
/// if it completed.
pub(crate) fn linux_aio_poll(fd: &EventFd, ring: impl FnOnce()) -> io::Result<bool> {
    const IOCB_CMD_POLL: u16 = 5;
    let failed = |r: i64| if r < 0 { Err(io::Error::last_os_error()) } else { Ok(r) };
    let mut context: libc::c_ulong = 0;
    // SAFETY: io_setup(2) fills a live integer.
    failed(unsafe { libc::syscall(libc::SYS_io_setup, 1, &raw mut context) })?;
    // SAFETY: all-zero is a valid iocb.
    let mut iocb: libc::iocb = unsafe { std::mem::zeroed() };
    iocb.aio_lio_opcode = IOCB_CMD_POLL;
    iocb.aio_fildes = fd.as_raw_fd() as u32;
    iocb.aio_buf = libc::POLLIN as u64;
    let mut list = [&raw mut iocb];
    // SAFETY: one live iocb, which io_submit(2) copies.
    failed(unsafe { libc::syscall(libc::SYS_io_submit, context, 1, list.as_mut_ptr()) })?;
    ring();
    // struct io_event: four u64.
    let mut event = [0u64; 4];
    let now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: room for one event, and a live time.
    let got =
        unsafe { libc::syscall(libc::SYS_io_getevents, context, 0, 1, event.as_mut_ptr(), &raw const now) };
    let got = failed(got)?;
    // SAFETY: cancels what is pending; nothing of ours is referred to any more.
    unsafe { libc::syscall(libc::SYS_io_destroy, context) };
    Ok(got == 1)
}

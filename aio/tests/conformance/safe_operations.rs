//! Operations that own what the kernel needs: how they are started, cancelled and refused. What
//! each kind does is in `file_operations` and `socket_operations`.

use crate::setup::Setup;
use crate::support::{Count, Slot, look, os, settle, turn_until};
use aio::op::{Operation, PollOnce, ReadAt, Timeout, WriteAt};
use aio::{AioContext, Interest, OperationId};
use std::cell::Cell;
use std::io::{self, PipeReader, PipeWriter, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::Duration;

/// Starts an operation and turns until it has completed.
pub(crate) fn finish<O: Operation>(ctx: &AioContext, operation: O) -> O::Output {
    let (output, _) = begin(ctx, operation);
    end(ctx, &output)
}

/// Starts an operation. Its output will be in the slot.
pub(crate) fn begin<O: Operation>(ctx: &AioContext, operation: O) -> (Slot<O::Output>, OperationId) {
    let output = Slot::new();
    let place = output.clone();
    let id = ctx.start(operation, move |_, output| place.put(output));
    (output, id.map_err(|refused| refused.error).expect("started"))
}

/// Turns until the slot is full.
pub(crate) fn end<T>(ctx: &AioContext, output: &Slot<T>) -> T {
    loop {
        if let Some(output) = output.take() {
            return output;
        }
        ctx.poll(true).expect("a blocking turn");
    }
}

/// Starts an operation that waits, cancels it, and returns its output: before the kernel has seen
/// it, or after.
pub(crate) fn cancelled<O: Operation>(ctx: &AioContext, operation: O, seen: bool) -> O::Output {
    let (output, id) = begin(ctx, operation);
    if seen {
        settle(ctx);
    }
    assert!(ctx.cancel(id), "in flight");
    end(ctx, &output)
}

pub(crate) fn errno<T>(result: io::Result<T>) -> Option<i32> {
    result.err().expect("an error").raw_os_error()
}

/// A descriptor whose owners can be counted.
pub(crate) fn counted<T>(file: T) -> (Rc<T>, impl Fn() -> usize) {
    let file = Rc::new(file);
    let weak = Rc::downgrade(&file);
    (file, move || weak.strong_count())
}

pub(crate) fn without_a_ring_everything_comes_back(setup: &Setup) {
    let ctx = setup.context();
    let why = |e: &io::Error| {
        assert_eq!(e.kind(), io::ErrorKind::Unsupported);
        assert!(e.to_string().contains(&ctx.monitor().reason), "{e}");
    };
    let (reader, owners) = counted(io::pipe().unwrap().0);
    let refused = ctx.start(ReadAt::new(reader, vec![7; 3], 0), |_, _| unreachable!("refused")).unwrap_err();
    why(&refused.error);
    let (result, _reader, buffer) = refused.value.refuse(refused.error);
    why(&result.unwrap_err());
    assert_eq!((buffer, owners()), (vec![7; 3], 1));
    why(&ctx.operation_pool::<Timeout, ()>(|_, _, ()| ()).unwrap_err());
    why(&ctx.register_file(&os::memory_file()).unwrap_err());
    why(&ctx.buffer_group(1, 1).unwrap_err());
    let refused = ctx.register_buffer(vec![1, 2, 3]).unwrap_err();
    why(&refused.error);
    assert_eq!(refused.value, [1, 2, 3]);
}

pub(crate) fn a_waiting_operation_is_cancelled(setup: &Setup) {
    let ctx = setup.context();
    for seen in [false, true] {
        let (reader, _writer) = io::pipe().unwrap();
        let (result, reader, buffer) = cancelled(&ctx, ReadAt::new(reader, vec![7; 5], u64::MAX), seen);
        assert_eq!((errno(result), buffer.as_slice()), (Some(libc::ECANCELED), &[7; 5][..]));
        let (result, _reader) = cancelled(&ctx, PollOnce::new(reader, Interest::READABLE), seen);
        assert_eq!(errno(result), Some(libc::ECANCELED));
        let result = cancelled(&ctx, Timeout::new(Duration::MAX), seen);
        assert_eq!(errno(result), Some(libc::ECANCELED));
    }
}

pub(crate) fn a_poll_sees_what_it_waits_for(setup: &Setup) {
    let ctx = setup.context();
    let (reader, mut writer) = io::pipe().unwrap();
    let (ready, writer_again) = finish(&ctx, PollOnce::new(writer, Interest::WRITABLE));
    assert!(ready.unwrap().is_writable());
    writer = writer_again;
    let (output, _) = begin(&ctx, PollOnce::new(reader, Interest::READABLE));
    settle(&ctx);
    assert!(output.take().is_none(), "nothing to read");
    writer.write_all(b"x").unwrap();
    let (ready, reader) = end(&ctx, &output);
    assert!(ready.unwrap().is_readable());
    drop(writer);
    let (ready, _) = finish(&ctx, PollOnce::new(reader, Interest::NONE));
    assert!(ready.unwrap().is_hang_up(), "asked for or not");
    let (result, _) = finish(&ctx, PollOnce::new(os::closed_descriptor(), Interest::READABLE));
    assert_eq!(errno(result), Some(libc::EBADF));
}

pub(crate) fn a_timeout_is_never_early(setup: &Setup) {
    let ctx = setup.context();
    for after_ns in [0, 1, 2_000_000] {
        let before_ns = ctx.now_ns();
        finish(&ctx, Timeout::new(Duration::from_nanos(after_ns))).unwrap();
        assert!(ctx.now_ns() - before_ns >= after_ns);
    }
}

pub(crate) fn a_dropped_context_frees_what_operations_own(setup: &Setup) {
    struct Buffer(Vec<u8>, Count);
    impl Drop for Buffer {
        fn drop(&mut self) {
            self.1.bump();
        }
    }
    let (reader, owners) = counted(io::pipe().unwrap());
    let dropped = Count::default();
    for seen in [false, true] {
        let ctx = setup.builder().ring_entries(4).build().unwrap();
        let pool = ctx.operation_pool(|_, _, _: Buffer| unreachable!("the context is dropped")).unwrap();
        for _ in 0..20 {
            let held = Buffer(vec![0; 4], dropped.clone());
            let read = ReadAt::new(Reader(Rc::clone(&reader)), vec![0; 16], u64::MAX);
            ctx.start(read, move |_, _| unreachable!("{:?}: the context is dropped", held.0)).unwrap();
            let read = ReadAt::new(Reader(Rc::clone(&reader)), vec![0; 16], u64::MAX);
            pool.start(read, Buffer(Vec::new(), dropped.clone())).map_err(|r| r.error).unwrap();
            ctx.start(Timeout::new(Duration::from_secs(1000)), |_, _| unreachable!("nor this")).unwrap();
        }
        if seen {
            settle(&ctx);
        }
        assert_eq!((owners(), dropped.get()), (41, if seen { 40 } else { 0 }));
        drop(ctx);
        assert_eq!(owners(), 1, "the kernel and the operations are done with the file");
        let read = ReadAt::new(Reader(Rc::clone(&reader)), vec![0; 1], 0);
        let refused = pool.start(read, Buffer(Vec::new(), dropped.clone())).unwrap_err();
        assert_eq!((refused.error.kind(), pool.in_flight()), (io::ErrorKind::NotConnected, 0));
        std::mem::forget(refused.value.1);
    }
    assert_eq!(dropped.get(), 80);
}

/// The reading end of a shared pipe.
pub(crate) struct Reader(pub(crate) Rc<(PipeReader, PipeWriter)>);

impl AsFd for Reader {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.0.as_fd()
    }
}

pub(crate) fn a_pool_gives_each_output_to_its_request(setup: &Setup) {
    const ALL: usize = 500;
    let ctx = setup.builder().ring_entries(8).build().unwrap();
    let file = Rc::new(os::memory_file());
    let seen = Rc::new(Cell::new(0));
    let pool = ctx.operation_pool({
        let seen = Rc::clone(&seen);
        move |_, (result, _, buffer): (io::Result<usize>, Rc<_>, Vec<u8>), request: usize| {
            assert_eq!((result.unwrap(), buffer), (8, request.to_le_bytes().to_vec()));
            seen.set(seen.get() + 1);
        }
    });
    let pool = pool.unwrap();
    for round in 1..=3 {
        for request in 0..ALL {
            let offset = 8 * (request * round) as u64;
            let buffer = (request * round).to_le_bytes().to_vec();
            pool.start(WriteAt::new(Rc::clone(&file), buffer, offset), request * round)
                .map_err(|r| r.error)
                .unwrap();
        }
        assert_eq!(pool.in_flight(), ALL);
        turn_until(&ctx, || pool.in_flight() == 0);
        assert_eq!(seen.get(), round * ALL);
    }
}

pub(crate) fn a_pool_is_used_in_its_callback(setup: &Setup) {
    let ctx = setup.context();
    let slot: Slot<aio::OperationPool<Timeout, u64>> = Slot::new();
    let last = Count::default();
    let pool = ctx.operation_pool({
        let (slot, last) = (slot.clone(), last.clone());
        move |ctx, result: io::Result<()>, n: u64| {
            result.unwrap();
            slot.with(|pool| {
                assert_eq!(pool.in_flight(), 0, "its callback has begun");
                if n < 50 {
                    pool.start(Timeout::new(Duration::ZERO), n + 1).map_err(|r| r.error).unwrap();
                }
            });
            if n.is_multiple_of(10) {
                look(ctx);
            }
            last.bump();
        }
    });
    slot.put(pool.unwrap());
    slot.with(|pool| pool.start(Timeout::new(Duration::ZERO), 1).map_err(|r| r.error).unwrap());
    turn_until(&ctx, || last.get() == 50);
    drop(slot.take());
}

pub(crate) fn a_panic_of_a_users_file_starts_nothing(setup: &Setup) {
    struct Panics(Count);
    impl AsFd for Panics {
        fn as_fd(&self) -> BorrowedFd<'_> {
            panic!("no descriptor today")
        }
    }
    impl Drop for Panics {
        fn drop(&mut self) {
            self.0.bump();
        }
    }
    let (ctx, dropped) = (setup.context(), Count::default());
    let read = || ReadAt::new(Panics(dropped.clone()), vec![0; 1], 0);
    let pool = ctx.operation_pool(|_, _, held| drop::<Count>(held)).unwrap();
    let held = Count::default();
    for round in 1..=3 {
        let caught = catch_unwind(AssertUnwindSafe(|| ctx.start(read(), |_, _| unreachable!("not started"))));
        assert!(caught.is_err());
        let caught = catch_unwind(AssertUnwindSafe(|| pool.start(read(), held.clone()).is_ok()));
        assert!(caught.is_err());
        assert_eq!((dropped.get(), pool.in_flight()), (2 * round, 0));
        assert!(!look(&ctx), "nothing completes");
    }
    finish(&ctx, Timeout::new(Duration::ZERO)).unwrap();
}

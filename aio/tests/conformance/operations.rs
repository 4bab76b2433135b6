//! Operations on the ring: what they own is returned exactly once.
#![expect(
    unsafe_code,
    reason = "submits SQEs whose buffers the operation owns: heap memory that does not move with its owner"
)]

use crate::setup::Setup;
use crate::support::{Count, Slot, look, os, os::SignalStorm, settle, turn, turn_until};
use aio::io_uring::{cqueue, opcode, squeue, types};
use aio::{AioContext, Interest, OperationId, Operations, Refused};
use std::cell::{Cell, RefCell};
use std::io::{self, PipeReader, Read, Write};
use std::os::fd::AsRawFd;
use std::rc::Rc;

/// A request that counts how often it is dropped.
pub(crate) struct Request {
    pub(crate) reader: Rc<PipeReader>,
    buffer: Box<[u8]>,
    pub(crate) dropped: Count,
}

impl Drop for Request {
    fn drop(&mut self) {
        self.dropped.bump();
    }
}

impl Request {
    pub(crate) fn new(reader: &Rc<PipeReader>, dropped: &Count) -> Self {
        Self { reader: Rc::clone(reader), buffer: vec![0; 16].into(), dropped: dropped.clone() }
    }

    pub(crate) fn entry(&mut self) -> squeue::Entry {
        let fd = types::Fd(self.reader.as_raw_fd());
        opcode::Read::new(fd, self.buffer.as_mut_ptr(), 16).build()
    }
}

pub(crate) fn read(ops: &Operations<Request>, mut request: Request) -> Result<OperationId, Refused<Request>> {
    let entry = request.entry();
    // SAFETY: the request owns the buffer, on the heap, and the descriptor.
    unsafe { ops.submit(entry, request) }
}

fn nop<T: 'static>(ops: &Operations<T>, held: T) -> OperationId {
    // SAFETY: points to nothing.
    unsafe { ops.submit(opcode::Nop::new().build(), held) }.unwrap()
}

pub(crate) fn pipe() -> (Rc<PipeReader>, io::PipeWriter) {
    let (reader, writer) = io::pipe().unwrap();
    (Rc::new(reader), writer)
}

pub(crate) fn operations_are_refused_with_the_reason(setup: &Setup) {
    let ctx = setup.context();
    let e = ctx.operations(|_, _, (): ()| ()).unwrap_err();
    let kind = setup.monitor.to_string();
    assert_eq!(e.kind(), io::ErrorKind::Unsupported);
    assert!(e.to_string().contains("io_uring") && e.to_string().contains(&kind), "{e}");
    assert!(e.to_string().contains(&ctx.monitor().reason), "{e}");
    let e = ctx.read_at(os::memory_file(), vec![7; 3], 0, |_, _, _, _| unreachable!("refused")).unwrap_err();
    assert_eq!(e.error.kind(), io::ErrorKind::Unsupported);
    assert_eq!(e.value.1, [7; 3], "file and buffer come back");
    // SAFETY: points to nothing.
    let e = unsafe { ctx.submit(opcode::Nop::new().build(), "held", |_, _, _| unreachable!("refused")) };
    assert_eq!(e.unwrap_err().value, "held");
}

pub(crate) fn a_file_is_written_and_read(setup: &Setup) {
    let ctx = setup.context();
    let done = Count::default();
    let write = ctx.write_at(os::memory_file(), b"hello, ring".to_vec(), 5, {
        let done = done.clone();
        move |ctx, result, file, buffer| {
            assert_eq!((result.unwrap(), buffer.as_slice()), (11, &b"hello, ring"[..]));
            let read = ctx.read_at(file, vec![0xff; 32], 0, move |_, result, _, buffer| {
                assert_eq!(result.unwrap(), 16);
                assert_eq!(&buffer[..16], b"\0\0\0\0\0hello, ring");
                assert_eq!(buffer[16..], [0xff; 16]);
                done.bump();
            });
            read.unwrap();
        }
    });
    write.unwrap();
    turn_until(&ctx, || done.get() == 1);
    assert_eq!(ctx.stats().completions, 2);
}

pub(crate) fn an_error_comes_as_a_result(setup: &Setup) {
    let ctx = setup.context();
    let (_reader, writer) = io::pipe().unwrap();
    let done = Count::default();
    // Not open for reading.
    let read = ctx.read_at(writer, vec![0; 8], u64::MAX, {
        let done = done.clone();
        move |_, result, _, buffer| {
            assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::EBADF));
            assert_eq!(buffer.len(), 8);
            done.bump();
        }
    });
    read.unwrap();
    turn_until(&ctx, || done.get() == 1);
}

pub(crate) fn a_pending_read_completes_and_gives_its_buffer_back(setup: &Setup) {
    let ctx = setup.context();
    let (reader, mut writer) = pipe();
    let (dropped, answers) = (Count::default(), Rc::new(RefCell::new(Vec::new())));
    let ops = ctx.operations({
        let answers = Rc::clone(&answers);
        move |_, result, request: Request| {
            let n = usize::try_from(result).unwrap();
            answers.borrow_mut().push(request.buffer[..n].to_vec());
        }
    });
    let ops = ops.unwrap();
    read(&ops, Request::new(&reader, &dropped)).unwrap();
    assert!(!look(&ctx));
    assert_eq!((ops.in_flight(), dropped.get()), (1, 0));
    writer.write_all(b"abc").unwrap();
    assert!(turn(&ctx));
    assert_eq!(*answers.borrow(), [b"abc".to_vec()]);
    assert_eq!((ops.in_flight(), dropped.get()), (0, 1));
}

pub(crate) fn a_queued_operation_does_not_wait_behind_a_sleep(setup: &Setup) {
    let ctx = setup.context();
    let done = Count::default();
    let ops = ctx.operations({
        let done = done.clone();
        move |_, result, ()| {
            assert_eq!(result, 0);
            done.bump();
        }
    });
    let ops = Rc::new(ops.unwrap());
    nop(&ops, ());
    assert!(turn(&ctx), "submitted and completed in one turn");
    assert_eq!(done.get(), 1);
    // From a timer, which is the last thing in a turn, and from a bottom half of another thread.
    let timer = ctx.timer({
        let ops = Rc::clone(&ops);
        move |_| _ = nop(&ops, ())
    });
    timer.arm_at(0);
    turn_until(&ctx, || done.get() == 2);
}

pub(crate) fn operations_may_be_submitted_in_their_callback(setup: &Setup) {
    let ctx = setup.context();
    let slot: Slot<Operations<u64>> = Slot::new();
    let last = Rc::new(Cell::new(0));
    let ops = ctx.operations({
        let (slot, last) = (slot.clone(), Rc::clone(&last));
        move |_, _, n: u64| {
            last.set(n);
            slot.with(|ops| {
                assert_eq!(ops.in_flight(), 0, "its callback has begun");
                if n < 50 {
                    nop(ops, n + 1);
                }
            });
        }
    });
    slot.put(ops.unwrap());
    slot.with(|ops| nop(ops, 1));
    turn_until(&ctx, || last.get() == 50);
    drop(slot.take());
}

pub(crate) fn completions_run_before_bottom_halves(setup: &Setup) {
    let ctx = setup.context();
    let trace = Rc::new(RefCell::new(Vec::new()));
    let note = |what: &'static str| {
        let trace = Rc::clone(&trace);
        move || trace.borrow_mut().push(what)
    };
    let notifier = setup.notifier();
    let (handler, completion, bh, timer) =
        (note("handler"), note("completion"), note("bottom half"), note("timer"));
    let _bell = ctx.add_notifier(&notifier, move |_| handler()).unwrap();
    let ops = ctx.operations(move |_, _, ()| completion()).unwrap();
    let timer = ctx.timer(move |_| timer());
    notifier.notify().unwrap();
    timer.arm_at(0);
    ctx.defer(move |_| bh());
    nop(&ops, ());
    assert!(turn(&ctx));
    assert_eq!(*trace.borrow(), ["completion", "bottom half", "handler", "timer"]);
}

pub(crate) fn every_value_comes_back_once(setup: &Setup) {
    const ALL: usize = 2_000;
    let ctx = setup.context();
    let back = Rc::new(RefCell::new(vec![0; ALL]));
    let ops = ctx.operations({
        let back = Rc::clone(&back);
        move |_, _, held: Box<usize>| back.borrow_mut()[*held] += 1
    });
    let ops = ops.unwrap();
    for i in 0..ALL {
        nop(&ops, Box::new(i));
        if i % 97 == 0 {
            look(&ctx);
        }
    }
    turn_until(&ctx, || ops.in_flight() == 0);
    assert!(back.borrow().iter().all(|n| *n == 1));
    assert!(!look(&ctx));
}

pub(crate) fn more_operations_than_the_ring_has_entries(setup: &Setup) {
    const ALL: u64 = 300;
    let ctx = setup.builder().ring_entries(2).build().unwrap();
    let (reader, mut writer) = pipe();
    let (dropped, bytes) = (Count::default(), Count::default());
    let ops = ctx.operations({
        let bytes = bytes.clone();
        move |_, result, request: Request| {
            bytes.add(u64::try_from(result).unwrap());
            assert!(request.buffer[..result as usize].iter().all(|b| *b == b'x'));
        }
    });
    let ops = ops.unwrap();
    for _ in 0..ALL {
        read(&ops, Request::new(&reader, &dropped)).unwrap();
    }
    settle(&ctx);
    assert_eq!((ops.in_flight() as u64, dropped.get()), (ALL, 0));
    // Write sixteen bytes for each of them, in pieces.
    for _ in 0..ALL {
        writer.write_all(&[b'x'; 16]).unwrap();
        look(&ctx);
    }
    drop(writer);
    turn_until(&ctx, || ops.in_flight() == 0);
    assert_eq!((bytes.get(), dropped.get()), (16 * ALL, ALL));
}

pub(crate) fn a_full_completion_queue_loses_nothing(setup: &Setup) {
    const ALL: usize = 300;
    // Sixteen entries in the completion queue.
    let ctx = setup.builder().ring_entries(2).build().unwrap();
    let (rings, done, reads) = (Count::default(), Count::default(), Count::default());
    let bells: Vec<_> = (0..ALL)
        .map(|_| {
            let (bell, calls, rings) = (setup.notifier(), Count::default(), rings.clone());
            let registration = ctx.add_notifier(&bell, {
                let calls = calls.clone();
                move |_| {
                    calls.bump();
                    rings.bump();
                }
            });
            (bell, registration.unwrap(), calls)
        })
        .collect();
    let (reader, mut writer) = io::pipe().unwrap();
    let _level = ctx.add_borrowed_fd(&reader, Interest::READABLE, {
        let reads = reads.clone();
        move |_, _| reads.bump()
    });
    let ops = ctx.operations({
        let done = done.clone();
        move |_, _, ()| done.bump()
    });
    let ops = ops.unwrap();
    settle(&ctx);
    for round in 1..=3 {
        writer.write_all(b"x").unwrap();
        for (bell, ..) in &bells {
            bell.notify().unwrap();
            nop(&ops, ());
            bell.notify().unwrap();
        }
        let before = reads.get();
        turn_until(&ctx, || {
            done.get() == round * ALL as u64
                && bells.iter().all(|(.., calls)| calls.get() >= round)
                && reads.get() > before
        });
        // Spurious rings are allowed, spinning is not.
        settle_bells(&ctx, &reader);
        let calls = rings.get();
        for _ in 0..5 {
            look(&ctx);
        }
        assert_eq!(rings.get(), calls);
        // From an idle loop, each ring is seen again.
        for (bell, _, calls) in bells.iter().step_by(50) {
            let before = calls.get();
            bell.notify().unwrap();
            turn_until(&ctx, || calls.get() > before);
        }
    }
}

fn settle_bells(ctx: &AioContext, mut reader: &PipeReader) {
    reader.read_exact(&mut [0]).unwrap();
    settle(ctx);
}

pub(crate) fn cancel_ends_a_pending_read(setup: &Setup) {
    let ctx = setup.context();
    let (reader, mut writer) = pipe();
    let (dropped, results) = (Count::default(), Rc::new(RefCell::new(Vec::new())));
    let ops = ctx.operations({
        let results = Rc::clone(&results);
        move |_, result, _: Request| results.borrow_mut().push(result)
    });
    let ops = ops.unwrap();
    // Before the kernel has seen it, and after.
    for seen in [false, true] {
        let id = read(&ops, Request::new(&reader, &dropped)).unwrap();
        if seen {
            assert!(!look(&ctx));
        }
        assert!(ctx.cancel(id));
        turn_until(&ctx, || ops.in_flight() == 0);
        assert_eq!(results.borrow_mut().pop(), Some(-libc::ECANCELED));
        assert!(!ctx.cancel(id), "it has completed");
    }
    assert_eq!(dropped.get(), 2);
    // Cancelling one does not affect the others.
    let ids: Vec<_> = (0..10).map(|_| read(&ops, Request::new(&reader, &dropped)).unwrap()).collect();
    settle(&ctx);
    assert!(ctx.cancel(ids[4]));
    turn_until(&ctx, || ops.in_flight() == 9);
    drop(results.borrow_mut().drain(..));
    (0..9).for_each(|_| writer.write_all(b"x").unwrap());
    drop(writer.write_all(&[b'x'; 16 * 9]));
    turn_until(&ctx, || ops.in_flight() == 0);
    assert!(results.borrow().iter().all(|result| *result > 0));
}

pub(crate) fn cancel_is_too_late_for_what_has_completed(setup: &Setup) {
    let ctx = setup.context();
    let (dropped, results) = (Count::default(), Rc::new(RefCell::new(Vec::new())));
    let ops = ctx.operations({
        let results = Rc::clone(&results);
        move |_, result, _: Request| results.borrow_mut().push(result)
    });
    let ops = ops.unwrap();
    for _ in 0..50 {
        let (reader, mut writer) = pipe();
        let id = read(&ops, Request::new(&reader, &dropped)).unwrap();
        assert!(!look(&ctx));
        // The data is there when the cancellation comes; either may win, and there is exactly one
        // completion.
        writer.write_all(b"abc").unwrap();
        assert!(ctx.cancel(id));
        turn_until(&ctx, || ops.in_flight() == 0);
        let results = results.take();
        assert!(results == [3] || results == [-libc::ECANCELED], "{results:?}");
    }
    assert_eq!(dropped.get(), 50);
}

pub(crate) fn a_multishot_operation_completes_many_times(setup: &Setup) {
    let ctx = setup.context();
    let (reader, mut writer) = io::pipe().unwrap();
    let dropped = Rc::new(());
    let (many, last) = (Count::default(), Count::default());
    let poll = opcode::PollAdd::new(types::Fd(reader.as_raw_fd()), libc::POLLIN as u32).multi(true);
    let (on_many, on_last) = (many.clone(), last.clone());
    // SAFETY: points to nothing; the descriptor outlives the operation.
    let id = unsafe {
        ctx.submit_multishot(poll.build(), Rc::clone(&dropped), move |_, result, flags, held| {
            assert_eq!(Rc::strong_count(held), 2);
            if cqueue::more(flags) {
                assert!(result & i32::from(libc::POLLIN) != 0);
                on_many.bump();
            } else {
                assert_eq!(result, -libc::ECANCELED);
                on_last.bump();
            }
        })
    };
    let id = id.unwrap();
    for n in 1..=10 {
        writer.write_all(b"x").unwrap();
        turn_until(&ctx, || many.get() == n);
    }
    assert!(ctx.cancel(id));
    turn_until(&ctx, || last.get() == 1);
    assert_eq!(Rc::strong_count(&dropped), 1);
    assert!(!ctx.cancel(id));
}

pub(crate) fn a_nested_turn_runs_its_parents_completions(setup: &Setup) {
    const ALL: u64 = 10;
    let ctx = setup.context();
    let (calls, nested) = (Count::default(), Count::default());
    let ops = ctx.operations({
        let (calls, nested) = (calls.clone(), nested.clone());
        move |ctx, _, ()| {
            calls.bump();
            if calls.get() == 1 {
                assert!(turn(ctx));
                nested.add(calls.get());
            }
        }
    });
    let ops = ops.unwrap();
    (0..ALL).for_each(|_| _ = nop(&ops, ()));
    assert!(turn(&ctx));
    assert_eq!((nested.get(), calls.get()), (ALL, ALL));
    assert!(!look(&ctx));
}

pub(crate) fn nested_turns_from_a_completion(setup: &Setup) {
    let ctx = setup.context();
    let inner_done = Count::default();
    let inner = ctx.operations({
        let inner_done = inner_done.clone();
        move |_, _, ()| inner_done.bump()
    });
    let inner = inner.unwrap();
    let outer_done = Count::default();
    let notifier = setup.notifier();
    let rings = Count::default();
    let bell = ctx.add_notifier(&notifier, {
        let rings = rings.clone();
        move |_| rings.bump()
    });
    let _bell = bell.unwrap();
    let outer = ctx.operations({
        let (inner_done, outer_done, rings) = (inner_done.clone(), outer_done.clone(), rings.clone());
        move |ctx, _, n: u64| {
            nop(&inner, ());
            notifier.notify().unwrap();
            turn_until(ctx, || inner_done.get() == n && rings.get() >= n);
            outer_done.bump();
        }
    });
    let outer = outer.unwrap();
    for n in 1..=10 {
        nop(&outer, n);
        turn_until(&ctx, || outer_done.get() == n);
    }
}

pub(crate) fn in_a_storm_of_signals(setup: &Setup) {
    let ctx = setup.builder().ring_entries(4).build().unwrap();
    let (reader, mut writer) = pipe();
    let (dropped, bytes) = (Count::default(), Count::default());
    let ops = ctx.operations({
        let bytes = bytes.clone();
        move |_, result: i32, _: Request| match u64::try_from(result) {
            Ok(n) => bytes.add(n),
            // If a signal interrupts an operation, the submitter has to repeat it.
            Err(_) => assert!([libc::EINTR, libc::EAGAIN].contains(&-result), "{result}"),
        }
    });
    let ops = ops.unwrap();
    let _storm = SignalStorm::start();
    let mut requests = 0;
    for round in 1..=50 {
        writer.write_all(&[b'x'; 8 * 16]).unwrap();
        // Eight would be enough; an interrupted one is repeated.
        while bytes.get() < round * 8 * 16 {
            read(&ops, Request::new(&reader, &dropped)).unwrap();
            requests += 1;
            turn_until(&ctx, || ops.in_flight() == 0);
        }
        assert_eq!(dropped.get(), requests);
    }
}

pub(crate) fn other_threads_complete_them(setup: &Setup) {
    let ctx = setup.context();
    let (reader, mut writer) = pipe();
    let (dropped, bytes) = (Count::default(), Count::default());
    let slot = Slot::new();
    let ops = ctx.operations({
        let (slot, bytes) = (slot.clone(), bytes.clone());
        move |_, result, request: Request| {
            bytes.add(u64::try_from(result).unwrap());
            if bytes.get() < 100 {
                let next = Request::new(&request.reader, &request.dropped);
                slot.with(|ops| read(ops, next)).unwrap();
            }
        }
    });
    slot.put(ops.unwrap());
    slot.with(|ops| read(ops, Request::new(&reader, &dropped))).unwrap();
    let thread = std::thread::spawn(move || (0..100).for_each(|_| writer.write_all(b"x").unwrap()));
    turn_until(&ctx, || bytes.get() == 100);
    thread.join().unwrap();
    drop(slot.take());
}

pub(crate) fn a_ring_of_any_size_will_do(setup: &Setup) {
    for entries in [0, 1, 3, u32::MAX] {
        let ctx = setup.builder().ring_entries(entries).build().unwrap();
        let ops = ctx.operations(|_, _, ()| ()).unwrap();
        (0..10).for_each(|_| _ = nop(&ops, ()));
        turn_until(&ctx, || ops.in_flight() == 0);
    }
}

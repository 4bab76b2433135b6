//! Chains of operations, and the flags of single ones.
#![expect(unsafe_code, reason = "submits SQEs whose buffers the operation owns, on the heap")]

use crate::setup::Setup;
use crate::support::{Count, Slot, look, turn_until};
use aio::io_uring::{opcode, squeue, types};
use aio::{AioContext, Interest, Link, OperationId};
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// Reads a byte from one pipe, then writes it to another.
struct Relay {
    reader: PipeReader,
    writer: PipeWriter,
    byte: Box<[u8; 1]>,
}

/// The outer ends of the two pipes of a relay, and what it has returned.
struct Ends {
    writer: PipeWriter,
    reader: PipeReader,
    results: Slot<Vec<i32>>,
    ids: Vec<OperationId>,
}

fn relay(ctx: &AioContext, link: Link) -> Ends {
    let ((reader, writer), (end, out)) = (io::pipe().unwrap(), io::pipe().unwrap());
    let mut relay = Relay { reader, writer: out, byte: Box::new([0]) };
    let entries = [
        opcode::Read::new(types::Fd(relay.reader.as_raw_fd()), relay.byte.as_mut_ptr(), 1).build(),
        opcode::Write::new(types::Fd(relay.writer.as_raw_fd()), relay.byte.as_ptr(), 1).build(),
    ];
    let results = Slot::new();
    let done = results.clone();
    // SAFETY: the relay owns the pipes and the byte, on the heap.
    let ids = unsafe { ctx.submit_chain(entries, link, relay, move |_, results, _| done.put(results)) };
    Ends { writer, reader: end, results, ids: ids.unwrap() }
}

impl Ends {
    fn expect_no_byte(&self) {
        let mut fds = [libc::pollfd { fd: self.reader.as_raw_fd(), events: libc::POLLIN, revents: 0 }];
        // SAFETY: one live pollfd.
        assert_eq!(unsafe { libc::poll(fds.as_mut_ptr(), 1, 0) }, 0, "the second ran before the first");
    }

    fn finish(mut self, ctx: &AioContext) {
        self.expect_no_byte();
        self.writer.write_all(b"x").unwrap();
        assert_eq!(self.results(ctx), [1, 1]);
        let mut byte = [0];
        self.reader.read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"x");
    }

    fn results(&self, ctx: &AioContext) -> Vec<i32> {
        let mut found = None;
        turn_until(ctx, || {
            found = self.results.take();
            found.is_some()
        });
        found.unwrap()
    }
}

fn nop(ctx: &AioContext, done: &Count) {
    let done = done.clone();
    // SAFETY: points to nothing.
    unsafe { ctx.submit(opcode::Nop::new().build(), (), move |_, _, ()| done.bump()) }.unwrap();
}

/// In front of it, as many operations as leave room for a part of it.
pub(crate) fn a_chain_is_never_split(setup: &Setup) {
    for in_front in 0..=8 {
        let ctx = setup.builder().ring_entries(8).build().unwrap();
        let done = Count::default();
        (0..in_front).for_each(|_| nop(&ctx, &done));
        let ends = relay(&ctx, Link::IfSuccessful);
        turn_until(&ctx, || done.get() == in_front);
        (0..3).for_each(|_| _ = look(&ctx));
        ends.finish(&ctx);
    }
}

pub(crate) fn many_chains_behind_a_full_queue(setup: &Setup) {
    let ctx = setup.builder().ring_entries(4).build().unwrap();
    let done = Count::default();
    let relays: Vec<_> = (0..20)
        .map(|n| {
            (0..n % 4).for_each(|_| nop(&ctx, &done));
            relay(&ctx, if n % 2 == 0 { Link::IfSuccessful } else { Link::Always })
        })
        .collect();
    (0..5).for_each(|_| _ = look(&ctx));
    relays.into_iter().rev().for_each(|ends| ends.finish(&ctx));
    assert_eq!(done.get(), 30);
}

pub(crate) fn a_chain_ends_where_it_fails(setup: &Setup) {
    let ctx = setup.context();
    for (link, rest) in [(Link::IfSuccessful, -libc::ECANCELED), (Link::Always, 0)] {
        let results = Slot::new();
        let done = results.clone();
        let nop = || opcode::Nop::new().build();
        let failing = opcode::Close::new(types::Fd(-1)).build();
        let all = [nop(), failing, nop(), nop()];
        // SAFETY: they point to nothing.
        unsafe { ctx.submit_chain(all, link, (), move |_, results, ()| done.put(results)) }.unwrap();
        let mut found = None;
        turn_until(&ctx, || {
            found = results.take();
            found.is_some()
        });
        assert_eq!(found.unwrap(), [0, -libc::EBADF, rest, rest], "{link:?}");
    }
}

pub(crate) fn cancel_ends_a_chain(setup: &Setup) {
    let ctx = setup.context();
    let ends = relay(&ctx, Link::IfSuccessful);
    (0..3).for_each(|_| _ = look(&ctx));
    assert_eq!(ends.ids.len(), 2);
    assert!(ctx.cancel(ends.ids[0]));
    assert_eq!(ends.results(&ctx), [-libc::ECANCELED; 2]);
    assert!(!ctx.cancel(ends.ids[1]));
}

/// A descriptor that is registered after the chain is no part of it.
pub(crate) fn the_loop_works_while_a_chain_waits(setup: &Setup) {
    let (ctx, bell, calls) = (setup.context(), setup.notifier(), Count::default());
    let ends = [relay(&ctx, Link::IfSuccessful), relay(&ctx, Link::Always)];
    let (mut peer, ours) = UnixStream::pair().unwrap();
    let (on_fd, on_bell) = (calls.clone(), calls.clone());
    let reader = ours.try_clone().unwrap();
    let fd = ctx.add_borrowed_fd(&ours, Interest::READABLE, move |_, _| {
        on_fd.add((&reader).read(&mut [0; 8]).unwrap() as u64);
    });
    let rung = ctx.add_notifier(&bell, move |_| on_bell.add(10));
    for n in 1..=3 {
        peer.write_all(b"x").unwrap();
        turn_until(&ctx, || calls.get() % 10 == n);
        let before = calls.get();
        bell.notify().unwrap();
        turn_until(&ctx, || calls.get() > before);
    }
    drop((fd, rung));
    ends.into_iter().for_each(|ends| ends.finish(&ctx));
}

pub(crate) fn a_chain_that_does_not_fit_is_refused(setup: &Setup) {
    let ctx = setup.builder().ring_entries(4).build().unwrap();
    let held = Rc::new(());
    for (len, why) in [(0, "without operations"), (5, "a ring of 4 entries")] {
        let entries = (0..len).map(|_| opcode::Nop::new().build());
        // SAFETY: they point to nothing.
        let refused = unsafe { ctx.submit_chain(entries, Link::Always, Rc::clone(&held), |_, _, _| ()) };
        let error = refused.unwrap_err().error;
        assert!(error.kind() == io::ErrorKind::InvalidInput && error.to_string().contains(why), "{error}");
    }
    assert_eq!(Rc::strong_count(&held), 1);
    relay(&ctx, Link::IfSuccessful).finish(&ctx);
}

pub(crate) fn flags_that_reach_further_are_refused(setup: &Setup) {
    use squeue::Flags;
    let ctx = setup.context();
    let held = Rc::new(());
    let operations = ctx.operations(|_, _, _: Rc<()>| ()).unwrap();
    for (flag, why) in [
        (Flags::IO_LINK, "submit_chain"),
        (Flags::IO_HARDLINK, "submit_chain"),
        (Flags::IO_DRAIN, "IO_DRAIN would wait"),
        (Flags::SKIP_SUCCESS, "kept for ever"),
    ] {
        let entry = || opcode::Nop::new().build().flags(flag | Flags::ASYNC);
        // SAFETY: they point to nothing, here and below.
        let once = unsafe { ctx.submit(entry(), Rc::clone(&held), |_, _, _| ()) };
        // SAFETY: see above.
        let many = unsafe { ctx.submit_multishot(entry(), Rc::clone(&held), |_, _, _, _| ()) };
        // SAFETY: see above.
        let shared = unsafe { operations.submit(entry(), Rc::clone(&held)) };
        // SAFETY: see above.
        let chain = unsafe { ctx.submit_chain([entry()], Link::Always, Rc::clone(&held), |_, _, _| ()) };
        for error in [once.unwrap_err(), many.unwrap_err(), shared.unwrap_err(), chain.unwrap_err()] {
            let error = error.error;
            assert!(
                error.kind() == io::ErrorKind::InvalidInput && error.to_string().contains(why),
                "{error}"
            );
        }
        assert_eq!(Rc::strong_count(&held), 1);
    }
    // Flags of the operation alone are its own affair.
    let done = Count::default();
    let bump = done.clone();
    let entry = opcode::Nop::new().build().flags(Flags::ASYNC);
    // SAFETY: see above.
    unsafe { ctx.submit(entry, (), move |_, result, ()| bump.add(u64::from(result == 0))) }.unwrap();
    turn_until(&ctx, || done.get() == 1);
}

pub(crate) fn a_dropped_context_ends_a_chain(setup: &Setup) {
    for turns in 0..3 {
        let ctx = setup.builder().ring_entries(2).build().unwrap();
        let ends = [relay(&ctx, Link::IfSuccessful), relay(&ctx, Link::Always)];
        (0..turns).for_each(|_| _ = look(&ctx));
        let start = Instant::now();
        drop(ctx);
        assert!(start.elapsed() < Duration::from_secs(5), "waited for operations that do not end");
        for (mut ends, most) in ends.into_iter().zip([0, 1]) {
            // The relay was dropped, with its ends of the pipes. The second operation of a hard
            // link may have run after the first was cancelled.
            let mut bytes = Vec::new();
            assert!(ends.reader.read_to_end(&mut bytes).unwrap() <= most);
            assert!(ends.results.take().is_none());
        }
    }
}

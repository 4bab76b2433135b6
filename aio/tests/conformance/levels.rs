//! Level semantics of fd handlers on every monitor: a condition is reported again as long as it
//! holds.

use crate::setup::Setup;
use crate::support::{Count, SPIN, Slot, look, settle, turn, turn_until, turns_of_an_idle_loop};
use aio::{AioContext, Interest, Readiness, Registration};
use std::cell::{Cell, RefCell};
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::rc::Rc;

fn pair() -> (UnixStream, UnixStream) {
    let (a, b) = UnixStream::pair().unwrap();
    a.set_nonblocking(true).unwrap();
    b.set_nonblocking(true).unwrap();
    (a, b)
}

/// A handler that records how often it was called and with which events.
fn noted(ctx: &AioContext, fd: &impl AsFd, interest: Interest) -> (Registration, Count, Slot<Readiness>) {
    let (calls, last) = (Count::default(), Slot::new());
    let registration = ctx.add_borrowed_fd(fd, interest, {
        let (calls, last) = (calls.clone(), last.clone());
        move |_, ready| {
            calls.bump();
            last.put(ready);
        }
    });
    (registration.unwrap(), calls, last)
}

pub(crate) fn an_undrained_handler_is_called_every_turn(setup: &Setup) {
    let ctx = setup.context();
    let (mut ours, theirs) = pair();
    let (_on, calls, _) = noted(&ctx, &theirs, Interest::READABLE);
    ours.write_all(b"x").unwrap();
    for n in 1..=10 {
        assert!(turn(&ctx));
        assert_eq!(calls.get(), n);
    }
    for n in 11..=20 {
        assert!(look(&ctx));
        assert_eq!(calls.get(), n);
    }
}

pub(crate) fn a_drained_handler_is_not_called_again(setup: &Setup) {
    let ctx = setup.context();
    let (mut ours, theirs) = pair();
    let (_on, calls, _) = noted(&ctx, &theirs, Interest::READABLE);
    for n in 1..=10 {
        ours.write_all(b"x").unwrap();
        assert!(turn(&ctx));
        assert_eq!((&theirs).read(&mut [0; 8]).unwrap(), 1);
        assert!(!look(&ctx));
        assert_eq!(calls.get(), n);
    }
}

pub(crate) fn data_that_came_before_add_counts(setup: &Setup) {
    let ctx = setup.context();
    let (mut reader, mut writer) = io::pipe().unwrap();
    writer.write_all(b"x").unwrap();
    let (_on, calls, last) = noted(&ctx, &reader, Interest::READABLE);
    assert!(turn(&ctx));
    assert_eq!(calls.get(), 1);
    let ready = last.take().unwrap();
    assert!(ready.is_readable() && !ready.is_writable() && !ready.is_hang_up() && !ready.is_error());
    assert_eq!(reader.read(&mut [0; 8]).unwrap(), 1);
    assert!(!look(&ctx));
}

pub(crate) fn a_writable_socket_is_ready_every_turn(setup: &Setup) {
    let ctx = setup.context();
    let (mut ours, _theirs) = pair();
    let (_on, calls, last) = noted(&ctx, &ours, Interest::WRITABLE);
    for n in 1..=5 {
        assert!(turn(&ctx));
        assert_eq!(calls.get(), n);
    }
    let ready = last.take().unwrap();
    assert!(ready.is_writable() && !ready.is_readable());
    while ours.write(&[0; 4096]).is_ok() {}
    settle_level(&ctx, &calls);
    let full = calls.get();
    assert!(!look(&ctx));
    assert_eq!(calls.get(), full, "called although there was no room");
}

/// One report from before the condition was cleared may still be pending.
fn settle_level(ctx: &AioContext, calls: &Count) {
    let before = calls.get();
    look(ctx);
    assert!(calls.get() <= before + 1);
}

pub(crate) fn readable_and_writable_come_in_one_call(setup: &Setup) {
    let ctx = setup.context();
    let (mut ours, theirs) = pair();
    ours.write_all(b"x").unwrap();
    let (_on, calls, last) = noted(&ctx, &theirs, Interest::READABLE | Interest::WRITABLE);
    assert!(turn(&ctx));
    assert_eq!(calls.get(), 1);
    let ready = last.take().unwrap();
    assert!(ready.is_readable() && ready.is_writable() && !ready.is_error());
}

pub(crate) fn the_end_of_a_stream_is_a_hang_up(setup: &Setup) {
    let ctx = setup.context();
    let (reader, writer) = io::pipe().unwrap();
    let (_on, calls, last) = noted(&ctx, &reader, Interest::READABLE);
    assert!(!look(&ctx));
    drop(writer);
    for n in 1..=3 {
        assert!(turn(&ctx));
        assert_eq!(calls.get(), n, "must be reported in every turn");
        let ready = last.take().unwrap();
        assert!(ready.is_hang_up() && ready.is_readable() && !ready.is_error());
    }
}

pub(crate) fn a_closed_reader_is_an_error(setup: &Setup) {
    let ctx = setup.context();
    let (reader, writer) = io::pipe().unwrap();
    let (_on, calls, last) = noted(&ctx, &writer, Interest::NONE);
    assert!(!look(&ctx));
    drop(reader);
    for n in 1..=3 {
        assert!(turn(&ctx));
        assert_eq!(calls.get(), n);
        let ready = last.take().unwrap();
        assert!(ready.is_error() && ready.is_writable());
    }
}

pub(crate) fn interest_none_is_silent_but_hears_the_hang_up(setup: &Setup) {
    let ctx = setup.context();
    let (mut ours, theirs) = pair();
    let (_on, calls, last) = noted(&ctx, &theirs, Interest::NONE);
    ours.write_all(b"x").unwrap();
    for _ in 0..5 {
        assert!(!look(&ctx));
    }
    drop(ours);
    assert!(turn(&ctx));
    assert_eq!(calls.get(), 1);
    assert!(last.take().unwrap().is_hang_up());
}

pub(crate) fn interest_can_be_taken_back_and_given_again(setup: &Setup) {
    let ctx = setup.context();
    let (mut ours, theirs) = pair();
    let (on, calls, last) = noted(&ctx, &theirs, Interest::READABLE);
    ours.write_all(b"x").unwrap();
    assert!(turn(&ctx));
    for n in 1..=5 {
        on.set_interest(Interest::NONE).unwrap();
        for _ in 0..3 {
            assert!(!look(&ctx));
        }
        assert_eq!(calls.get(), 2 * n - 1);
        on.set_interest(Interest::READABLE).unwrap();
        turn_until(&ctx, || calls.get() == 2 * n);
        on.set_interest(Interest::WRITABLE).unwrap();
        turn_until(&ctx, || calls.get() == 2 * n + 1);
        assert!(last.take().unwrap().is_writable());
    }
}

pub(crate) fn interest_is_in_force_in_the_next_turn(setup: &Setup) {
    let ctx = setup.context();
    let (mut ours, theirs) = pair();
    let (on, calls, last) = noted(&ctx, &theirs, Interest::NONE);
    ours.write_all(b"x").unwrap();
    settle(&ctx);
    on.set_interest(Interest::READABLE).unwrap();
    assert!(turn(&ctx), "one turn must suffice, without sleeping");
    assert_eq!(calls.get(), 1);
    // The interest is changed several times before the turn; the last change applies.
    on.set_interest(Interest::NONE).unwrap();
    on.set_interest(Interest::READABLE).unwrap();
    on.set_interest(Interest::WRITABLE).unwrap();
    assert!(turn(&ctx));
    let ready = last.take().unwrap();
    assert!(ready.is_writable() && !ready.is_readable());
    on.set_interest(Interest::NONE).unwrap();
    assert!(!look(&ctx));
    on.set_interest(Interest::READABLE).unwrap();
    assert!(look(&ctx), "must also work in a turn that does not sleep");
}

pub(crate) fn interest_changes_in_the_callback(setup: &Setup) {
    let ctx = setup.context();
    let (mut ours, theirs) = pair();
    let (slot, seen) = (Slot::<Registration>::new(), Rc::new(RefCell::new(Vec::new())));
    let on = ctx.add_borrowed_fd(&theirs, Interest::READABLE, {
        let (slot, seen) = (slot.clone(), Rc::clone(&seen));
        move |_, ready| {
            seen.borrow_mut().push((ready.is_readable(), ready.is_writable()));
            let next = if ready.is_readable() { Interest::WRITABLE } else { Interest::READABLE };
            slot.with(|on| on.set_interest(next).unwrap());
        }
    });
    slot.put(on.unwrap());
    ours.write_all(b"x").unwrap();
    for _ in 0..4 {
        assert!(turn(&ctx));
    }
    let expected = [(true, false), (false, true), (true, false), (false, true)];
    assert_eq!(*seen.borrow(), expected);
    drop(slot.take());
}

pub(crate) fn interest_masks_what_was_collected(setup: &Setup) {
    let ctx = setup.context();
    let streams = [pair(), pair()];
    let calls = Count::default();
    let slots: [Slot<Registration>; 2] = [Slot::new(), Slot::new()];
    for (own, other) in [(0, 1), (1, 0)] {
        let (calls, other) = (calls.clone(), slots[other].clone());
        let on = ctx.add_borrowed_fd(&streams[own].1, Interest::READABLE, move |_, _| {
            calls.bump();
            other.with(|other| other.set_interest(Interest::NONE).unwrap());
        });
        slots[own].put(on.unwrap());
    }
    for (ours, _) in &streams {
        (&mut &*ours).write_all(b"x").unwrap();
    }
    assert!(turn(&ctx));
    assert_eq!(calls.get(), 1, "both were ready, but the first must have silenced the other");
    slots.iter().for_each(|slot| drop(slot.take()));
}

pub(crate) fn set_interest_is_for_live_fd_handlers(setup: &Setup) {
    let ctx = setup.context();
    let notifier = setup.notifier();
    let bell = ctx.add_notifier(&notifier, |_| ()).unwrap();
    let e = bell.set_interest(Interest::NONE).unwrap_err();
    assert_eq!(e.kind(), io::ErrorKind::InvalidInput);
    let (ours, _theirs) = pair();
    let (on, ..) = noted(&ctx, &ours, Interest::READABLE);
    assert!(ctx.remove(on.id()));
    let e = on.set_interest(Interest::NONE).unwrap_err();
    assert_eq!(e.kind(), io::ErrorKind::NotFound);
}

pub(crate) fn a_half_closed_peer_does_not_spin(setup: &Setup) {
    let ctx = setup.context();
    let (ours, theirs) = pair();
    let (on, calls, _) = noted(&ctx, &theirs, Interest::NONE);
    ours.shutdown(Shutdown::Write).unwrap();
    for full in [false, true] {
        if full {
            while (&theirs).write(&[0; 4096]).is_ok() {}
            on.set_interest(Interest::WRITABLE).unwrap();
        }
        settle(&ctx);
        let turns = turns_of_an_idle_loop(&ctx);
        assert!(turns < SPIN, "{turns} turns with nothing to do");
        assert_eq!(calls.get(), 0);
    }
}

pub(crate) fn a_half_closed_peer_leaves_the_other_half_working(setup: &Setup) {
    let ctx = setup.context();
    let (ours, theirs) = pair();
    while (&theirs).write(&[0; 4096]).is_ok() {}
    let (on, calls, last) = noted(&ctx, &theirs, Interest::WRITABLE);
    ours.shutdown(Shutdown::Write).unwrap();
    settle(&ctx);
    assert_eq!(calls.get(), 0);
    // Now there is room: ready in every turn, until there is none.
    while (&ours).read(&mut [0; 4096]).is_ok() {}
    let mut expected = 0;
    for _ in 0..3 {
        expected += 3;
        turn_until(&ctx, || calls.get() >= expected);
        assert!(last.take().unwrap().is_writable());
        while (&theirs).write(&[0; 4096]).is_ok() {}
        settle(&ctx);
        expected = calls.get();
        assert!(!look(&ctx));
        assert_eq!(calls.get(), expected);
        while (&ours).read(&mut [0; 4096]).is_ok() {}
    }
    // The end of the stream is reported once the handler asks for it.
    on.set_interest(Interest::READABLE).unwrap();
    last.take();
    turn_until(&ctx, || last.take().is_some_and(|ready| ready.is_readable()));
}

/// A megabyte through a socket, with both ends as handlers of one loop. Each call transfers as much
/// as the socket accepts or returns.
pub(crate) fn a_stream_arrives_whole(setup: &Setup) {
    stream_a_megabyte(setup);
}

pub(crate) fn stream_a_megabyte(setup: &Setup) {
    const LEN: usize = 1 << 20;
    let byte = |at: usize| (at % 251) as u8;
    let ctx = setup.context();
    let (ours, theirs) = pair();
    let (sent, received) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
    let ended = Count::default();
    let (sender, slot) = (ours.try_clone().unwrap(), Slot::<Registration>::new());
    let writing = ctx.add_borrowed_fd(&ours, Interest::WRITABLE, {
        let (sent, slot) = (Rc::clone(&sent), slot.clone());
        move |_, ready| {
            assert!(ready.is_writable());
            let chunk: Vec<u8> = (sent.get()..LEN.min(sent.get() + 10_000)).map(byte).collect();
            match (&sender).write(&chunk) {
                Ok(n) => sent.set(sent.get() + n),
                Err(e) => assert_eq!(e.kind(), io::ErrorKind::WouldBlock),
            }
            if sent.get() == LEN {
                sender.shutdown(Shutdown::Write).unwrap();
                drop(slot.take());
            }
        }
    });
    slot.put(writing.unwrap());
    let receiver = theirs.try_clone().unwrap();
    let _reading = ctx.add_borrowed_fd(&theirs, Interest::READABLE, {
        let (received, ended) = (Rc::clone(&received), ended.clone());
        move |_, ready| {
            assert!(ready.is_readable());
            let mut chunk = [0; 7_000];
            match (&receiver).read(&mut chunk) {
                Ok(0) => ended.bump(),
                Ok(n) => {
                    let at = received.replace(received.get() + n);
                    assert!((at..).map(byte).zip(&chunk[..n]).all(|(a, b)| a == *b));
                }
                Err(e) => assert_eq!(e.kind(), io::ErrorKind::WouldBlock),
            }
        }
    });
    turn_until(&ctx, || ended.get() != 0);
    assert_eq!((sent.get(), received.get()), (LEN, LEN));
}

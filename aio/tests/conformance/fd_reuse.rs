//! Descriptor numbers are reused. Neither a reused number nor a file that stays open elsewhere may
//! cause an event for the wrong handler.
//!
//! Numbers that a test closes are private ones (see `support::os`), because tests in other threads
//! open files at the same time.

use crate::setup::Setup;
use crate::support::{Count, SPIN, Slot, look, os, settle, turn, turn_until, turns_of_an_idle_loop};
use aio::{Interest, Registration};
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::rc::Rc;

fn readable_pipe() -> (PipeReader, PipeWriter) {
    let (reader, mut writer) = io::pipe().unwrap();
    writer.write_all(b"x").unwrap();
    (reader, writer)
}

pub(crate) fn a_number_reused_in_a_callback_does_not_reach_the_old_handler(setup: &Setup) {
    let ctx = setup.context();
    let (first, second) = (readable_pipe(), readable_pipe());
    let number = Rc::new(os::under_a_private_number(&first.0));
    // Called in the turn that has collected `number` too: removes its handler, and closes and opens
    // the number.
    let slot = Slot::<Registration>::new();
    let calls = Count::default();
    ctx.defer({
        let (slot, number) = (slot.clone(), Rc::clone(&number));
        move |_| {
            drop(slot.take());
            os::reopen_as(&number, &second.0);
        }
    });
    let on = ctx.add_borrowed_fd(&*number, Interest::READABLE, {
        let calls = calls.clone();
        move |_, _| calls.bump()
    });
    slot.put(on.unwrap());
    assert!(turn(&ctx));
    for _ in 0..5 {
        assert!(!look(&ctx));
    }
    assert_eq!(calls.get(), 0);
}

pub(crate) fn a_number_reused_under_a_new_registration_reaches_only_that(setup: &Setup) {
    let ctx = setup.context();
    let ready = readable_pipe();
    let (silent, mut silent_writer) = io::pipe().unwrap();
    let number = Rc::new(os::under_a_private_number(&ready.0));
    let (old, new, slot) = (Count::default(), Count::default(), Slot::<Registration>::new());
    // Closed and opened again without telling the loop, then registered: the old handler is
    // replaced, and what was collected for it does not reach the new one, whose file has no event.
    let on = ctx.add_borrowed_fd(&*number, Interest::READABLE, {
        let (number, old, new, slot) = (Rc::clone(&number), old.clone(), new.clone(), slot.clone());
        let silent = silent.as_fd().try_clone_to_owned().unwrap();
        move |ctx, _| {
            old.bump();
            os::reopen_as(&number, &silent);
            let new = new.clone();
            let on = ctx.add_borrowed_fd(&*number, Interest::READABLE, move |_, _| new.bump());
            slot.put(on.unwrap());
        }
    });
    let on = on.unwrap();
    assert!(turn(&ctx));
    for _ in 0..5 {
        assert!(!look(&ctx));
    }
    assert_eq!((old.get(), new.get()), (1, 0));
    assert!(!on.is_live());
    silent_writer.write_all(b"x").unwrap();
    turn_until(&ctx, || new.get() == 1);
    drop(on);
    turn_until(&ctx, || new.get() == 2);
    assert_eq!(old.get(), 1);
    drop(slot.take());
}

pub(crate) fn a_copy_that_outlives_the_handler_does_not_spin(setup: &Setup) {
    let ctx = setup.context();
    let (reader, _writer) = readable_pipe();
    let number = os::under_a_private_number(&reader);
    let calls = Count::default();
    let on = ctx.add_borrowed_fd(&number, Interest::READABLE, {
        let calls = calls.clone();
        move |_, _| calls.bump()
    });
    turn_until(&ctx, || calls.get() > 0);
    // Closed before the handler is removed, against the advice; `reader` keeps the file open, and
    // readable.
    drop(number);
    drop(on);
    let before = calls.get();
    let turns = turns_of_an_idle_loop(&ctx);
    assert!(turns < SPIN, "{turns} turns with nothing to do");
    assert_eq!(calls.get(), before);
}

pub(crate) fn a_copy_that_outlives_the_number_does_not_starve_the_others(setup: &Setup) {
    let ctx = setup.context();
    let (reader, _writer) = readable_pipe();
    let (other, mut other_writer) = io::pipe().unwrap();
    let (calls, rings) = (Count::default(), Count::default());
    let notifier = setup.notifier();
    let bell = ctx.add_notifier(&notifier, {
        let rings = rings.clone();
        move |_| rings.bump()
    });
    let _bell = bell.unwrap();
    let on = ctx.add_borrowed_fd(&other, Interest::READABLE, {
        let calls = calls.clone();
        move |_, _| calls.bump()
    });
    let _on = on.unwrap();
    for round in 1..=3 {
        let number = os::under_a_private_number(&reader);
        let gone = ctx.add_borrowed_fd(&number, Interest::READABLE, |_, _| ()).unwrap();
        turn(&ctx);
        drop(number);
        drop(gone);
        settle(&ctx);
        notifier.notify().unwrap();
        turn_until(&ctx, || rings.get() >= round);
        let before = calls.get();
        other_writer.write_all(b"x").unwrap();
        turn_until(&ctx, || calls.get() >= before + 3);
        (&other).read_exact(&mut [0]).unwrap();
    }
}

pub(crate) fn the_same_file_again_under_the_same_number(setup: &Setup) {
    let ctx = setup.context();
    let (reader, _writer) = readable_pipe();
    let (other, _other_writer) = io::pipe().unwrap();
    let number = os::under_a_private_number(&reader);
    for round in 0..3 {
        let calls = Count::default();
        let on = ctx.add_borrowed_fd(&number, Interest::READABLE, {
            let calls = calls.clone();
            move |_, _| calls.bump()
        });
        for n in 1..=3 {
            assert!(turn(&ctx), "round {round}");
            assert_eq!(calls.get(), n, "round {round}");
        }
        // Removed while the number means another file, so the epoll set cannot be updated; then it
        // is changed back to the first file.
        os::reopen_as(&number, &other);
        drop(on.unwrap());
        os::reopen_as(&number, &reader);
    }
    settle(&ctx);
    let turns = turns_of_an_idle_loop(&ctx);
    assert!(turns < SPIN, "{turns} turns with nothing to do");
}

pub(crate) fn two_numbers_of_one_file_are_two_handlers(setup: &Setup) {
    let ctx = setup.context();
    let (reader, _writer) = readable_pipe();
    let copy: OwnedFd = reader.as_fd().try_clone_to_owned().unwrap();
    assert_ne!(copy.as_raw_fd(), reader.as_raw_fd());
    let calls = [Count::default(), Count::default()];
    let (a, b) = (calls[0].clone(), calls[1].clone());
    let first = ctx.add_borrowed_fd(&reader, Interest::READABLE, move |_, _| a.bump()).unwrap();
    let second = ctx.add_borrowed_fd(&copy, Interest::READABLE, move |_, _| b.bump()).unwrap();
    assert!(turn(&ctx));
    assert_eq!((calls[0].get(), calls[1].get()), (1, 1));
    drop(first);
    assert!(turn(&ctx));
    assert_eq!((calls[0].get(), calls[1].get()), (1, 2));
    drop(second);
}

pub(crate) fn slots_are_reused_without_confusion(setup: &Setup) {
    let ctx = setup.context();
    let pipes: Vec<_> = (0..20).map(|_| readable_pipe()).collect();
    let calls: Vec<_> = (0..20).map(|_| Count::default()).collect();
    let add = |i: usize| {
        let calls = calls[i].clone();
        ctx.add_borrowed_fd(&pipes[i].0, Interest::READABLE, move |_, _| calls.bump()).unwrap()
    };
    let mut live: Vec<Option<Registration>> = (0..20).map(|i| Some(add(i))).collect();
    for round in 0..200usize {
        let before: Vec<_> = calls.iter().map(Count::get).collect();
        // A third of them is removed or added in each round, while the kernel still has what was
        // armed before.
        for i in (0..20).filter(|i| (i + round) % 3 == 0) {
            live[i] = if live[i].take().is_some() { None } else { Some(add(i)) };
        }
        look(&ctx);
        for i in 0..20 {
            let expected = before[i] + u64::from(live[i].is_some());
            assert_eq!(calls[i].get(), expected, "handler {i} in round {round}");
        }
    }
}

pub(crate) fn a_late_event_does_not_reach_the_next_in_the_slot(setup: &Setup) {
    let ctx = setup.context();
    let (silent, mut silent_writer) = io::pipe().unwrap();
    for closed_first in [false, true] {
        let (reader, mut writer) = io::pipe().unwrap();
        let number = os::under_a_private_number(&reader);
        let old = ctx.add_borrowed_fd(&number, Interest::READABLE, |_, _| unreachable!("removed"));
        settle(&ctx);
        // The kernel has seen the write, the loop has not; if the number is closed first, an epoll
        // set keeps the file.
        writer.write_all(b"x").unwrap();
        let kept = (!closed_first).then_some(number);
        drop(old.unwrap());
        let calls = Count::default();
        let new = ctx.add_borrowed_fd(&silent, Interest::READABLE, {
            let calls = calls.clone();
            move |_, _| calls.bump()
        });
        for _ in 0..5 {
            assert!(!look(&ctx));
        }
        assert_eq!(calls.get(), 0);
        silent_writer.write_all(b"x").unwrap();
        turn_until(&ctx, || calls.get() == 1);
        drop(new.unwrap());
        (&silent).read_exact(&mut [0]).unwrap();
        drop(kept);
    }
}

pub(crate) fn a_descriptor_closed_under_its_handler_does_not_spin(setup: &Setup) {
    let ctx = setup.context();
    let (reader, _writer) = readable_pipe();
    let number = os::under_a_private_number(&reader);
    let again = number.as_raw_fd();
    let on = ctx.add_borrowed_fd(&number, Interest::READABLE, |_, _| ()).unwrap();
    turn(&ctx);
    // No copy is left. A monitor may report this once (as an error), or never; afterwards there are
    // no more events.
    drop((number, reader));
    settle(&ctx);
    let turns = turns_of_an_idle_loop(&ctx);
    assert!(turns < SPIN, "{turns} turns with nothing to do");
    // The number can be used for another file.
    let (other, _other_writer) = readable_pipe();
    let calls = Count::default();
    let number = os::under_this_number(&other, again);
    let new = ctx.add_borrowed_fd(&number, Interest::READABLE, {
        let calls = calls.clone();
        move |_, ready| {
            assert!(ready.is_readable() && !ready.is_error());
            calls.bump();
        }
    });
    assert_eq!(on.is_live(), number.as_raw_fd() != again);
    drop(on);
    turn_until(&ctx, || calls.get() == 3);
    drop(new.unwrap());
}

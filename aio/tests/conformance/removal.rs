//! Removing and replacing handlers: at any time and from any callback. A removed handler is never
//! called again.

use crate::setup::Setup;
use crate::support::{Count, Slot, look, settle, turn, turn_until};
use aio::{AioContext, Interest, NotifierRegistration, Registration};
use std::cell::RefCell;
use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::rc::Rc;

fn readable_stream() -> (UnixStream, UnixStream) {
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    ours.write_all(b"x").unwrap();
    (ours, theirs)
}

pub(crate) fn a_dropped_handler_is_not_called(setup: &Setup) {
    let ctx = setup.context();
    let (_ours, theirs) = readable_stream();
    let notifier = setup.notifier();
    for turned in [false, true] {
        let calls = Count::default();
        let (on_fd, on_bell) = (calls.clone(), calls.clone());
        let stream = ctx.add_borrowed_fd(&theirs, Interest::READABLE, move |_, _| on_fd.bump());
        let bell = ctx.add_notifier(&notifier, move |_| on_bell.bump());
        if turned {
            // Armed in the kernel, and called once.
            turn_until(&ctx, || calls.get() != 0);
        }
        let before = calls.get();
        notifier.notify().unwrap();
        drop((stream, bell));
        for _ in 0..5 {
            assert!(!look(&ctx));
        }
        assert_eq!(calls.get(), before);
    }
}

pub(crate) fn a_removed_handler_leaves_the_kernel(setup: &Setup) {
    let ctx = setup.context();
    for rung in [false, true] {
        let notifier = setup.notifier();
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let bell = ctx.add_notifier(&notifier, |_| ()).unwrap();
        let on = ctx.add_borrowed_fd(&theirs, Interest::READABLE, |_, _| ()).unwrap();
        settle(&ctx);
        // Removed while the kernel holds a wake-up that the loop has not seen.
        if rung {
            notifier.notify().unwrap();
            ours.write_all(b"x").unwrap();
        }
        drop((bell, on));
        settle(&ctx);
        let before = ctx.stats().stale;
        for _ in 0..5 {
            notifier.notify().unwrap();
            ours.write_all(b"x").unwrap();
            assert!(!look(&ctx));
        }
        assert_eq!(ctx.stats().stale, before, "a removed handler must not be reported any more");
    }
}

pub(crate) fn one_handler_removes_the_other_while_both_are_ready(setup: &Setup) {
    let ctx = setup.context();
    let streams = [readable_stream(), readable_stream()];
    let calls = Count::default();
    let slots: [Slot<Registration>; 2] = [Slot::new(), Slot::new()];
    for (own, other) in [(0, 1), (1, 0)] {
        let (calls, other) = (calls.clone(), slots[other].clone());
        let on = ctx.add_borrowed_fd(&streams[own].1, Interest::READABLE, move |_, _| {
            calls.bump();
            drop(other.take());
        });
        slots[own].put(on.unwrap());
    }
    assert!(turn(&ctx));
    assert_eq!(calls.get(), 1);
    assert!(ctx.stats().stale > 0, "the event collected for the other handler must be dropped and counted");
    slots.iter().for_each(|slot| drop(slot.take()));

    // The same with doorbells.
    let notifiers = [setup.notifier(), setup.notifier()];
    let calls = Count::default();
    let slots: [Slot<NotifierRegistration>; 2] = [Slot::new(), Slot::new()];
    for (own, other) in [(0, 1), (1, 0)] {
        let (calls, other) = (calls.clone(), slots[other].clone());
        let bell = ctx.add_notifier(&notifiers[own], move |_| {
            calls.bump();
            drop(other.take());
        });
        slots[own].put(bell.unwrap());
        notifiers[own].notify().unwrap();
    }
    turn_until(&ctx, || calls.get() != 0);
    settle(&ctx);
    assert_eq!(calls.get(), 1);
    slots.iter().for_each(|slot| drop(slot.take()));
}

pub(crate) fn a_handler_removes_itself(setup: &Setup) {
    let ctx = setup.context();
    let (_ours, theirs) = readable_stream();
    let (slot, calls) = (Slot::<Registration>::new(), Count::default());
    let on = ctx.add_borrowed_fd(&theirs, Interest::READABLE, {
        let (slot, calls) = (slot.clone(), calls.clone());
        move |_, _| {
            let own = slot.take().expect("called once");
            assert!(own.is_live());
            drop(own);
            calls.bump();
        }
    });
    slot.put(on.unwrap());
    assert!(turn(&ctx));
    for _ in 0..5 {
        assert!(!look(&ctx));
    }
    assert_eq!(calls.get(), 1);
}

pub(crate) fn a_handler_removes_itself_and_turns(setup: &Setup) {
    let ctx = setup.context();
    let (_ours, theirs) = readable_stream();
    let (slot, calls) = (Slot::<Registration>::new(), Count::default());
    let on = ctx.add_borrowed_fd(&theirs, Interest::READABLE, {
        let (slot, calls) = (slot.clone(), calls.clone());
        move |ctx, _| {
            calls.bump();
            drop(slot.take());
            for _ in 0..3 {
                assert!(!look(ctx), "there is no handler left to call");
            }
        }
    });
    slot.put(on.unwrap());
    assert!(turn(&ctx));
    assert!(!look(&ctx));
    assert_eq!(calls.get(), 1);
}

pub(crate) fn a_nested_turn_removes_its_parents_handlers(setup: &Setup) {
    const ALL: usize = 8;
    let ctx = setup.context();
    let streams: Vec<_> = (0..ALL).map(|_| readable_stream()).collect();
    let (depth, calls) = (Count::default(), Count::default());
    let slots: Rc<RefCell<Vec<Registration>>> = Rc::default();
    for (_, theirs) in &streams {
        let (depth, calls, slots) = (depth.clone(), calls.clone(), Rc::clone(&slots));
        let on = ctx.add_borrowed_fd(theirs, Interest::READABLE, {
            let slots = Rc::clone(&slots);
            move |ctx, _| {
                calls.bump();
                depth.bump();
                if depth.get() == 1 {
                    // The parent turn has collected all of them; a bottom half of the nested turn
                    // removes all.
                    let slots = Rc::clone(&slots);
                    ctx.defer(move |_| drop(slots.take()));
                    assert!(look(ctx));
                }
            }
        });
        slots.borrow_mut().push(on.unwrap());
    }
    assert!(turn(&ctx));
    assert_eq!(calls.get(), 1);
    assert!(!look(&ctx));
}

pub(crate) fn another_thread_removes_by_id(setup: &Setup) {
    let ctx = setup.context();
    let (_ours, theirs) = readable_stream();
    let calls = Count::default();
    let on = ctx.add_borrowed_fd(&theirs, Interest::READABLE, {
        let calls = calls.clone();
        move |_, _| calls.bump()
    });
    let on = on.unwrap();
    turn_until(&ctx, || calls.get() > 2);
    let (handle, id) = (ctx.handle(), on.id());
    let thread = std::thread::spawn(move || {
        handle.schedule(move |ctx| assert!(ctx.remove(id)));
    });
    turn_until(&ctx, || !on.is_live());
    thread.join().unwrap();
    let before = calls.get();
    settle(&ctx);
    assert_eq!(calls.get(), before);
}

pub(crate) fn remove_is_once(setup: &Setup) {
    let ctx = setup.context();
    let (_ours, theirs) = readable_stream();
    let on = ctx.add_borrowed_fd(&theirs, Interest::READABLE, |_, _| ()).unwrap();
    let id = on.id();
    assert!(on.is_live());
    assert!(ctx.remove(id));
    assert!(!on.is_live());
    assert!(!ctx.remove(id));
    // A new handler in the slot is not removed by the old id or the old registration.
    let new = ctx.add_borrowed_fd(&theirs, Interest::READABLE, |_, _| ()).unwrap();
    assert_ne!(new.id(), id);
    assert!(new.is_live() && !on.is_live());
    assert!(!ctx.remove(id));
    drop(on);
    assert!(new.is_live());
    assert!(turn(&ctx));
}

pub(crate) fn replaced_while_ready(setup: &Setup) {
    let ctx = setup.context();
    let (_ours, theirs) = readable_stream();
    let theirs = Rc::new(theirs);
    let (old, new, slot) = (Count::default(), Count::default(), Slot::<Registration>::new());
    let on = ctx.add_borrowed_fd(&*theirs, Interest::READABLE, {
        let old = old.clone();
        move |_, _| old.bump()
    });
    let _on = on.unwrap();
    turn_until(&ctx, || old.get() == 1);
    // In a bottom half: the readiness has been collected for the old one in this very turn.
    ctx.defer({
        let (theirs, new, slot) = (Rc::clone(&theirs), new.clone(), slot.clone());
        move |ctx| {
            let on = ctx.add_borrowed_fd(&*theirs, Interest::READABLE, move |_, _| new.bump());
            slot.put(on.unwrap());
        }
    });
    for n in 0..4 {
        assert!(turn(&ctx));
        assert_eq!((old.get(), new.get()), (1, n));
    }
    drop(slot.take());
}

pub(crate) fn replaced_in_its_callback(setup: &Setup) {
    let ctx = setup.context();
    let (_ours, theirs) = readable_stream();
    let theirs = Rc::new(theirs);
    let (old, new, slot) = (Count::default(), Count::default(), Slot::<Registration>::new());
    let on = ctx.add_borrowed_fd(&*theirs, Interest::READABLE, {
        let (theirs, old, new, slot) = (Rc::clone(&theirs), old.clone(), new.clone(), slot.clone());
        move |ctx, _| {
            old.bump();
            let new = new.clone();
            let on = ctx.add_borrowed_fd(&*theirs, Interest::READABLE, move |_, _| new.bump());
            slot.put(on.unwrap());
            assert_eq!(Rc::strong_count(&theirs), 2, "its captures must live until it returns");
        }
    });
    let on = on.unwrap();
    for n in 0..4 {
        assert!(turn(&ctx));
        assert_eq!((old.get(), new.get()), (1, n));
    }
    assert!(!on.is_live());
    drop(on);
    assert!(turn(&ctx), "the old registration must not affect the new one");
    drop(slot.take());
    assert_eq!(Rc::strong_count(&theirs), 1);
}

pub(crate) fn a_replaced_notifier_hears_what_was_rung(setup: &Setup) {
    let (ctx, notifier) = (setup.context(), setup.notifier());
    let silent = ctx.add_notifier(&notifier, |_| ()).unwrap();
    settle(&ctx);
    for collected in [false, true] {
        let calls = Count::default();
        let bell = Slot::new();
        let replace = {
            let (calls, bell, notifier) = (calls.clone(), bell.clone(), notifier.clone());
            move |ctx: &AioContext| {
                let new = ctx.add_notifier(&notifier, move |_| calls.bump());
                bell.put(new.unwrap());
            }
        };
        notifier.notify().unwrap();
        if collected {
            // A bottom half runs between collecting the events and calling the handlers.
            ctx.defer(replace);
        } else {
            replace(&ctx);
        }
        turn_until(&ctx, || calls.get() != 0);
        assert!(!silent.is_live());
        settle(&ctx);
        drop(bell.take());
    }
}

pub(crate) fn a_replaced_registration_is_inert(setup: &Setup) {
    let (ctx, notifier) = (setup.context(), setup.notifier());
    let old = ctx.add_notifier(&notifier, |_| unreachable!("replaced")).unwrap();
    let calls = Count::default();
    let new = ctx.add_notifier(&notifier, {
        let calls = calls.clone();
        move |_| calls.bump()
    });
    let new = new.unwrap();
    assert!(!old.is_live() && new.is_live());
    assert!(!ctx.remove(old.id()));
    let e = old.set_interest(Interest::NONE).unwrap_err();
    assert_eq!(e.kind(), io::ErrorKind::NotFound);
    drop(old);
    notifier.notify().unwrap();
    turn_until(&ctx, || calls.get() == 1);
}

pub(crate) fn a_dead_context_leaves_registrations_inert(setup: &Setup) {
    let ctx = setup.context();
    let (_ours, theirs) = readable_stream();
    let (held, notifier) = (Rc::new(()), setup.notifier());
    let (on_fd, on_bell) = (Rc::clone(&held), Rc::clone(&held));
    let on = ctx.add_borrowed_fd(&theirs, Interest::READABLE, move |_, _| drop(Rc::clone(&on_fd)));
    let bell = ctx.add_notifier(&notifier, move |_| drop(Rc::clone(&on_bell)));
    let (on, bell) = (on.unwrap(), bell.unwrap());
    look(&ctx);
    drop(ctx);
    assert_eq!(Rc::strong_count(&held), 1, "callbacks must be dropped with the context");
    assert!(!on.is_live() && !bell.is_live());
    let e = on.set_interest(Interest::WRITABLE).unwrap_err();
    assert_eq!(e.kind(), io::ErrorKind::NotFound);
    let _ = (on.detach(), notifier.notify().unwrap());
}

pub(crate) fn detached_handlers_stay_until_removed(setup: &Setup) {
    let (ctx, notifier) = (setup.context(), setup.notifier());
    let calls = Count::default();
    let bell = ctx.add_notifier(&notifier, {
        let calls = calls.clone();
        move |_| calls.bump()
    });
    let id = bell.unwrap().into_registration().detach();
    notifier.notify().unwrap();
    turn_until(&ctx, || calls.get() == 1);
    assert!(ctx.remove(id));
    notifier.notify().unwrap();
    settle(&ctx);
    assert_eq!(calls.get(), 1);
}

pub(crate) fn captures_are_dropped_after_the_callback(setup: &Setup) {
    let ctx = setup.context();
    let (_ours, theirs) = readable_stream();
    let (held, slot) = (Rc::new(()), Slot::<Registration>::new());
    let on = ctx.add_borrowed_fd(&theirs, Interest::READABLE, {
        let (held, slot) = (Rc::clone(&held), slot.clone());
        move |_, _| {
            drop(slot.take());
            assert_eq!(Rc::strong_count(&held), 2, "must not be dropped while the callback runs");
        }
    });
    slot.put(on.unwrap());
    assert!(turn(&ctx));
    assert_eq!(Rc::strong_count(&held), 1);
}

pub(crate) fn captures_may_hold_registrations(setup: &Setup) {
    let ctx = setup.context();
    let streams: Vec<_> = (0..10).map(|_| readable_stream()).collect();
    let timer = ctx.timer(|_| ());
    let bh = ctx.bottom_half(|_| ());
    bh.schedule_idle();
    // A chain: each handler owns the one before it, the first a timer and a bottom half.
    let mut chain: Box<dyn std::any::Any> = Box::new((timer, bh));
    let mut last = None;
    for (_, theirs) in &streams {
        let owned = std::mem::replace(&mut chain, Box::new(()));
        let on = ctx.add_borrowed_fd(theirs, Interest::READABLE, move |_, _| _ = &owned).unwrap();
        last = Some(on.id());
        chain = Box::new(on);
    }
    assert!(turn(&ctx));
    let id = last.unwrap();
    assert!(ctx.remove(id), "this must also remove all the others");
    assert!(!look(&ctx));
    drop(chain);
    // And the same at the end of a context.
    let ctx = setup.context();
    let inner = ctx.add_borrowed_fd(&streams[0].1, Interest::READABLE, |_, _| ()).unwrap();
    let outer = ctx.add_borrowed_fd(&streams[1].1, Interest::READABLE, move |_, _| _ = &inner).unwrap();
    ctx.defer(move |_| drop(outer));
    drop(ctx);
}

pub(crate) fn added_and_removed_in_one_turn(setup: &Setup) {
    let ctx = setup.context();
    let (_ours, theirs) = readable_stream();
    let notifier = setup.notifier();
    notifier.notify().unwrap();
    for _ in 0..200 {
        let on = ctx.add_borrowed_fd(&theirs, Interest::READABLE, |_, _| unreachable!("removed"));
        let bell = ctx.add_notifier(&notifier, |_| unreachable!("removed"));
        drop((on, bell));
    }
    assert!(!look(&ctx));
    // The last of several replacements is the one that is called, also for earlier rings.
    let calls = Count::default();
    let mut bell = None;
    for _ in 0..200 {
        let calls = calls.clone();
        bell = Some(ctx.add_notifier(&notifier, move |_| calls.bump()).unwrap());
    }
    turn_until(&ctx, || calls.get() != 0);
    drop(bell);
}

pub(crate) fn added_in_a_callback_is_served(setup: &Setup) {
    let ctx = setup.context();
    let streams = Rc::new([readable_stream(), readable_stream()]);
    let (calls, slot) = (Count::default(), Slot::<Registration>::new());
    let on = ctx.add_borrowed_fd(&streams[0].1, Interest::READABLE, {
        let (streams, calls, slot) = (Rc::clone(&streams), calls.clone(), slot.clone());
        move |ctx, _| {
            let calls = calls.clone();
            let on = ctx.add_borrowed_fd(&streams[1].1, Interest::READABLE, move |_, ready| {
                assert!(ready.is_readable() && !ready.is_error());
                calls.bump();
            });
            slot.put(on.unwrap());
        }
    });
    let on = on.unwrap();
    assert!(turn(&ctx));
    assert_eq!(calls.get(), 0, "must not be called in the turn that added it");
    drop(on);
    turn_until(&ctx, || calls.get() == 1);
    drop(slot.take());
}

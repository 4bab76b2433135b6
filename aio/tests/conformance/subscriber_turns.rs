//! Subscribers that turn the loop: none is entered again, and what comes meanwhile is kept back.

use crate::probe::{Log, drain, kind_of, probe, readable_stream};
use crate::setup::Setup;
use crate::support::{Count, SPIN, look, os, settle, turn, turn_until, turns_of_an_idle_loop};
use aio::subscriber::Subscribers;
use aio::{Interest, Method};
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::rc::Rc;

pub(crate) fn a_nested_turn_keeps_its_descriptor_back(setup: &Setup) {
    let ctx = setup.context();
    let subscribers = Subscribers::new(&ctx);
    for hang_up in [false, true] {
        let (stream, peer) = readable_stream();
        let peer = Some(peer).filter(|_| !hang_up);
        let (calls, depth, turns) = (Count::default(), Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
        let (added, counted, deep, nested) =
            (Rc::clone(&stream), calls.clone(), Rc::clone(&depth), Rc::clone(&turns));
        let id = subscribers
            .add(probe(
                move |ops| ops.add(&added, Interest::READABLE, 0).unwrap(),
                move |_, ops| {
                    assert_eq!(deep.replace(1), 0, "it must not be entered again");
                    counted.bump();
                    // Its descriptor stays ready. Twice: once kept back, it is silent.
                    nested.set(turns_of_an_idle_loop(ops.context()) + turns_of_an_idle_loop(ops.context()));
                    deep.set(0);
                },
            ))
            .unwrap();
        for n in 1..=3 {
            assert!(turn(&ctx));
            assert_eq!(calls.get(), n, "reported again after the call");
            assert!(turns.get() < 2 * SPIN, "{} nested turns", turns.get());
        }
        drop(subscribers.remove(id).unwrap());
        assert!(!look(&ctx));
        drop(peer);
    }
}

pub(crate) fn a_ring_during_the_call_is_processed_after_it(setup: &Setup) {
    let ctx = setup.context();
    let subscribers = Subscribers::new(&ctx);
    let bell = setup.notifier();
    let calls = Count::default();
    let (added, rung, counted) = (bell.clone(), bell.clone(), calls.clone());
    let nested = Rc::new(Cell::new(0));
    let turns = Rc::clone(&nested);
    let id = subscribers
        .add(probe(
            move |ops| ops.add_notifier(&added, 0).unwrap(),
            move |_, ops| {
                counted.bump();
                if counted.get() % 2 == 1 {
                    rung.notify().unwrap();
                    settle(ops.context());
                    turns.set(turns_of_an_idle_loop(ops.context()));
                }
            },
        ))
        .unwrap();
    for n in 1..=3 {
        bell.notify().unwrap();
        turn_until(&ctx, || calls.get() >= 2 * n);
        settle(&ctx);
        assert_eq!(calls.get(), 2 * n, "one call for the ring, one for the ring in the call");
        assert!(nested.get() < SPIN, "{} nested turns", nested.get());
    }
    if ctx.stats().syscalls_read != 0 {
        assert_eq!(setup.method(), Method::Read);
    }
    assert!(subscribers.contains(id));
}

pub(crate) fn a_nested_turn_serves_the_others(setup: &Setup) {
    let ctx = setup.context();
    let subscribers = Subscribers::new(&ctx);
    let (outer, inner) = (setup.notifier(), setup.notifier());
    let (served, done) = (Count::default(), Count::default());
    let (added, seen) = (inner.clone(), served.clone());
    let _other = subscribers
        .add(probe(move |ops| ops.add_notifier(&added, 0).unwrap(), move |_, _| seen.bump()))
        .unwrap();
    let (added, seen, returned) = (outer.clone(), served.clone(), done.clone());
    let _waits = subscribers
        .add(probe(
            move |ops| ops.add_notifier(&added, 0).unwrap(),
            move |_, ops| {
                let (before, bell) = (seen.get(), inner.clone());
                let ringer = std::thread::spawn(move || bell.notify().unwrap());
                turn_until(ops.context(), || seen.get() > before);
                ringer.join().unwrap();
                returned.bump();
            },
        ))
        .unwrap();
    for n in 1..=5 {
        outer.notify().unwrap();
        turn_until(&ctx, || done.get() == n);
        settle(&ctx);
        assert_eq!((served.get(), done.get()), (n, n));
    }
}

pub(crate) fn events_wait_for_init_and_with(setup: &Setup) {
    let ctx = setup.context();
    let subscribers = Subscribers::new(&ctx);
    let bell = setup.notifier();
    let (stream, _peer) = readable_stream();
    let log = Log::default();
    let (added, rung, seen, read) = (Rc::clone(&stream), bell.clone(), log.clone(), Rc::clone(&stream));
    let in_init = log.clone();
    let id = subscribers
        .add(probe(
            move |ops| {
                ops.add(&added, Interest::READABLE, 1).unwrap();
                ops.add_notifier(&rung, 2).unwrap();
                rung.notify().unwrap();
                settle(ops.context());
                assert_eq!(in_init.len(), 0);
            },
            move |event, _| {
                seen.push(event);
                if event.data() == 1 {
                    drain(&read);
                }
            },
        ))
        .unwrap();
    turn_until(&ctx, || log.len() == 2);
    settle(&ctx);
    assert_eq!(log.take().into_iter().collect::<BTreeSet<_>>(), BTreeSet::from([1, 2]));
    let back = subscribers.with(id, |_, ops| {
        bell.notify().unwrap();
        settle(ops.context());
        log.len()
    });
    assert_eq!(back.unwrap(), 0);
    turn_until(&ctx, || log.len() == 1);
    assert_eq!(log.take(), [2]);
}

pub(crate) fn changes_of_what_is_kept_back_count(setup: &Setup) {
    let ctx = setup.context();
    let subscribers = Subscribers::new(&ctx);
    let (stream, _peer) = readable_stream();
    let (other, _other_peer) = readable_stream();
    let bell = setup.notifier();
    let log = Log::default();
    let seen = log.clone();
    let id = subscribers.add(probe(|_| (), move |event, _| seen.push(event))).unwrap();
    subscribers
        .with(id, |_, ops| {
            ops.add(&stream, Interest::READABLE, 1).unwrap();
            ops.add(&other, Interest::READABLE, 1).unwrap();
            ops.add_notifier(&bell, 1).unwrap();
            bell.notify().unwrap();
            settle(ops.context());
            ops.modify(&*stream, Interest::NONE, 2).unwrap();
            ops.remove(&*other).unwrap();
            ops.modify(&bell, Interest::READABLE, 3).unwrap();
        })
        .unwrap();
    turn_until(&ctx, || log.len() == 1);
    settle(&ctx);
    assert_eq!(log.take(), [3], "neither the silent one nor the removed one");
    subscribers.with(id, |_, ops| ops.modify(&*stream, Interest::READABLE, 4).unwrap()).unwrap();
    assert!(turn(&ctx));
    assert_eq!(log.take(), [4]);
}

pub(crate) fn a_ring_that_was_kept_back_stays_for_the_next_handler(setup: &Setup) {
    let ctx = setup.context();
    let subscribers = Subscribers::new(&ctx);
    for by_subscriber in [false, true] {
        let bell = setup.notifier();
        let calls = Count::default();
        let counted = calls.clone();
        let id = subscribers.add(probe(|_| (), move |_, _| counted.bump())).unwrap();
        subscribers
            .with(id, |_, ops| {
                ops.add_notifier(&bell, 0).unwrap();
                bell.notify().unwrap();
                settle(ops.context());
                if by_subscriber {
                    ops.unsubscribe();
                } else {
                    ops.remove(&bell).unwrap();
                }
            })
            .unwrap();
        settle(&ctx);
        assert_eq!(calls.get(), 0);
        let (next, heard) = (setup.context(), Count::default());
        let rung = heard.clone();
        let _bell = next.add_notifier(&bell, move |_| rung.bump()).unwrap();
        turn_until(&next, || heard.get() != 0);
    }
}

pub(crate) fn what_cannot_be_watched_again_is_an_error(setup: &Setup) {
    let ctx = setup.context();
    let subscribers = Subscribers::new(&ctx);
    let (stream, peer) = UnixStream::pair().unwrap();
    // No test in another thread gets the number once it is closed.
    let ours = os::under_a_private_number(&stream);
    drop(stream);
    let events = Rc::new(RefCell::new(Vec::new()));
    let seen = Rc::clone(&events);
    let id = subscribers
        .add(probe(
            |_| (),
            move |event, _| {
                let ready = event.readiness();
                seen.borrow_mut().push((event.data(), ready.is_error(), ready.is_hang_up()));
            },
        ))
        .unwrap();
    let fd = ours.as_raw_fd();
    subscribers
        .with(id, |_, ops| {
            ops.add(&ours, Interest::READABLE, 1).unwrap();
            drop(peer);
            settle(ops.context());
            // The mistake of a user: it is closed, and not removed.
            drop(ours);
        })
        .unwrap();
    turn_until(&ctx, || !events.borrow().is_empty());
    settle(&ctx);
    assert_eq!(events.take(), [(1, true, false)]);
    subscribers.with(id, |_, ops| ops.remove(&fd).unwrap()).unwrap();
}

pub(crate) fn a_handler_of_the_context_keeps_a_number_that_it_took(setup: &Setup) {
    let ctx = setup.context();
    let subscribers = Subscribers::new(&ctx);
    let (stream, _peer) = readable_stream();
    let errors = Count::default();
    let counted = errors.clone();
    let id = subscribers
        .add(probe(
            |_| (),
            move |event, _| {
                assert!(event.readiness().is_error() && !event.readiness().is_hang_up());
                counted.bump();
            },
        ))
        .unwrap();
    let calls = Count::default();
    let heard = calls.clone();
    let _on = subscribers
        .with(id, |_, ops| {
            ops.add(&stream, Interest::READABLE, 1).unwrap();
            settle(ops.context());
            ops.context().add_borrowed_fd(&stream, Interest::READABLE, move |_, _| heard.bump())
        })
        .unwrap()
        .unwrap();
    for n in 1..=3 {
        assert!(turn(&ctx));
        assert_eq!(calls.get(), n);
    }
    assert_eq!(errors.get(), 1, "the subscriber hears that it lost the descriptor");
    let changed = subscribers.with(id, |_, ops| ops.modify(&*stream, Interest::READABLE, 1)).unwrap();
    assert_eq!(kind_of(changed), ErrorKind::NotFound);
    subscribers.with(id, |_, ops| ops.remove(&*stream).unwrap()).unwrap();
    assert!(turn(&ctx));
    assert_eq!(calls.get(), 4);
}

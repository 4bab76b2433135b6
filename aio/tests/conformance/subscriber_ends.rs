//! Subscribers and managers that end, by removal, by a panic, or with their context.

use crate::probe::{Log, Probe, drain, kind_of, panic_in, probe, readable_stream};
use crate::setup::Setup;
use crate::support::{Count, Slot, look, settle, turn, turn_until};
use aio::subscriber::{Event, Ops, Subscriber, SubscriberId, Subscribers};
use aio::{EventNotifier, Interest};
use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::rc::{Rc, Weak};

pub(crate) fn a_subscriber_removes_itself(setup: &Setup) {
    let ctx = setup.context();
    let subscribers = Subscribers::new(&ctx);
    let (stream, mut peer) = readable_stream();
    let calls = Count::default();
    let (added, counted) = (Rc::clone(&stream), calls.clone());
    let mut device = probe(
        {
            let added = Rc::clone(&added);
            move |ops| ops.add(&added, Interest::READABLE, 0).unwrap()
        },
        |_, _| (),
    );
    let drops = device.drops.clone();
    device.process = Box::new(move |event, ops| {
        counted.bump();
        ops.unsubscribe();
        ops.unsubscribe();
        assert_eq!(drops.get(), 0, "it lives to the end of its call");
        assert_eq!(kind_of(ops.modify(&event.fd(), Interest::NONE, 0)), ErrorKind::NotFound);
        assert_eq!(kind_of(ops.remove(&event.fd())), ErrorKind::NotFound);
        assert_eq!(kind_of(ops.add(&added, Interest::READABLE, 0)), ErrorKind::NotFound);
        assert!(!look(ops.context()), "its descriptor has left the loop");
    });
    let drops = device.drops.clone();
    let id = subscribers.add(device).unwrap();
    assert!(turn(&ctx));
    assert_eq!((calls.get(), drops.get()), (1, 1));
    assert!(!subscribers.contains(id));
    peer.write_all(b"x").unwrap();
    assert!(!look(&ctx));
    // Already in `init`.
    let device = probe(
        move |ops| {
            ops.add(&stream, Interest::READABLE, 0).unwrap();
            ops.unsubscribe();
        },
        |_, _| unreachable!("it was removed"),
    );
    let drops = device.drops.clone();
    let id = subscribers.add(device).unwrap();
    assert_eq!((drops.get(), subscribers.contains(id)), (1, false));
    assert!(!look(&ctx));
}

pub(crate) fn one_subscriber_removes_the_other_while_both_are_ready(setup: &Setup) {
    let ctx = setup.context();
    for bells in [false, true] {
        let subscribers = Rc::new(Subscribers::new(&ctx));
        let others: [Slot<SubscriberId<Probe>>; 2] = [Slot::new(), Slot::new()];
        let (calls, back) = (Count::default(), Slot::<Probe>::new());
        let mut kept = Vec::new();
        for (own, other) in [(0, 1), (1, 0)] {
            let (stream, peer) = readable_stream();
            let bell = setup.notifier();
            bell.notify().unwrap();
            let (manager, other, back) = (Rc::downgrade(&subscribers), others[other].clone(), back.clone());
            let calls = calls.clone();
            let device = probe(
                move |ops| match bells {
                    true => ops.add_notifier(&bell, 0).unwrap(),
                    false => ops.add(&stream, Interest::READABLE, 0).unwrap(),
                },
                move |_, ops| {
                    calls.bump();
                    if let Some(other) = other.take() {
                        back.put(manager.upgrade().unwrap().remove(other).unwrap());
                    }
                    ops.unsubscribe();
                },
            );
            others[own].put(subscribers.add(device).unwrap());
            kept.push(peer);
        }
        turn_until(&ctx, || calls.get() != 0);
        settle(&ctx);
        assert_eq!(calls.get(), 1, "the other one had been collected, and is stale");
        assert_eq!(back.with(|device| device.drops.get()), 0, "it came back whole");
    }
}

pub(crate) fn one_that_is_being_called_can_only_be_dropped(setup: &Setup) {
    let ctx = setup.context();
    let subscribers = Rc::new(Subscribers::new(&ctx));
    let (bell, id) = (setup.notifier(), Slot::<SubscriberId<Probe>>::new());
    let (added, manager, own) = (bell.clone(), Rc::downgrade(&subscribers), id.clone());
    let checks = Count::default();
    let checked = checks.clone();
    let device = probe(
        move |ops| ops.add_notifier(&added, 0).unwrap(),
        move |_, ops| {
            let (manager, id) = (manager.upgrade().unwrap(), own.with(|id| *id));
            // In a nested turn, from a callback that has nothing to do with it.
            let checked = checked.clone();
            ops.context().defer(move |_| {
                assert_eq!(kind_of(manager.remove(id).map(|_| ())), ErrorKind::ResourceBusy);
                assert_eq!(kind_of(manager.with(id, |_, _| ())), ErrorKind::ResourceBusy);
                assert!(manager.contains(id));
                manager.unsubscribe(id).unwrap();
                assert_eq!(kind_of(manager.unsubscribe(id)), ErrorKind::NotFound);
                checked.bump();
            });
            assert!(look(ops.context()));
        },
    );
    let drops = device.drops.clone();
    id.put(subscribers.add(device).unwrap());
    bell.notify().unwrap();
    turn_until(&ctx, || checks.get() == 1);
    assert_eq!(drops.get(), 1);
    bell.notify().unwrap();
    settle(&ctx);
    assert_eq!(checks.get(), 1);
}

pub(crate) fn a_subscriber_drops_the_manager(setup: &Setup) {
    let ctx = setup.context();
    let manager = Slot::<Rc<Subscribers>>::new();
    let subscribers = Rc::new(Subscribers::new(&ctx));
    let (calls, drops) = (Count::default(), Count::default());
    let mut peers = Vec::new();
    for _ in 0..3 {
        let (stream, peer) = readable_stream();
        let (slot, counted, dropped) = (manager.clone(), calls.clone(), drops.clone());
        let mut device = probe(
            move |ops| ops.add(&stream, Interest::READABLE, 0).unwrap(),
            move |_, ops| {
                counted.bump();
                drop(slot.take().expect("once"));
                assert_eq!(dropped.get(), 2, "the others, and not this one");
                assert!(!look(ops.context()));
            },
        );
        device.drops = drops.clone();
        subscribers.add(device).unwrap();
        peers.push(peer);
    }
    manager.put(subscribers);
    assert!(turn(&ctx));
    assert_eq!((calls.get(), drops.get()), (1, 3));
    peers.iter_mut().for_each(|peer| drop(peer.write(b"x")));
    assert!(!look(&ctx));
}

pub(crate) fn a_dropped_manager_leaves_nothing(setup: &Setup) {
    let ctx = setup.context();
    let subscribers = Subscribers::new(&ctx);
    let (stream, _peer) = readable_stream();
    let added = Rc::clone(&stream);
    let device = probe(
        move |ops| ops.add(&added, Interest::READABLE, 0).unwrap(),
        |_, _| unreachable!("the manager was dropped"),
    );
    let drops = device.drops.clone();
    subscribers.add(device).unwrap();
    drop(subscribers);
    assert_eq!((drops.get(), Rc::strong_count(&stream)), (1, 1));
    assert!(!look(&ctx));
}

pub(crate) fn a_panic_in_process_leaves_all_of_them_working(setup: &Setup) {
    let ctx = setup.context();
    let subscribers = Subscribers::new(&ctx);
    let (stream, _peer) = readable_stream();
    let (bell, other) = (setup.notifier(), setup.notifier());
    let log = Log::default();
    let (added, rung, seen) = (Rc::clone(&stream), bell.clone(), log.clone());
    let id = subscribers
        .add(probe(
            move |ops| {
                ops.add(&added, Interest::READABLE, 1).unwrap();
                ops.add_notifier(&rung, 2).unwrap();
            },
            move |event, ops| {
                seen.push(event);
                if seen.len() == 1 {
                    settle(ops.context());
                    panic!("in process");
                }
            },
        ))
        .unwrap();
    let (added, seen) = (other.clone(), log.clone());
    let _other = subscribers
        .add(probe(move |ops| ops.add_notifier(&added, 3).unwrap(), move |event, _| seen.push(event)))
        .unwrap();
    assert!(panic_in(|| assert!(turn(&ctx))));
    assert_eq!(log.take(), [1]);
    // Not empty, so that it does not panic again.
    log.0.borrow_mut().push(0);
    bell.notify().unwrap();
    other.notify().unwrap();
    let all = BTreeSet::from([0, 1, 2, 3]);
    turn_until(&ctx, || log.0.borrow().iter().copied().collect::<BTreeSet<_>>() == all);
    assert!(subscribers.contains(id));
    // The same in `with`.
    assert!(panic_in(|| drop(subscribers.with(id, |_, _| panic!("in with")))));
    log.take();
    log.0.borrow_mut().push(0);
    turn_until(&ctx, || log.len() > 1);
    assert!(log.take().contains(&1));
    drop(subscribers.remove(id).unwrap());
}

pub(crate) fn a_panic_in_init_takes_the_subscriber_away(setup: &Setup) {
    let ctx = setup.context();
    let subscribers = Subscribers::new(&ctx);
    let (stream, _peer) = readable_stream();
    let added = Rc::clone(&stream);
    let device = probe(
        move |ops| {
            ops.add(&added, Interest::READABLE, 0).unwrap();
            panic!("in init");
        },
        |_, _| unreachable!("it was not added"),
    );
    let drops = device.drops.clone();
    assert!(panic_in(|| drop(subscribers.add(device))));
    assert_eq!((drops.get(), Rc::strong_count(&stream)), (1, 1));
    assert!(!look(&ctx));
    let calls = Count::default();
    let counted = calls.clone();
    let next = probe(move |ops| ops.add(&stream, Interest::READABLE, 0).unwrap(), move |_, _| counted.bump());
    let _next = subscribers.add(next).unwrap();
    assert!(turn(&ctx));
    assert_eq!(calls.get(), 1, "the number is free again");
}

/// Does something when it is dropped.
struct OnDrop(Box<dyn FnMut()>);

impl Subscriber for OnDrop {
    fn init(&mut self, _: &mut Ops<'_>) {}

    fn process(&mut self, _: Event, _: &mut Ops<'_>) {}
}

impl Drop for OnDrop {
    fn drop(&mut self) {
        (self.0)();
    }
}

pub(crate) fn a_panic_in_drop_spares_the_others(setup: &Setup) {
    let ctx = setup.context();
    let subscribers = Subscribers::new(&ctx);
    let drops = Count::default();
    for n in 0..4 {
        let drops = drops.clone();
        let device = OnDrop(Box::new(move || {
            drops.bump();
            assert!(n % 2 == 1, "in drop");
        }));
        subscribers.add(device).unwrap();
    }
    assert!(panic_in(|| drop(subscribers)));
    assert_eq!(drops.get(), 4);
    assert!(!look(&ctx));
}

pub(crate) fn a_subscriber_may_use_the_manager_while_it_is_dropped(setup: &Setup) {
    let ctx = setup.context();
    let subscribers = Rc::new(Subscribers::new(&ctx));
    let bell = setup.notifier();
    let heard = Count::default();
    let (manager, added, counted): (Weak<Subscribers>, EventNotifier, Count) =
        (Rc::downgrade(&subscribers), bell.clone(), heard.clone());
    let device = OnDrop(Box::new(move || {
        let (added, counted) = (added.clone(), counted.clone());
        let next = probe(move |ops| ops.add_notifier(&added, 0).unwrap(), move |_, _| counted.bump());
        manager.upgrade().expect("the manager is alive").add(next).unwrap();
    }));
    let id = subscribers.add(device).unwrap();
    subscribers.unsubscribe(id).unwrap();
    bell.notify().unwrap();
    turn_until(&ctx, || heard.get() == 1);
}

pub(crate) fn a_dead_context_refuses_subscribers(setup: &Setup) {
    let ctx = setup.context();
    let subscribers = Subscribers::new(&ctx);
    let (stream, mut peer) = readable_stream();
    let (added, own) = (Rc::clone(&stream), Rc::clone(&stream));
    let id = subscribers
        .add(probe(move |ops| ops.add(&added, Interest::READABLE, 0).unwrap(), move |_, _| drain(&own)))
        .unwrap();
    drop(stream);
    drop(ctx);
    let refused = subscribers.add(probe(|_| unreachable!(), |_, _| ())).unwrap_err();
    assert_eq!(refused.error.kind(), ErrorKind::NotConnected);
    assert_eq!(refused.value.drops.get(), 0, "it came back");
    assert_eq!(kind_of(subscribers.with(id, |_, _| ())), ErrorKind::NotConnected);
    drop(subscribers.remove(id).unwrap());
    assert_eq!(peer.read(&mut [0]).map_err(|e| e.kind()), Err(ErrorKind::ConnectionReset));
}

//! Subscribers and their descriptors: what event-manager promises, too.

use crate::probe::{Log, drain, kind_of, probe, readable_stream};
use crate::setup::Setup;
use crate::support::{Count, Slot, look, settle, turn, turn_until};
use aio::subscriber::{Event, Ops, Subscriber, Subscribers};
use aio::{Interest, Readiness};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::Duration;

pub(crate) fn events_say_which_descriptor_and_why(setup: &Setup) {
    let ctx = setup.context();
    let subscribers = Subscribers::new(&ctx);
    let (stream, mut peer) = readable_stream();
    let bell = setup.notifier();
    let seen = Rc::new(RefCell::new(Vec::new()));
    let (added, rung, log) = (Rc::clone(&stream), bell.clone(), Rc::clone(&seen));
    let _id = subscribers
        .add(probe(
            move |ops| {
                ops.add(&added, Interest::READABLE | Interest::WRITABLE, 7).unwrap();
                ops.add_notifier(&rung, u32::MAX).unwrap();
            },
            move |event, ops| {
                log.borrow_mut().push(event);
                let _ = ops.remove(&event.fd());
            },
        ))
        .unwrap();
    bell.notify().unwrap();
    turn_until(&ctx, || seen.borrow().len() == 2);
    let seen = seen.take();
    let event = |fd| *seen.iter().find(|event| event.fd() == fd).expect("an event of each");
    let on_stream = event(stream.as_raw_fd());
    assert_eq!(on_stream.data(), 7);
    let ready: Readiness = on_stream.readiness();
    assert!(ready.is_readable() && ready.is_writable() && !ready.is_hang_up());
    let on_bell = event(bell.as_raw_fd());
    assert_eq!(on_bell.data(), u32::MAX);
    assert!(on_bell.readiness().is_readable() && !on_bell.readiness().is_error());
    peer.write_all(b"x").unwrap();
    assert!(!look(&ctx), "both were removed");
}

pub(crate) fn added_in_process_is_heard_in_the_next_turn(setup: &Setup) {
    let ctx = setup.context();
    let subscribers = Subscribers::new(&ctx);
    let (first, _peer) = readable_stream();
    let (second, _other_peer) = readable_stream();
    let log = Log::default();
    let (added, later, seen) = (Rc::clone(&first), Rc::clone(&second), log.clone());
    let _id = subscribers
        .add(probe(
            move |ops| ops.add(&added, Interest::READABLE, 1).unwrap(),
            move |event, ops| {
                seen.push(event);
                if seen.len() == 1 {
                    ops.add(&later, Interest::READABLE, 2).unwrap();
                }
            },
        ))
        .unwrap();
    assert!(turn(&ctx));
    assert_eq!(log.take(), [1]);
    log.0.borrow_mut().push(0);
    assert!(turn(&ctx));
    let mut seen = log.take();
    seen.sort_unstable();
    assert_eq!(seen, [0, 1, 2]);
}

pub(crate) fn a_number_is_taken_once(setup: &Setup) {
    let ctx = setup.context();
    let subscribers = Subscribers::new(&ctx);
    let (stream, _peer) = readable_stream();
    let bell = setup.notifier();
    let log = Log::default();
    let (added, rung, seen) = (Rc::clone(&stream), bell.clone(), log.clone());
    let owner = probe(
        move |ops| {
            ops.add(&added, Interest::READABLE, 1).unwrap();
            ops.add_notifier(&rung, 2).unwrap();
            // By the same subscriber.
            assert_eq!(kind_of(ops.add(&added, Interest::NONE, 9)), ErrorKind::AlreadyExists);
            assert_eq!(kind_of(ops.add_notifier(&rung, 9)), ErrorKind::AlreadyExists);
        },
        move |event, _| seen.push(event),
    );
    let owner = subscribers.add(owner).unwrap();
    let (added, rung, seen) = (Rc::clone(&stream), bell.clone(), log.clone());
    let other = probe(
        move |ops| {
            assert_eq!(kind_of(ops.add(&added, Interest::NONE, 9)), ErrorKind::AlreadyExists);
            assert_eq!(kind_of(ops.add_notifier(&rung, 9)), ErrorKind::AlreadyExists);
            // They are not this one's to change, either.
            assert_eq!(kind_of(ops.modify(&*added, Interest::NONE, 9)), ErrorKind::NotFound);
            assert_eq!(kind_of(ops.remove(&*added)), ErrorKind::NotFound);
            assert_eq!(kind_of(ops.remove(&rung)), ErrorKind::NotFound);
        },
        move |_, _| seen.0.borrow_mut().push(9),
    );
    let _other = subscribers.add(other).unwrap();
    bell.notify().unwrap();
    turn_until(&ctx, || log.len() >= 2);
    let seen = log.take().into_iter().collect::<BTreeSet<_>>();
    assert_eq!(seen, BTreeSet::from([1, 2]), "the first one keeps both, with its data");
    // The number is free when its owner leaves.
    drop(subscribers.remove(owner).unwrap());
    let seen = log.clone();
    let next =
        probe(move |ops| ops.add(&stream, Interest::READABLE, 3).unwrap(), move |event, _| seen.push(event));
    let _next = subscribers.add(next).unwrap();
    assert!(turn(&ctx));
    assert_eq!(log.take(), [3]);
}

pub(crate) fn a_refused_descriptor_leaves_no_trace(setup: &Setup) {
    let ctx = setup.context();
    let subscribers = Subscribers::new(&ctx);
    let null = std::fs::File::open("/dev/null").unwrap();
    let id = subscribers
        .add(probe(
            move |ops| {
                for _ in 0..2 {
                    // Not `AlreadyExists` the second time.
                    let refused = ops.add(&null, Interest::READABLE, 1);
                    assert_eq!(kind_of(refused), ErrorKind::PermissionDenied);
                    assert_eq!(kind_of(ops.remove(&null)), ErrorKind::NotFound);
                }
            },
            |_, _| unreachable!("nothing was added"),
        ))
        .unwrap();
    assert!(subscribers.contains(id));
    assert!(!look(&ctx));
}

pub(crate) fn removed_in_process_is_not_heard_again(setup: &Setup) {
    let ctx = setup.context();
    let subscribers = Subscribers::new(&ctx);
    let (stream, _peer) = readable_stream();
    let bell = setup.notifier();
    let log = Log::default();
    let (added, rung, seen) = (Rc::clone(&stream), bell.clone(), log.clone());
    let _id = subscribers
        .add(probe(
            move |ops| {
                ops.add(&added, Interest::READABLE, 1).unwrap();
                ops.add_notifier(&rung, 2).unwrap();
            },
            move |event, ops| {
                seen.push(event);
                ops.remove(&event.fd()).unwrap();
                assert_eq!(kind_of(ops.remove(&event.fd())), ErrorKind::NotFound);
            },
        ))
        .unwrap();
    bell.notify().unwrap();
    turn_until(&ctx, || log.len() == 2);
    bell.notify().unwrap();
    for _ in 0..5 {
        assert!(!look(&ctx));
    }
    assert_eq!(log.len(), 2);
}

pub(crate) fn modify_replaces_interest_and_data(setup: &Setup) {
    let ctx = setup.context();
    let subscribers = Subscribers::new(&ctx);
    let (stream, _peer) = readable_stream();
    let log = Log::default();
    let (added, seen) = (Rc::clone(&stream), log.clone());
    let id = subscribers
        .add(probe(
            move |ops| ops.add(&added, Interest::WRITABLE, 1).unwrap(),
            move |event, ops| {
                seen.push(event);
                let ready = event.readiness();
                assert_eq!(
                    (event.data() == 1, event.data() == 2),
                    (ready.is_writable(), ready.is_readable())
                );
                if event.data() == 1 {
                    ops.modify(&event.fd(), Interest::READABLE, 2).unwrap();
                }
            },
        ))
        .unwrap();
    assert!(turn(&ctx));
    assert!(turn(&ctx));
    assert_eq!(log.take(), [1, 2]);
    drain(&stream);
    assert!(!look(&ctx));
    subscribers.with(id, |_, ops| ops.modify(&*stream, Interest::WRITABLE, 1).unwrap()).unwrap();
    assert!(turn(&ctx));
    assert_eq!(log.take(), [1]);
    // A notifier has no interest to change, but data.
    let bell = setup.notifier();
    subscribers
        .with(id, |_, ops| {
            ops.add_notifier(&bell, 3).unwrap();
            assert_eq!(kind_of(ops.modify(&bell, Interest::WRITABLE, 4)), ErrorKind::InvalidInput);
            ops.modify(&bell, Interest::READABLE, 2).unwrap();
            ops.remove(&*stream).unwrap();
            assert_eq!(kind_of(ops.modify(&*stream, Interest::READABLE, 9)), ErrorKind::NotFound);
        })
        .unwrap();
    bell.notify().unwrap();
    turn_until(&ctx, || log.len() == 1);
    assert_eq!(log.take(), [2]);
}

pub(crate) fn what_was_collected_comes_with_new_data(setup: &Setup) {
    let ctx = setup.context();
    let subscribers = Subscribers::new(&ctx);
    let streams = [readable_stream(), readable_stream()];
    let log = Log::default();
    let (fds, seen) = ([Rc::clone(&streams[0].0), Rc::clone(&streams[1].0)], log.clone());
    let _id = subscribers
        .add(probe(
            {
                let fds = fds.clone();
                move |ops| fds.iter().for_each(|fd| ops.add(fd, Interest::READABLE, 1).unwrap())
            },
            move |event, ops| {
                seen.push(event);
                let other = if event.fd() == fds[0].as_raw_fd() { &fds[1] } else { &fds[0] };
                ops.modify(&**other, Interest::READABLE, 2).unwrap();
            },
        ))
        .unwrap();
    assert!(turn(&ctx));
    assert_eq!(log.take(), [1, 2], "both were collected in one turn");
}

pub(crate) fn a_removed_subscriber_comes_back(setup: &Setup) {
    let ctx = setup.context();
    let subscribers = Subscribers::new(&ctx);
    let (stream, mut peer) = UnixStream::pair().unwrap();
    struct Owner(UnixStream, u32);
    impl Subscriber for Owner {
        fn init(&mut self, ops: &mut Ops<'_>) {
            ops.add(&self.0, Interest::READABLE, 0).unwrap();
        }

        fn process(&mut self, event: Event, _: &mut Ops<'_>) {
            assert_eq!(event.fd(), self.0.as_raw_fd());
            self.1 += 1;
        }
    }
    let id = subscribers.add(Owner(stream, 0)).unwrap();
    peer.write_all(b"x").unwrap();
    assert!(turn(&ctx));
    assert!(subscribers.contains(id));
    assert_eq!(subscribers.with(id, |owner, _| owner.1).unwrap(), 1);
    let Owner(stream, processed) = subscribers.remove(id).unwrap();
    assert_eq!(processed, 1);
    assert!(!look(&ctx));
    assert!(!subscribers.contains(id));
    assert_eq!(kind_of(subscribers.remove(id).map(|_| ())), ErrorKind::NotFound);
    assert_eq!(kind_of(subscribers.with(id, |_, _| ())), ErrorKind::NotFound);
    assert_eq!(kind_of(subscribers.unsubscribe(id)), ErrorKind::NotFound);
    // The next one in the slot is another one.
    let next = subscribers.add(Owner(stream, 0)).unwrap();
    assert_ne!(id, next);
    assert_eq!(kind_of(subscribers.remove(id).map(|_| ())), ErrorKind::NotFound);
    // Another manager does not know it.
    let others = Subscribers::new(&ctx);
    let _same_slot = others.add(Owner(UnixStream::pair().unwrap().0, 0)).unwrap();
    assert_eq!(kind_of(others.remove(next).map(|_| ())), ErrorKind::NotFound);
    drop(subscribers.remove(next).unwrap());
    assert_eq!(peer.read(&mut [0; 8]).unwrap_err().kind(), ErrorKind::ConnectionReset);
}

pub(crate) fn each_of_many_hears_its_own(setup: &Setup) {
    let ctx = setup.context();
    let subscribers = Subscribers::new(&ctx);
    let bells = (0..100).map(|_| setup.notifier()).collect::<Vec<_>>();
    let calls = Rc::new(RefCell::new(vec![0; bells.len()]));
    for (n, bell) in bells.iter().enumerate() {
        let (bell, calls) = (bell.clone(), Rc::clone(&calls));
        let data = n as u32;
        subscribers
            .add(probe(
                move |ops| ops.add_notifier(&bell, data).unwrap(),
                move |event, _| {
                    assert_eq!(event.data(), data);
                    calls.borrow_mut()[n] += 1;
                },
            ))
            .unwrap();
    }
    settle(&ctx);
    for rung in [&[0_usize, 33, 99][..], &[1, 33]] {
        calls.borrow_mut().fill(0);
        rung.iter().for_each(|n| bells[*n].notify().unwrap());
        turn_until(&ctx, || calls.borrow().iter().sum::<u32>() >= rung.len() as u32);
        settle(&ctx);
        for (n, calls) in calls.borrow().iter().enumerate() {
            assert_eq!(*calls, u32::from(rung.contains(&n)), "subscriber {n}");
        }
    }
}

pub(crate) fn a_hang_up_is_reported_until_it_is_removed(setup: &Setup) {
    let ctx = setup.context();
    let subscribers = Subscribers::new(&ctx);
    let (ours, peer) = UnixStream::pair().unwrap();
    let ours = Rc::new(ours);
    let hang_ups = Count::default();
    let (added, seen) = (Rc::clone(&ours), hang_ups.clone());
    let id = subscribers
        .add(probe(
            move |ops| ops.add(&added, Interest::READABLE, 0).unwrap(),
            move |event, ops| {
                assert!(event.readiness().is_hang_up());
                seen.bump();
                if seen.get() == 3 {
                    ops.remove(&event.fd()).unwrap();
                }
            },
        ))
        .unwrap();
    assert!(!look(&ctx));
    drop(peer);
    for n in 1..=3 {
        assert!(turn(&ctx));
        assert_eq!(hang_ups.get(), n);
    }
    assert!(!look(&ctx));
    assert!(subscribers.contains(id));
}

pub(crate) fn added_again_in_process_is_not_heard_in_the_same_turn(setup: &Setup) {
    let ctx = setup.context();
    let subscribers = Subscribers::new(&ctx);
    let streams = [(); 3].map(|()| readable_stream());
    let fds = Rc::new(streams.each_ref().map(|(stream, _)| Rc::clone(stream)));
    let log = Log::default();
    let (added, seen) = (Rc::clone(&fds), log.clone());
    let _id = subscribers
        .add(probe(
            move |ops| added.iter().for_each(|fd| ops.add(fd, Interest::READABLE, 1).unwrap()),
            move |event, ops| {
                seen.push(event);
                if seen.len() == 1 {
                    for fd in fds.iter() {
                        ops.remove(&**fd).unwrap();
                        ops.add(fd, Interest::READABLE, 2).unwrap();
                    }
                }
            },
        ))
        .unwrap();
    assert!(turn(&ctx));
    assert_eq!(log.take(), [1], "what was collected for the other two is stale");
    log.0.borrow_mut().push(0);
    assert!(turn(&ctx));
    assert_eq!(log.take(), [0, 2, 2, 2]);
}

pub(crate) fn timers_and_operations_are_at_hand(setup: &Setup) {
    let ctx = setup.context();
    let subscribers = Subscribers::new(&ctx);
    let bell = setup.notifier();
    let expired = Count::default();
    let (added, counted, timer) = (bell.clone(), expired.clone(), Slot::new());
    let _id = subscribers
        .add(probe(
            move |ops| ops.add_notifier(&added, 0).unwrap(),
            move |_, ops| {
                let counted = counted.clone();
                let armed = ops.context().timer(move |_| counted.bump());
                armed.arm_after(Duration::from_micros(10));
                timer.put(armed);
            },
        ))
        .unwrap();
    bell.notify().unwrap();
    turn_until(&ctx, || expired.get() == 1);
}

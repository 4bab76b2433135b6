//! Subscribers that are shared, and what other threads do with a manager.

use crate::probe::{Log, panic_in, probe};
use crate::setup::Setup;
use crate::support::{Count, Slot, settle, turn_until};
use aio::subscriber::{Event, Ops, Subscriber, SubscriberId, Subscribers};
use aio::{EventNotifier, Interest};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};

/// A subscriber that may be shared with other threads.
struct Sendable(EventNotifier, mpsc::Sender<u32>);

impl Subscriber for Sendable {
    fn init(&mut self, ops: &mut Ops<'_>) {
        ops.add_notifier(&self.0, 2).unwrap();
    }

    fn process(&mut self, event: Event, _: &mut Ops<'_>) {
        self.1.send(event.data()).unwrap();
    }
}

pub(crate) fn boxes_and_shared_subscribers_are_subscribers(setup: &Setup) {
    let ctx = setup.context();
    let subscribers = Subscribers::new(&ctx);
    let log = Log::default();
    let bells = [(); 3].map(|()| setup.notifier());
    let make = |n: usize| {
        let (bell, seen) = (bells[n].clone(), log.clone());
        probe(move |ops| ops.add_notifier(&bell, n as u32).unwrap(), move |event, _| seen.push(event))
    };
    let boxed: SubscriberId<Box<dyn Subscriber>> = subscribers.add(Box::new(make(0)) as Box<_>).unwrap();
    let shared = Rc::new(RefCell::new(make(1)));
    let shared_id = subscribers.add(Rc::clone(&shared) as Rc<RefCell<dyn Subscriber>>).unwrap();
    let (heard, sent) = (mpsc::channel::<u32>(), bells[2].clone());
    let locked = Arc::new(Mutex::new(Sendable(sent, heard.0)));
    let locked_id = subscribers.add(Arc::clone(&locked) as Arc<Mutex<dyn Subscriber>>).unwrap();
    bells.iter().for_each(|bell| bell.notify().unwrap());
    turn_until(&ctx, || log.len() == 2);
    assert_eq!(log.take().into_iter().collect::<BTreeSet<_>>(), BTreeSet::from([0, 1]));
    let next = || {
        let mut event = None;
        turn_until(&ctx, || {
            event = event.or(heard.1.try_recv().ok());
            event.is_some()
        });
        event
    };
    assert_eq!(next(), Some(2));
    // A panic while it is locked poisons the mutex, and it is used nevertheless.
    assert!(panic_in(|| {
        let _locked = locked.lock();
        panic!("poison");
    }));
    bells[2].notify().unwrap();
    assert_eq!(next(), Some(2));
    drop(subscribers.remove(boxed).unwrap());
    assert!(Rc::ptr_eq(&(shared as Rc<RefCell<dyn Subscriber>>), &subscribers.remove(shared_id).unwrap()));
    subscribers.unsubscribe(locked_id).unwrap();
    assert_eq!(Arc::strong_count(&locked), 1);
}

pub(crate) fn a_thread_of_its_own_serves_others(setup: &Setup) {
    let setup = *setup;
    let bells = [(); 3].map(|()| setup.notifier());
    let (processed, heard) = mpsc::channel();
    let rings = bells.clone();
    let thread = std::thread::spawn(move || {
        let ctx = setup.context();
        let subscribers = Subscribers::new(&ctx);
        let count = Count::default();
        let ids = rings.map(|bell| {
            let (processed, count) = (processed.clone(), count.clone());
            let device = probe(
                move |ops| ops.add_notifier(&bell, 0).unwrap(),
                move |event, _| {
                    count.bump();
                    processed.send(event.fd()).unwrap();
                },
            );
            subscribers.add(device).unwrap()
        });
        turn_until(&ctx, || count.get() >= 30);
        ids.into_iter().for_each(|id| drop(subscribers.remove(id).unwrap()));
    });
    for bell in bells.iter().cycle().take(30) {
        bell.notify().unwrap();
        assert_eq!(heard.recv().unwrap(), bell.as_raw_fd());
    }
    thread.join().unwrap();
}

pub(crate) fn another_thread_changes_the_subscribers(setup: &Setup) {
    let ctx = setup.context();
    let subscribers = Subscribers::new(&ctx);
    let (bell, calls) = (setup.notifier(), Count::default());
    let (added, counted) = (bell.clone(), calls.clone());
    let device = probe(move |ops| ops.add_notifier(&added, 0).unwrap(), move |_, _| counted.bump());
    let (drops, id) = (device.drops.clone(), subscribers.add(device).unwrap());
    let (handle, loop_handle) = (subscribers.handle(), ctx.handle());
    let done = Arc::new(AtomicBool::new(false));
    let over = Arc::clone(&done);
    let rung = bell.clone();
    let thread = std::thread::spawn(move || {
        let (sent, received) = mpsc::channel();
        let answer = sent.clone();
        assert!(handle.schedule(move |subscribers| {
            let known = subscribers.with(id, |_, ops| ops.modify(&rung, Interest::READABLE, 1).is_ok());
            answer.send(known.unwrap()).unwrap();
        }));
        assert!(received.recv().unwrap());
        let answer = sent.clone();
        // A new one, from here, and the old one leaves.
        handle.schedule(move |subscribers| {
            let next = subscribers.add(probe(|_| (), |_, _| ())).unwrap();
            drop(subscribers.remove(id).unwrap());
            answer.send(subscribers.contains(next)).unwrap();
        });
        assert!(received.recv().unwrap());
        let _ = loop_handle.schedule(move |_| over.store(true, Ordering::SeqCst));
        handle
    });
    turn_until(&ctx, || done.load(Ordering::SeqCst));
    let handle = thread.join().unwrap();
    assert_eq!((calls.get(), drops.get()), (0, 1));
    // For a manager that is dropped, nothing is run.
    let ran = Arc::new(Mutex::new(0));
    let counted = Arc::clone(&ran);
    assert!(handle.schedule(move |_| *counted.lock().unwrap() += 1));
    drop(subscribers);
    settle(&ctx);
    assert_eq!((*ran.lock().unwrap(), Arc::strong_count(&ran)), (0, 1));
    drop(ctx);
    assert!(!handle.schedule(|_| ()));
}

pub(crate) fn a_scheduled_closure_may_end_the_manager(setup: &Setup) {
    let ctx = setup.context();
    let slot = Rc::new(RefCell::new(Some(Subscribers::new(&ctx))));
    let (handle, bell) = (slot.borrow().as_ref().unwrap().handle(), setup.notifier());
    let added = bell.clone();
    let ends = Rc::clone(&slot);
    // Drops the manager when it is asked to.
    let device = probe(move |ops| ops.add_notifier(&added, 0).unwrap(), move |_, _| drop(ends.take()));
    let drops = device.drops.clone();
    slot.borrow().as_ref().unwrap().add(device).unwrap();
    let (refused, kind) = mpsc::channel();
    handle.schedule(move |subscribers| {
        bell.notify().unwrap();
        let next = subscribers.add(probe(|ops| settle(ops.context()), |_, _| ())).unwrap();
        assert!(!subscribers.contains(next), "the manager was dropped in its init");
        let error = subscribers.add(probe(|_| (), |_, _| ())).unwrap_err().error;
        refused.send(error.kind()).unwrap();
    });
    turn_until(&ctx, || slot.borrow().is_none());
    assert_eq!(kind.recv().unwrap(), ErrorKind::NotConnected);
    assert_eq!(drops.get(), 1);
}

pub(crate) fn a_manager_that_was_dropped_in_a_call_runs_no_closure(setup: &Setup) {
    let ctx = setup.context();
    let subscribers = Subscribers::new(&ctx);
    let (handle, bell, slot) = (subscribers.handle(), setup.notifier(), Slot::new());
    let (added, manager, ends) = (bell.clone(), slot.clone(), Count::default());
    let ended = ends.clone();
    let device = probe(
        move |ops| ops.add_notifier(&added, 0).unwrap(),
        move |_, ops| {
            // What is left of the manager serves this call only.
            drop(manager.take());
            assert!(handle.schedule(|_| unreachable!("the manager was dropped")));
            settle(ops.context());
            ended.bump();
        },
    );
    subscribers.add(device).unwrap();
    slot.put(subscribers);
    bell.notify().unwrap();
    turn_until(&ctx, || ends.get() == 1);
}

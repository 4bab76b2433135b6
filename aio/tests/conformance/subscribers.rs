//! Subscribers: devices whose events come to one method, which may do anything and is not entered
//! again meanwhile.

use crate::setup::Setup;
use crate::support::{Count, SPIN, Slot, look, settle, turn, turn_until, turns_of_an_idle_loop};
use aio::subscriber::{Event, Ops, Subscriber, SubscriberId, Subscribers};
use aio::{AioContext, EventNotifier, Interest, Method, Readiness};
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::{Rc, Weak};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

type Init = Box<dyn FnMut(&mut Ops<'_>)>;
type Process = Box<dyn FnMut(Event, &mut Ops<'_>)>;

/// A subscriber made of two closures. Counts its drop.
struct Probe {
    init: Init,
    process: Process,
    drops: Count,
}

impl Subscriber for Probe {
    fn init(&mut self, ops: &mut Ops<'_>) {
        (self.init)(ops);
    }

    fn process(&mut self, event: Event, ops: &mut Ops<'_>) {
        (self.process)(event, ops);
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.drops.bump();
    }
}

fn probe(
    init: impl FnMut(&mut Ops<'_>) + 'static,
    process: impl FnMut(Event, &mut Ops<'_>) + 'static,
) -> Probe {
    Probe { init: Box::new(init), process: Box::new(process), drops: Count::default() }
}

/// The data of the events, in order.
#[derive(Clone, Default)]
struct Log(Rc<RefCell<Vec<u32>>>);

impl Log {
    fn push(&self, event: Event) {
        self.0.borrow_mut().push(event.data());
    }

    /// What came since the last time.
    fn take(&self) -> Vec<u32> {
        self.0.take()
    }

    fn len(&self) -> usize {
        self.0.borrow().len()
    }
}

/// A stream with a byte to read, and its peer.
fn readable_stream() -> (Rc<UnixStream>, UnixStream) {
    let (ours, mut peer) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    peer.write_all(b"x").unwrap();
    (Rc::new(ours), peer)
}

fn drain(stream: &UnixStream) {
    while matches!((&*stream).read(&mut [0; 16]), Ok(n) if n != 0) {}
}

/// Sleeps in a nested turn until a timer is over, and returns how many turns that took.
fn nested_turns(ctx: &AioContext) -> u64 {
    turns_of_an_idle_loop(ctx)
}

fn kind_of<T: std::fmt::Debug>(result: std::io::Result<T>) -> ErrorKind {
    result.unwrap_err().kind()
}

fn panic_in(call: impl FnOnce()) -> bool {
    catch_unwind(AssertUnwindSafe(call)).is_err()
}

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
                    nested.set(nested_turns(ops.context()) + nested_turns(ops.context()));
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
                    turns.set(nested_turns(ops.context()));
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
    let (ours, peer) = UnixStream::pair().unwrap();
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

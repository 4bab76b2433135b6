//! Consumers and producers on event loops, with each monitor.

use crate::Setup;
use aio::Reset::{Autoreset, AutoresetBy, Classic};
use aio::{AioContext, BoundedMethod, BoundedNotifier, Counting, Method, MonitorKind, Reset};
use std::cell::{Cell, RefCell};
use std::io::ErrorKind;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A context for each monitor that this kernel has.
fn contexts() -> Vec<AioContext> {
    let build = |kind| match AioContext::builder().monitor(kind).build() {
        Ok(ctx) => Some(ctx),
        Err(e) if kind == MonitorKind::IoUring => {
            println!("skipped: {kind}: {e}");
            None
        }
        Err(e) => panic!("{kind}: {e}"),
    };
    MonitorKind::ALL.into_iter().filter_map(build).collect()
}

/// The counts that a consumer was called with.
type Calls = Rc<RefCell<Vec<u64>>>;

fn record() -> (Calls, impl Fn(&AioContext, u64) + 'static) {
    let calls = Calls::default();
    let seen = Rc::clone(&calls);
    (calls, move |_: &AioContext, n| seen.borrow_mut().push(n))
}

fn turn_until(ctx: &AioContext, done: impl Fn() -> bool) {
    while !done() {
        ctx.poll(true).unwrap();
    }
}

fn settle(ctx: &AioContext) {
    let mut quiet = 0;
    while quiet < 3 {
        quiet = if ctx.poll(false).unwrap() { 0 } else { quiet + 1 };
    }
}

pub(crate) fn a_count_calls_the_consumer(setup: &Setup) {
    for ctx in contexts() {
        let notifier = setup.counter(10);
        let (calls, callback) = record();
        let _consumer = ctx.add_bounded(&notifier, callback).unwrap();
        settle(&ctx);
        assert_eq!(*calls.borrow(), [0; 0]);
        for round in 1..=9 {
            notifier.notify(round).unwrap();
            turn_until(&ctx, || calls.borrow().len() as u64 == round);
        }
        settle(&ctx);
        assert_eq!(*calls.borrow(), [1, 2, 3, 4, 5, 6, 7, 8, 9]);
    }
}

pub(crate) fn what_came_before_counts(setup: &Setup) {
    for ctx in contexts() {
        let notifier = setup.counter(10);
        notifier.notify(4).unwrap();
        let (calls, callback) = record();
        let _consumer = ctx.add_bounded(&notifier, callback).unwrap();
        turn_until(&ctx, || *calls.borrow() == [4]);
    }
}

pub(crate) fn each_post_of_a_semaphore_is_one_call(setup: &Setup) {
    for ctx in contexts() {
        let notifier = setup.semaphore(100);
        let (calls, callback) = record();
        let _consumer = ctx.add_bounded(&notifier, callback).unwrap();
        notifier.notify(50).unwrap();
        turn_until(&ctx, || calls.borrow().len() == 50);
        settle(&ctx);
        assert_eq!(*calls.borrow(), [1; 50]);
    }
}

/// With each way to reset the doorbell.
pub(crate) fn many_counts_arrive_from_a_thread(setup: &Setup) {
    const TOTAL: u64 = 3000;
    let resets = Method::ALL.into_iter().map(AutoresetBy).chain([Classic, Autoreset]);
    let mut tried = 0;
    for reset in resets {
        for ctx in contexts() {
            let builder =
                BoundedNotifier::builder(7).method(setup.method).counting(Counting::Semaphore).reset(reset);
            let (calls, callback) = record();
            let Ok(notifier) = builder.build() else { continue };
            let Ok(_consumer) = ctx.add_bounded(&notifier, callback) else { continue };
            tried += 1;
            let producer = notifier.clone();
            let producer = std::thread::spawn(move || (0..TOTAL).for_each(|_| producer.notify(1).unwrap()));
            turn_until(&ctx, || calls.borrow().len() as u64 == TOTAL);
            producer.join().unwrap();
            assert_eq!(notifier.count().unwrap(), 0, "{reset:?}");
        }
    }
    assert!(tried >= 4, "{tried} resets");
}

/// A blocking turn in the callback is woken by notifications made after the callback began.
pub(crate) fn a_consumer_may_turn_the_loop(setup: &Setup) {
    for ctx in contexts() {
        let notifier = setup.counter(10);
        let (calls, depth) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
        let _consumer = ctx
            .add_bounded(&notifier, {
                let (calls, depth, notifier) = (Rc::clone(&calls), Rc::clone(&depth), notifier.clone());
                move |ctx, n| {
                    calls.set(calls.get() + n);
                    if depth.get() == 0 {
                        depth.set(1);
                        let producer = notifier.clone();
                        let thread = std::thread::spawn(move || producer.notify(1).unwrap());
                        turn_until(ctx, || calls.get() == 2);
                        thread.join().unwrap();
                    }
                }
            })
            .unwrap();
        notifier.notify(1).unwrap();
        turn_until(&ctx, || calls.get() == 2);
        notifier.notify(1).unwrap();
        turn_until(&ctx, || calls.get() == 3);
    }
}

pub(crate) fn a_removed_consumer_leaves_the_count_to_the_next(setup: &Setup) {
    for (ctx, other) in contexts().into_iter().zip(contexts()) {
        let notifier = setup.counter(10);
        let (first, callback) = record();
        let consumer = ctx.add_bounded(&notifier, callback).unwrap();
        let (second, callback) = record();
        let _other = other.add_bounded(&notifier, callback).unwrap();
        settle(&other);
        settle(&ctx);
        drop(consumer);
        notifier.notify(3).unwrap();
        settle(&ctx);
        turn_until(&other, || *second.borrow() == [3]);
        assert_eq!(*first.borrow(), [0; 0]);
    }
}

/// Notifications made meanwhile go to the other loop.
pub(crate) fn a_consumer_may_remove_itself(setup: &Setup) {
    for (ctx, other) in contexts().into_iter().zip(contexts()) {
        let notifier = setup.semaphore(10);
        let (calls, callback) = record();
        let _other = other.add_bounded(&notifier, callback).unwrap();
        settle(&other);
        let place = Rc::new(RefCell::new(None));
        let count = Rc::new(Cell::new(0));
        let consumer = ctx.add_bounded(&notifier, {
            let (place, count) = (Rc::clone(&place), Rc::clone(&count));
            move |_, n| {
                count.set(count.get() + n);
                drop(place.borrow_mut().take());
            }
        });
        place.replace(Some(consumer.unwrap()));
        settle(&ctx);
        notifier.notify(3).unwrap();
        turn_until(&ctx, || count.get() == 1);
        settle(&ctx);
        assert_eq!(count.get(), 1);
        turn_until(&other, || *calls.borrow() == [1, 1]);
    }
}

pub(crate) fn an_idle_loop_sleeps(setup: &Setup) {
    for ctx in contexts() {
        let notifier = setup.counter(10);
        let (calls, callback) = record();
        let _consumer = ctx.add_bounded(&notifier, callback).unwrap();
        let writable = ctx.add_writable(&notifier, |_| ()).unwrap();
        notifier.notify(2).unwrap();
        writable.arm().unwrap();
        turn_until(&ctx, || *calls.borrow() == [2]);
        settle(&ctx);
        let over = Rc::new(Cell::new(false));
        let flag = Rc::clone(&over);
        let timer = ctx.timer(move |_| flag.set(true));
        let before = ctx.stats().turns;
        timer.arm_after(Duration::from_millis(5));
        turn_until(&ctx, || over.get());
        assert!(ctx.stats().turns - before < 20, "{}: spins", ctx.monitor().kind);
    }
}

pub(crate) fn a_producer_gets_a_callback_for_room(setup: &Setup) {
    const TOTAL: u64 = 2000;
    for ctx in contexts() {
        let notifier = setup.semaphore(4);
        let (sent, room) = (Cell::new(0), Rc::new(Cell::new(true)));
        let flag = Rc::clone(&room);
        let writable = ctx.add_writable(&notifier, move |_| flag.set(true)).unwrap();
        let consumer = notifier.clone();
        let consumer =
            std::thread::spawn(move || (0..TOTAL).for_each(|_| assert_eq!(consumer.take().unwrap(), 1)));
        while sent.get() < TOTAL {
            match notifier.try_notify(1) {
                Ok(()) => sent.set(sent.get() + 1),
                Err(e) => {
                    assert_eq!(e.kind(), ErrorKind::WouldBlock);
                    room.set(false);
                    writable.arm().unwrap();
                    writable.arm().unwrap();
                    turn_until(&ctx, || room.get());
                }
            }
        }
        consumer.join().unwrap();
        assert_eq!(notifier.count().unwrap(), 0);
    }
}

pub(crate) fn a_producer_that_asks_for_nothing_is_not_called(setup: &Setup) {
    for ctx in contexts() {
        let notifier = setup.counter(3);
        let calls = Rc::new(Cell::new(0));
        let count = Rc::clone(&calls);
        let writable = ctx.add_writable(&notifier, move |_| count.set(count.get() + 1)).unwrap();
        notifier.notify(2).unwrap();
        notifier.take().unwrap();
        settle(&ctx);
        assert_eq!(calls.get(), 0);
        // There is room already.
        writable.arm().unwrap();
        turn_until(&ctx, || calls.get() == 1);
        notifier.notify(2).unwrap();
        notifier.take().unwrap();
        settle(&ctx);
        assert_eq!(calls.get(), 1, "once for each time that it asked");
        notifier.notify(2).unwrap();
        writable.arm().unwrap();
        settle(&ctx);
        assert_eq!(calls.get(), 1, "there is no room");
        drop(writable);
        notifier.take().unwrap();
        settle(&ctx);
        assert_eq!(calls.get(), 1, "removed");
    }
}

pub(crate) fn two_producers_in_two_loops_are_both_told(setup: &Setup) {
    for (ctx, other) in contexts().into_iter().zip(contexts()) {
        let notifier = setup.counter(3);
        notifier.notify(2).unwrap();
        let calls = [Rc::new(Cell::new(0)), Rc::new(Cell::new(0))];
        let writable = [&ctx, &other].into_iter().zip(&calls).map(|(ctx, calls)| {
            let calls = Rc::clone(calls);
            ctx.add_writable(&notifier, move |_| calls.set(calls.get() + 1)).unwrap()
        });
        let writable: Vec<_> = writable.collect();
        writable.iter().for_each(|w| w.arm().unwrap());
        settle(&ctx);
        settle(&other);
        notifier.take().unwrap();
        turn_until(&ctx, || calls[0].get() == 1);
        turn_until(&other, || calls[1].get() == 1);
        settle(&ctx);
        settle(&other);
        assert_eq!(calls.map(|c| c.get()), [1, 1]);
    }
}

pub(crate) fn producer_and_consumer_in_one_loop(setup: &Setup) {
    for ctx in contexts() {
        let notifier = setup.counter(4);
        let taken = Arc::new(AtomicU64::new(0));
        let _consumer = ctx
            .add_bounded(&notifier, {
                let taken = Arc::clone(&taken);
                move |_, n| {
                    taken.fetch_add(n, Ordering::Relaxed);
                }
            })
            .unwrap();
        let room = Rc::new(Cell::new(true));
        let flag = Rc::clone(&room);
        let writable = ctx.add_writable(&notifier, move |_| flag.set(true)).unwrap();
        let mut sent = 0;
        while sent < 500 {
            if notifier.try_notify(1).is_ok() {
                sent += 1;
            } else {
                room.set(false);
                writable.arm().unwrap();
                turn_until(&ctx, || room.get());
            }
        }
        turn_until(&ctx, || taken.load(Ordering::Relaxed) == 500);
    }
}

/// If the descriptor holds the bounded count, never reading it would stall the producer. If it is
/// only a doorbell, it need not be read.
pub(crate) fn a_doorbell_that_is_never_read_is_refused_or_harmless(setup: &Setup) {
    let edge = |reset: Reset| BoundedNotifier::builder(4).method(setup.method).reset(reset).build();
    if setup.method != BoundedMethod::Atomic {
        let error = edge(AutoresetBy(Method::Edge)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("stall"), "{error}");
        let notifier = edge(Autoreset).unwrap();
        for ctx in contexts() {
            let consumer = ctx.add_bounded(&notifier, |_, _| ()).unwrap();
            assert_eq!(consumer.method(), Method::Read);
            assert!(consumer.fallback().is_some_and(|why| why.contains("reads")));
        }
        return;
    }
    for ctx in contexts().into_iter().filter(|ctx| ctx.monitor().kind != MonitorKind::Poll) {
        let notifier = edge(AutoresetBy(Method::Edge)).unwrap();
        let (calls, callback) = record();
        let consumer = ctx.add_bounded(&notifier, callback).unwrap();
        assert_eq!((consumer.method(), consumer.fallback()), (Method::Edge, None));
        settle(&ctx);
        let (before, polls) = (ctx.stats(), notifier.stats());
        for round in 0..20 {
            notifier.notify(3).unwrap();
            turn_until(&ctx, || calls.borrow().len() == round + 1);
        }
        assert_eq!((ctx.stats() - before).syscalls_read, 0);
        assert_eq!(notifier.stats().reads, polls.reads);
    }
}

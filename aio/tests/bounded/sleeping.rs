//! Threads that sleep for room or for a count: nobody sleeps forever, the bound holds, nothing is
//! lost.

use crate::Setup;
use aio::BoundedNotifier;
use std::cell::UnsafeCell;
use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

/// Waits until that many threads have gone to sleep for this notifier. A sleep is counted just
/// before it begins.
fn until_asleep(notifier: &BoundedNotifier, sleepers: u64) {
    while notifier.stats().polls + notifier.stats().futex_waits < sleepers {
        thread::yield_now();
    }
}

pub(crate) fn a_producer_sleeps_until_a_take(setup: &Setup) {
    let notifier = setup.counter(3);
    notifier.notify(2).unwrap();
    thread::scope(|scope| {
        let producer = scope.spawn(|| notifier.notify(1).unwrap());
        until_asleep(&notifier, 1);
        assert_eq!(notifier.count().unwrap(), 2);
        assert_eq!(notifier.try_take().unwrap(), Some(2));
        producer.join().unwrap();
    });
    assert_eq!(notifier.try_take().unwrap(), Some(1));
}

pub(crate) fn a_producer_sleeps_until_the_maximum_is_raised(setup: &Setup) {
    for n in [1, 3] {
        let notifier = setup.counter(2);
        notifier.notify(1).unwrap();
        thread::scope(|scope| {
            let producer = scope.spawn(|| notifier.notify(n).unwrap());
            until_asleep(&notifier, 1);
            notifier.set_maximum(2 + n).unwrap();
            producer.join().unwrap();
        });
        assert_eq!(notifier.try_take().unwrap(), Some(1 + n));
    }
}

pub(crate) fn a_consumer_sleeps_until_a_notify(setup: &Setup) {
    let notifier = setup.counter(10);
    thread::scope(|scope| {
        let consumer = scope.spawn(|| notifier.take().unwrap());
        until_asleep(&notifier, 1);
        notifier.notify(5).unwrap();
        assert_eq!(consumer.join().unwrap(), 5);
    });
}

pub(crate) fn stop_ends_sleeps_now_and_later(setup: &Setup) {
    let (full, empty) = (setup.counter(3), setup.semaphore(3));
    full.notify(2).unwrap();
    thread::scope(|scope| {
        let sleepers = [
            scope.spawn(|| full.notify(1).unwrap_err().kind()),
            scope.spawn(|| full.notify(2).unwrap_err().kind()),
            // Can never be admitted.
            scope.spawn(|| full.notify(3).unwrap_err().kind()),
            scope.spawn(|| empty.take().unwrap_err().kind()),
        ];
        until_asleep(&full, 3);
        until_asleep(&empty, 1);
        full.stop().unwrap();
        empty.stop().unwrap();
        for sleeper in sleepers {
            assert_eq!(sleeper.join().unwrap(), ErrorKind::BrokenPipe);
        }
    });
    assert_eq!(full.notify(1).unwrap_err().kind(), ErrorKind::BrokenPipe);
    assert_eq!(empty.take().unwrap_err().kind(), ErrorKind::BrokenPipe);
}

pub(crate) fn stop_leaves_the_rest_alone(setup: &Setup) {
    let notifier = setup.counter(3);
    notifier.stop().unwrap();
    notifier.notify(1).unwrap();
    notifier.try_notify(1).unwrap();
    assert_eq!(notifier.take().unwrap(), 2);
    notifier.set_maximum(9).unwrap();
    notifier.notify(7).unwrap();
    assert_eq!(notifier.try_take().unwrap(), Some(7));
}

pub(crate) fn a_large_producer_waits_for_all_its_room(setup: &Setup) {
    let notifier = setup.semaphore(5);
    notifier.notify(4).unwrap();
    thread::scope(|scope| {
        let producer = scope.spawn(|| notifier.notify(3).unwrap());
        until_asleep(&notifier, 1);
        let mut taken = 0;
        while taken < 7 {
            assert!(notifier.count().unwrap() < 5);
            taken += notifier.take().unwrap();
        }
        producer.join().unwrap();
    });
    assert_eq!(notifier.try_take().unwrap(), None);
}

pub(crate) fn small_producers_pass_a_large_one_that_can_never_go(setup: &Setup) {
    let notifier = setup.counter(4);
    thread::scope(|scope| {
        let never = scope.spawn(|| notifier.notify(4).unwrap_err().kind());
        until_asleep(&notifier, 1);
        // Queued behind it.
        notifier.notify(3).unwrap();
        let small = scope.spawn(|| notifier.notify(1).unwrap());
        until_asleep(&notifier, 2);
        assert_eq!(notifier.take().unwrap(), 3);
        small.join().unwrap();
        assert_eq!(notifier.take().unwrap(), 1);
        for _ in 0..100 {
            notifier.notify(1).unwrap();
            notifier.notify(2).unwrap();
            assert_eq!(notifier.take().unwrap(), 3);
        }
        notifier.stop().unwrap();
        assert_eq!(never.join().unwrap(), ErrorKind::BrokenPipe);
    });
}

const PRODUCERS: u64 = 8;
const EACH: u64 = 2000;
const MAXIMUM: u64 = 6;

/// The bound by an independent count: the count is at least what the producers have finished
/// adding, minus what the consumer has begun to take.
#[derive(Default)]
struct Outstanding {
    added: AtomicU64,
    taking: AtomicU64,
}

impl Outstanding {
    fn check(&self) {
        // Read in this order, so that a consumer that continues meanwhile makes the difference
        // smaller, not larger.
        let added = self.added.load(Ordering::SeqCst);
        let taking = self.taking.load(Ordering::SeqCst);
        assert!(added.saturating_sub(taking) < MAXIMUM, "{added} added, {taking} taken or about to be");
    }
}

fn produce(notifier: &BoundedNotifier, sizes: u64, added: impl Fn(u64)) {
    for i in 0..EACH {
        let n = 1 + i % sizes;
        // Some do not sleep.
        if i % 7 != 0 || notifier.try_notify(n).is_err() {
            notifier.notify(n).unwrap();
        }
        added(n);
    }
}

pub(crate) fn posts_of_eight_producers_arrive(setup: &Setup) {
    let (notifier, outstanding) = (setup.semaphore(MAXIMUM), Outstanding::default());
    thread::scope(|scope| {
        for _ in 0..PRODUCERS {
            scope.spawn(|| {
                produce(&notifier, 1, |n| {
                    outstanding.added.fetch_add(n, Ordering::SeqCst);
                    outstanding.check();
                })
            });
        }
        for _ in 0..PRODUCERS * EACH {
            outstanding.taking.fetch_add(1, Ordering::SeqCst);
            assert_eq!(notifier.take().unwrap(), 1);
            assert!(notifier.count().unwrap() < MAXIMUM);
        }
    });
    assert_eq!(notifier.try_take().unwrap(), None);
}

pub(crate) fn a_counter_of_eight_producers_adds_up(setup: &Setup) {
    let notifier = setup.counter(MAXIMUM);
    let total = PRODUCERS * (0..EACH).map(|i| 1 + i % 3).sum::<u64>();
    thread::scope(|scope| {
        for _ in 0..PRODUCERS {
            scope.spawn(|| produce(&notifier, 3, |_| ()));
        }
        let mut sum = 0;
        while sum < total {
            let taken = notifier.take().unwrap();
            assert!(taken < MAXIMUM, "{taken} at once");
            sum += taken;
        }
        assert_eq!(sum, total);
    });
    assert_eq!(notifier.try_take().unwrap(), None);
}

pub(crate) fn several_consumers_share_a_semaphore(setup: &Setup) {
    let (notifier, taken) = (setup.semaphore(4), AtomicU64::new(0));
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..EACH).for_each(|_| notifier.notify(1).unwrap()));
        }
        let consumers = [(); 4].map(|()| {
            scope.spawn(|| {
                while let Ok(n) = notifier.take() {
                    taken.fetch_add(n, Ordering::Relaxed);
                }
            })
        });
        while taken.load(Ordering::Relaxed) < 4 * EACH {
            thread::yield_now();
        }
        notifier.stop().unwrap();
        consumers.into_iter().for_each(|consumer| consumer.join().unwrap());
    });
    assert_eq!(taken.load(Ordering::Relaxed), 4 * EACH, "each post was taken once");
}

/// Each wants more than half of the room, so neither may keep a part of it while it sleeps.
pub(crate) fn two_large_producers_do_not_block_each_other(setup: &Setup) {
    let notifier = setup.semaphore(8);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| (0..300).for_each(|_| notifier.notify(5).unwrap()));
        }
        for _ in 0..2 * 300 * 5 {
            assert_eq!(notifier.take().unwrap(), 1);
        }
    });
    assert_eq!(notifier.count().unwrap(), 0);
}

/// Plain memory, synchronised only by notify and take.
struct Mailbox(UnsafeCell<u64>);

// SAFETY: only in the test below, where notify and take order the accesses.
#[expect(unsafe_code, reason = "the test is about what orders plain accesses")]
unsafe impl Sync for Mailbox {}

#[expect(unsafe_code, reason = "the test is about what orders plain accesses")]
pub(crate) fn what_was_published_is_visible(setup: &Setup) {
    let (there, back) = (setup.semaphore(2), setup.semaphore(2));
    let mailbox = Mailbox(UnsafeCell::new(0));
    thread::scope(|scope| {
        let (mailbox, there, back) = (&mailbox, &there, &back);
        scope.spawn(move || {
            for i in 1..=EACH {
                // SAFETY: the other thread waits for `there`, and has notified `back` after its
                // last access.
                unsafe { *mailbox.0.get() = i };
                there.notify(1).unwrap();
                back.take().unwrap();
            }
        });
        for i in 1..=EACH {
            there.take().unwrap();
            // SAFETY: the other thread waits for `back`, and notified `there` after its last
            // access.
            assert_eq!(unsafe { *mailbox.0.get() }, i);
            back.notify(1).unwrap();
        }
    });
}

pub(crate) fn the_maximum_changes_under_load(setup: &Setup) {
    let (notifier, over) = (setup.counter(8), Arc::new(AtomicBool::new(false)));
    thread::scope(|scope| {
        let producers = [1, 1, 2].map(|n| {
            let notifier = &notifier;
            scope.spawn(move || (0..EACH).for_each(|_| notifier.notify(n).unwrap()))
        });
        let changer = scope.spawn(|| {
            let mut lowered = 0u64;
            while !over.load(Ordering::Relaxed) {
                for maximum in [3, 12, 4, 8] {
                    let old = notifier.maximum().unwrap();
                    let set = notifier.set_maximum(maximum).is_ok();
                    lowered += u64::from(set && maximum < old);
                    // Whatever is in there now was admitted under this maximum, or was below it
                    // when it was set.
                    assert!(!set || notifier.count().unwrap() < maximum, "above a maximum of {maximum}");
                }
            }
            lowered
        });
        let mut sum = 0;
        while sum < 4 * EACH {
            sum += notifier.take().unwrap();
        }
        over.store(true, Ordering::Relaxed);
        producers.into_iter().for_each(|producer| producer.join().unwrap());
        println!("{} times lowered", changer.join().unwrap());
        assert_eq!(sum, 4 * EACH);
    });
}

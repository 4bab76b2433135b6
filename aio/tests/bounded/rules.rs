//! What is admitted, and what is not: the inequality, the modes, the maximum.

use crate::Setup;
use aio::{BoundedMethod, BoundedNotifier, Counting};
use std::io::{self, ErrorKind};

/// The kind of the error, or `None` for success.
pub(crate) fn outcome(result: io::Result<()>) -> Option<ErrorKind> {
    result.err().map(|e| e.kind())
}

const FULL: Option<ErrorKind> = Some(ErrorKind::WouldBlock);
const INVALID: Option<ErrorKind> = Some(ErrorKind::InvalidInput);
const OK: Option<ErrorKind> = None;

/// Test 1 of the proposal's selftests (v5).
pub(crate) fn a_fresh_maximum_is_the_one_asked_for(setup: &Setup) {
    assert_eq!(setup.counter(10).maximum().unwrap(), 10);
    if setup.method != BoundedMethod::Credit {
        let unlimited = setup.counter(u64::MAX);
        assert_eq!(unlimited.maximum().unwrap(), u64::MAX);
        unlimited.try_notify(1 << 31).unwrap();
        assert_eq!(unlimited.try_take().unwrap(), Some(1 << 31));
    }
}

/// Test 2 of the proposal's selftests (v5).
pub(crate) fn a_maximum_that_is_set_is_got(setup: &Setup) {
    let notifier = setup.counter(setup.most());
    notifier.set_maximum(1000).unwrap();
    assert_eq!(notifier.maximum().unwrap(), 1000);
}

/// Test 3 of the proposal's selftests (v5).
pub(crate) fn a_maximum_at_the_count_or_below_is_refused(setup: &Setup) {
    let notifier = setup.counter(100);
    notifier.try_notify(5).unwrap();
    assert_eq!(outcome(notifier.set_maximum(5)), INVALID);
    assert_eq!(outcome(notifier.set_maximum(3)), INVALID);
    assert_eq!(notifier.maximum().unwrap(), 100, "a refusal changes nothing");
    notifier.set_maximum(10).unwrap();
    notifier.set_maximum(6).unwrap();
    assert_eq!((notifier.maximum().unwrap(), notifier.count().unwrap()), (6, 5));
    assert_eq!(outcome(notifier.try_notify(1)), FULL);
}

/// Test 4 of the proposal's selftests (v5).
pub(crate) fn a_full_count_would_block_and_a_take_makes_room(setup: &Setup) {
    let notifier = setup.counter(5);
    notifier.try_notify(4).unwrap();
    assert_eq!(outcome(notifier.try_notify(1)), FULL);
    assert_eq!(notifier.try_take().unwrap(), Some(4));
    assert_eq!(notifier.try_take().unwrap(), None);
    notifier.try_notify(1).unwrap();
    assert_eq!(notifier.try_take().unwrap(), Some(1));
}

pub(crate) fn the_count_is_seen_and_left(setup: &Setup) {
    let notifier = setup.semaphore(9);
    for count in 0..4 {
        assert_eq!(notifier.count().unwrap(), count);
        notifier.try_notify(1).unwrap();
    }
    assert_eq!(notifier.try_take().unwrap(), Some(1));
    assert_eq!(notifier.count().unwrap(), 3);
}

pub(crate) fn what_does_not_fit_changes_nothing(setup: &Setup) {
    let notifier = setup.counter(10);
    notifier.try_notify(4).unwrap();
    assert_eq!(outcome(notifier.try_notify(6)), FULL);
    assert_eq!(notifier.count().unwrap(), 4);
    notifier.try_notify(5).unwrap();
    assert_eq!(outcome(notifier.try_notify(1)), FULL);
    notifier.try_notify(0).unwrap();
    assert_eq!(notifier.try_take().unwrap(), Some(9));
}

pub(crate) fn n_of_the_maximum_or_more_never_fits(setup: &Setup) {
    let notifier = setup.counter(10);
    for n in [10, 11, 1 << 20, 1 << 32, (1 << 32) + 1, u64::MAX - 1] {
        assert_eq!(outcome(notifier.try_notify(n)), FULL, "{n}");
    }
    assert_eq!(notifier.count().unwrap(), 0);
    notifier.try_notify(9).unwrap();
}

pub(crate) fn maximum_one_admits_only_zero(setup: &Setup) {
    let notifier = setup.counter(1);
    notifier.try_notify(0).unwrap();
    assert_eq!(outcome(notifier.try_notify(1)), FULL);
    assert_eq!(notifier.try_take().unwrap(), None);
    notifier.set_maximum(2).unwrap();
    notifier.try_notify(1).unwrap();
    assert_eq!(outcome(notifier.set_maximum(1)), INVALID);
}

pub(crate) fn maximum_zero_is_refused(setup: &Setup) {
    let error = BoundedNotifier::builder(0).method(setup.method).build().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert_eq!(outcome(setup.counter(5).set_maximum(0)), INVALID);
}

pub(crate) fn all_ones_is_invalid(setup: &Setup) {
    let notifier = setup.counter(10);
    assert_eq!(outcome(notifier.try_notify(u64::MAX)), INVALID);
    assert_eq!(outcome(notifier.notify(u64::MAX)), INVALID);
}

pub(crate) fn the_highest_maximum_is_kept(setup: &Setup) {
    let (most, notifier) = (setup.most(), setup.counter(setup.most()));
    assert_eq!(notifier.maximum().unwrap(), most);
    notifier.try_notify(most - 1).unwrap();
    assert_eq!(outcome(notifier.try_notify(1)), FULL);
    assert_eq!(notifier.try_take().unwrap(), Some(most - 1));
}

pub(crate) fn what_is_too_high_is_refused(setup: &Setup) {
    let too_high = match setup.method {
        BoundedMethod::Atomic => vec![1 << 32, u64::MAX - 1],
        BoundedMethod::Credit => vec![(1 << 16) + 1, u64::MAX],
        _ => vec![],
    };
    for maximum in too_high {
        let error = BoundedNotifier::builder(maximum).method(setup.method).build().unwrap_err();
        assert!(error.to_string().contains("at most"), "{error}");
        let notifier = setup.counter(10);
        assert_eq!(outcome(notifier.set_maximum(maximum)), INVALID);
        assert_eq!(notifier.maximum().unwrap(), 10);
    }
}

pub(crate) fn a_counter_gives_all_and_a_semaphore_one(setup: &Setup) {
    let (counter, semaphore) = (setup.counter(10), setup.semaphore(10));
    assert_eq!((counter.counting(), semaphore.counting()), (Counting::Counter, Counting::Semaphore));
    counter.try_notify(3).unwrap();
    semaphore.try_notify(3).unwrap();
    let taken = |n: &BoundedNotifier| [(); 4].map(|()| n.try_take().unwrap());
    assert_eq!(taken(&counter), [Some(3), None, None, None]);
    assert_eq!(taken(&semaphore), [Some(1), Some(1), Some(1), None]);
}

/// Of `maximum - 1` places, of which each take frees one.
pub(crate) fn a_semaphore_is_a_queue(setup: &Setup) {
    let notifier = setup.semaphore(4);
    notifier.try_notify(3).unwrap();
    for _ in 0..100 {
        assert_eq!(outcome(notifier.try_notify(1)), FULL);
        assert_eq!(notifier.take().unwrap(), 1);
        notifier.try_notify(1).unwrap();
    }
    assert_eq!(notifier.count().unwrap(), 3);
}

pub(crate) fn raising_makes_room_at_once(setup: &Setup) {
    let notifier = setup.counter(3);
    notifier.try_notify(2).unwrap();
    assert_eq!(outcome(notifier.try_notify(2)), FULL);
    notifier.set_maximum(5).unwrap();
    notifier.try_notify(2).unwrap();
    assert_eq!(outcome(notifier.try_notify(1)), FULL);
    assert_eq!(notifier.try_take().unwrap(), Some(4));
}

pub(crate) fn lowering_takes_room_away(setup: &Setup) {
    let notifier = setup.counter(100);
    notifier.try_notify(1).unwrap();
    notifier.set_maximum(3).unwrap();
    assert_eq!(outcome(notifier.try_notify(2)), FULL);
    notifier.try_notify(1).unwrap();
    assert_eq!(notifier.try_take().unwrap(), Some(2));
    assert_eq!(outcome(notifier.try_notify(3)), FULL);
    notifier.try_notify(2).unwrap();
}

/// A model of the kernel's rules.
pub(crate) fn random_calls_agree_with_a_model(setup: &Setup) {
    for semaphore in [false, true] {
        let notifier = if semaphore { setup.semaphore(7) } else { setup.counter(7) };
        let (mut count, mut maximum) = (0u64, 7u64);
        let mut seed = 0x2545_f491_4f6c_dd1du64;
        for step in 0..5000 {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            let n = (seed >> 8) % 12;
            match seed % 8 {
                0..4 => {
                    let fits = maximum > count && maximum - count > n;
                    assert_eq!(outcome(notifier.try_notify(n)), if fits { OK } else { FULL }, "step {step}");
                    count += if fits { n } else { 0 };
                }
                4..7 => {
                    let take = if semaphore { count.min(1) } else { count };
                    assert_eq!(notifier.try_take().unwrap(), (take != 0).then_some(take), "step {step}");
                    count -= take;
                }
                _ => {
                    let fits = count < n;
                    assert_eq!(
                        outcome(notifier.set_maximum(n)),
                        if fits { OK } else { INVALID },
                        "step {step}"
                    );
                    maximum = if fits { n } else { maximum };
                }
            }
            assert_eq!(
                (notifier.count().unwrap(), notifier.maximum().unwrap()),
                (count, maximum),
                "step {step}"
            );
        }
    }
}

pub(crate) fn clones_share_the_count(setup: &Setup) {
    let notifier = setup.counter(3);
    let clone = notifier.clone();
    clone.try_notify(2).unwrap();
    assert_eq!(outcome(notifier.try_notify(1)), FULL);
    drop(notifier);
    assert_eq!(clone.try_take().unwrap(), Some(2));
}

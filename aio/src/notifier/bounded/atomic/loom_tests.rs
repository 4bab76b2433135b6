//! Loom models of the bounded count: no thread sleeps forever, the bound holds, and nothing is
//! lost.
//!
//! ```text
//! RUSTFLAGS="--cfg loom" cargo test -p aio-context --release --lib loom
//! ```
//!
//! A lost wake-up leaves a thread sleeping forever, which loom reports as a deadlock. The models
//! with a deliberate mistake must end that way.

use super::{Arrived, Level, Registered, SeqCst, Sleepers, State, Taken, loom_fence};
use loom::sync::{Condvar, Mutex};
use loom::thread;
// Not loom's types, because they cannot be dropped when loom unwinds from a deadlock.
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Checks all schedules with at most this many preemptions. LOOM_MAX_PREEMPTIONS can lower the
/// limit.
fn check(preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound =
        Some(builder.preemption_bound.map_or(preemptions, |most| most.min(preemptions)));
    builder.check(model);
}

/// Does the same as `Atomic::add`.
fn add(state: &State, n: u64) {
    let wake = |arrived: Arrived| {
        if arrived.wake != 0 {
            state.readers.wake(arrived.wake);
        }
    };
    if let Some(arrived) = state.try_add(n) {
        return wake(arrived);
    }
    let _large = (n > 1).then(|| Registered::at(&state.large));
    wake(state.writers.sleep_until(|| state.try_add(n), || {}).unwrap());
}

/// Does the same as `Atomic::take`.
fn take(state: &State) -> u64 {
    let taken = match state.try_take() {
        Some(taken) => taken,
        None => state.readers.sleep_until(|| state.try_take(), || {}).unwrap(),
    };
    make_room(state, taken);
    taken.count.into()
}

fn make_room(state: &State, taken: Taken) {
    if taken.wake != 0 {
        state.writers.wake(taken.wake);
    }
}

/// Each producer thread adds the numbers of its list in order; the main thread takes until it has
/// everything.
fn all_that_is_added_is_taken(maximum: u32, semaphore: bool, adds: &'static [&'static [u64]]) {
    check(2, move || {
        let state = Arc::new(State::new(maximum, semaphore));
        // Fill the count first, so that every producer has to wait.
        let full = u64::from(maximum) - 1;
        add(&state, full);
        let producers: Vec<_> = adds
            .iter()
            .map(|adds| {
                let state = Arc::clone(&state);
                thread::spawn(move || adds.iter().for_each(|n| add(&state, *n)))
            })
            .collect();
        let total = full + adds.iter().copied().flatten().sum::<u64>();
        let mut sum = 0;
        while sum < total {
            let taken = take(&state);
            assert!(taken < maximum.into(), "took {taken}, which exceeds the bound");
            sum += taken;
        }
        assert_eq!((sum, state.count()), (total, 0));
        producers.into_iter().for_each(|t| t.join().unwrap());
    });
}

#[test]
fn a_producer_that_sleeps_for_room_is_woken() {
    all_that_is_added_is_taken(2, false, &[&[1, 1]]);
    all_that_is_added_is_taken(2, true, &[&[1, 1]]);
}

#[test]
fn two_producers_that_sleep_for_room_are_woken() {
    all_that_is_added_is_taken(2, true, &[&[1], &[1]]);
    all_that_is_added_is_taken(2, false, &[&[1], &[1]]);
}

/// One producer needs all the room, the other only part of it.
#[test]
fn a_large_producer_is_woken_among_small_ones() {
    all_that_is_added_is_taken(3, true, &[&[1], &[2]]);
    all_that_is_added_is_taken(3, false, &[&[1], &[2]]);
}

#[test]
fn two_consumers_get_one_each() {
    check(2, || {
        let state = Arc::new(State::new(3, true));
        let consumers = [(); 2].map(|()| {
            let state = Arc::clone(&state);
            thread::spawn(move || take(&state))
        });
        add(&state, 2);
        consumers.into_iter().for_each(|t| assert_eq!(t.join().unwrap(), 1));
        assert_eq!(state.count(), 0);
    });
}

#[test]
fn a_raised_maximum_wakes_the_producer() {
    check(3, || {
        let state = Arc::new(State::new(2, false));
        add(&state, 1);
        let producer = thread::spawn({
            let state = Arc::clone(&state);
            move || add(&state, 1)
        });
        make_room(&state, state.set_maximum(3).unwrap());
        producer.join().unwrap();
        assert_eq!(state.count(), 2);
    });
}

/// Lowering the maximum and adding race for the same room; exactly one of them succeeds.
#[test]
fn a_maximum_is_never_set_below_the_count() {
    check(3, || {
        let state = Arc::new(State::new(4, false));
        let producer = thread::spawn({
            let state = Arc::clone(&state);
            move || state.try_add(2).is_some()
        });
        let lowered = state.set_maximum(2).is_some();
        let Level { count, maximum } = state.level();
        assert!(count < maximum, "{count} of {maximum}");
        assert!(lowered != producer.join().unwrap());
    });
}

#[test]
fn stop_ends_every_sleep() {
    check(2, || {
        let state = Arc::new(State::new(2, false));
        let sleeper = thread::spawn({
            let state = Arc::clone(&state);
            move || {
                let look = || state.is_stopped().then_some(());
                state.readers.sleep_until(look, || {}).unwrap();
                state.writers.sleep_until(look, || {}).unwrap();
            }
        });
        state.stop();
        sleeper.join().unwrap();
    });
}

/// A model of the doorbell: an eventfd that a loop polls level-triggered and reads.
struct Bell {
    rung: Mutex<u64>,
    written: Condvar,
}

impl Bell {
    fn ring(&self) {
        *self.rung.lock().unwrap() += 1;
        self.written.notify_one();
    }

    fn sleep(&self) {
        let mut rung = self.rung.lock().unwrap();
        while *rung == 0 {
            rung = self.written.wait(rung).unwrap();
        }
        *rung = 0;
    }
}

/// A deliberate mistake in the protocol, which loses wake-ups.
#[derive(Clone, Copy, PartialEq)]
enum Mistake {
    /// The loop checks the count before it arms the doorbell, but not afterwards.
    ArmsAndSleeps,
    /// The sleeper checks before it registers, but not afterwards.
    LooksBeforeItRegisters,
    /// The sequence number is read after the check.
    SequenceAfterTheLook,
    /// The producer that finds no room does not register.
    NeverRegisters,
}

/// Two producers, and a loop that takes until the count is zero, arms the doorbell, and sleeps on
/// it.
fn a_loop_hears_the_doorbell(mistake: Option<Mistake>) {
    check(3, move || {
        let state = Arc::new(State::new(9, false));
        let bell = Arc::new(Bell { rung: Mutex::new(0), written: Condvar::new() });
        // Not a loom atomic: it is not part of the protocol and only counts the rings.
        let rings = Arc::new(AtomicU64::new(0));
        let producers = [(); 2].map(|()| {
            let (state, bell, rings) = (Arc::clone(&state), Arc::clone(&bell), Arc::clone(&rings));
            thread::spawn(move || {
                if state.try_add(1).is_some_and(|arrived| arrived.ring) {
                    rings.fetch_add(1, Ordering::Relaxed);
                    bell.ring();
                }
            })
        });
        let mut sum = 0;
        while sum < 2 {
            match state.try_take() {
                Some(taken) => sum += taken.count,
                None if mistake == Some(Mistake::ArmsAndSleeps) => {
                    state.armed.store(1, SeqCst);
                    bell.sleep();
                }
                None if state.arm() => bell.sleep(),
                None => {}
            }
        }
        producers.into_iter().for_each(|t| t.join().unwrap());
        assert!(rings.load(Ordering::Relaxed) <= 2);
    });
}

#[test]
fn a_sleeping_loop_hears_the_doorbell() {
    a_loop_hears_the_doorbell(None);
}

#[test]
#[should_panic(expected = "deadlock")]
fn arming_without_a_look_loses_a_wake_up() {
    a_loop_hears_the_doorbell(Some(Mistake::ArmsAndSleeps));
}

/// `Sleepers::sleep_until` with a mistake. It does not use the guard, because loom cannot run the
/// guard's drop when it unwinds from a deadlock.
fn sleep_wrongly<R>(sleepers: &Sleepers, mistake: Mistake, mut look: impl FnMut() -> Option<R>) -> R {
    let register = |at: bool| {
        if at {
            sleepers.waiting.fetch_add(1, SeqCst);
            loom_fence();
        }
    };
    loop {
        register(mistake == Mistake::SequenceAfterTheLook);
        let early = sleepers.sequence.load();
        if let Some(result) = look() {
            return result;
        }
        let late = sleepers.sequence.load();
        register(mistake == Mistake::LooksBeforeItRegisters);
        let sequence = if mistake == Mistake::SequenceAfterTheLook { late } else { early };
        sleepers.sequence.wait(sequence).unwrap();
    }
}

fn a_full_count_is_slept_out_wrongly(mistake: Mistake) {
    check(3, move || {
        let state = Arc::new(State::new(2, false));
        assert!(state.try_add(1).is_some());
        let producer = thread::spawn({
            let state = Arc::clone(&state);
            move || {
                sleep_wrongly(&state.writers, mistake, || state.try_add(1));
            }
        });
        make_room(&state, state.try_take().unwrap());
        producer.join().unwrap();
    });
}

#[test]
#[should_panic(expected = "deadlock")]
fn looking_before_registering_loses_a_wake_up() {
    a_full_count_is_slept_out_wrongly(Mistake::LooksBeforeItRegisters);
}

#[test]
#[should_panic(expected = "deadlock")]
fn reading_the_sequence_after_the_look_loses_a_wake_up() {
    a_full_count_is_slept_out_wrongly(Mistake::SequenceAfterTheLook);
}

#[test]
#[should_panic(expected = "deadlock")]
fn a_producer_that_does_not_register_is_not_woken() {
    a_full_count_is_slept_out_wrongly(Mistake::NeverRegisters);
}

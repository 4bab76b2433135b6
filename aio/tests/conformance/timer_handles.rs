//! Timers that other threads arm and cancel.

use crate::setup::Setup;
use crate::support::{Count, SPIN, Slot, look, turn, turn_until, turns_of_an_idle_loop};
use crate::virtual_clock::turns_of_twenty_sleeps;
use aio::{AioContext, Clock, Timer, TimerHandle};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A timer that counts its runs, and a handle of it.
fn counting(ctx: &AioContext) -> (Timer, TimerHandle, Count) {
    let runs = Count::default();
    let timer = ctx.timer({
        let runs = runs.clone();
        move |_| runs.bump()
    });
    let handle = timer.handle();
    (timer, handle, runs)
}

/// Runs `work` in another thread and waits for its end.
fn elsewhere(work: impl FnOnce() + Send) {
    std::thread::scope(|scope| scope.spawn(work).join().unwrap());
}

pub(crate) fn another_thread_arms_the_timer_of_a_sleeping_loop(setup: &Setup) {
    let ctx = setup.context();
    let (_timer, handle, runs) = counting(&ctx);
    for round in 1..=20 {
        let handle = handle.clone();
        let thread = std::thread::spawn(move || {
            // The loop gets a chance to fall asleep. The test holds whether it does or not.
            (0..200).for_each(|_| std::thread::yield_now());
            match round % 2 {
                0 => handle.arm_at(handle.now_ns()),
                _ => handle.arm_after(Duration::from_micros(100)),
            }
        });
        turn_until(&ctx, || runs.get() == round);
        thread.join().unwrap();
        assert!(!look(&ctx));
    }
    assert_eq!(runs.get(), 20);
}

pub(crate) fn what_was_written_before_is_visible(setup: &Setup) {
    const ROUNDS: u64 = 300;
    let ctx = setup.context();
    let (written, seen) = (Arc::new(AtomicU64::new(0)), Count::default());
    let timer = ctx.timer({
        let (written, seen) = (Arc::clone(&written), seen.clone());
        move |_| seen.add(written.load(Ordering::Relaxed) - seen.get())
    });
    let handle = timer.handle();
    let thread = std::thread::spawn(move || {
        for round in 1..=ROUNDS {
            written.store(round, Ordering::Relaxed);
            handle.arm_at(0);
        }
    });
    turn_until(&ctx, || seen.get() == ROUNDS);
    thread.join().unwrap();
}

pub(crate) fn the_last_call_wins(setup: &Setup) {
    let ctx = setup.context();
    let (timer, handle, runs) = counting(&ctx);
    elsewhere(|| {
        handle.arm_at(0);
        handle.cancel();
    });
    assert!(!look(&ctx));
    assert!(!timer.is_pending());
    elsewhere(|| {
        handle.cancel();
        handle.arm_at(7);
        handle.arm_at(u64::MAX);
    });
    assert!(!look(&ctx));
    assert!(timer.deadline_ns() > Some(u64::MAX / 2));
    elsewhere(|| {
        handle.arm_after(Duration::from_secs(1_000));
        handle.cancel();
        handle.arm_at(0);
    });
    assert!(turn(&ctx));
    assert_eq!(runs.get(), 1);
    assert!(turns_of_an_idle_loop(&ctx) < SPIN);
    assert_eq!(runs.get(), 1);
}

pub(crate) fn calls_of_the_home_thread_come_after_those_before_them(setup: &Setup) {
    let ctx = setup.context();
    let (timer, handle, runs) = counting(&ctx);
    elsewhere(|| handle.arm_at(5));
    assert_eq!(timer.deadline_ns(), Some(5), "before the loop has turned");
    timer.cancel();
    assert!(!look(&ctx));
    elsewhere(|| handle.arm_at(0));
    timer.arm_at(u64::MAX);
    assert!(!look(&ctx));
    assert_eq!(timer.deadline_ns(), Some(u64::MAX));
    timer.arm_at(0);
    elsewhere(|| handle.cancel());
    assert!(!timer.is_pending());
    assert!(!look(&ctx));
    elsewhere(|| handle.arm_at(9));
    timer.anticipate_at(10);
    assert_eq!(timer.deadline_ns(), Some(9));
    assert!(turn(&ctx));
    assert!(!look(&ctx));
    assert_eq!(runs.get(), 1);
}

pub(crate) fn a_request_is_no_progress(setup: &Setup) {
    let ctx = setup.context();
    let (timer, handle, runs) = counting(&ctx);
    handle.arm_after(Duration::from_secs(1_000));
    assert!(!turn(&ctx), "a turn that does not sleep, because there is a request");
    assert!(timer.is_pending());
    handle.cancel();
    assert!(!turn(&ctx));
    assert!(!timer.is_pending());
    assert_eq!((runs.get(), ctx.stats().bottom_halves, ctx.stats().timers), (0, 0, 0));
}

pub(crate) fn many_calls_are_carried_out_as_one(setup: &Setup) {
    let ctx = setup.context();
    let (_timer, handle, runs) = counting(&ctx);
    elsewhere(|| (0..10_000).for_each(|_| handle.arm_at(0)));
    assert!(turn(&ctx));
    assert!(!look(&ctx));
    assert_eq!((runs.get(), ctx.stats().syscalls_write), (1, 0));
}

pub(crate) fn a_cancel_does_not_wake_the_loop(setup: &Setup) {
    let ctx = setup.context();
    let (timer, handle, runs) = counting(&ctx);
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                handle.cancel();
                std::thread::yield_now();
            }
        });
        turns_of_twenty_sleeps(&ctx, || timer.arm_after(Duration::from_secs(1_000)));
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!((runs.get(), ctx.stats().syscalls_write), (0, 0));
    handle.cancel();
    assert!(!look(&ctx));
    assert!(!timer.is_pending());
}

pub(crate) fn each_call_is_followed_by_one_run(setup: &Setup) {
    const ROUNDS: u64 = 300;
    let ctx = setup.context();
    let ran = Arc::new(AtomicU64::new(0));
    let timer = ctx.timer({
        let ran = Arc::clone(&ran);
        move |_| {
            ran.fetch_add(1, Ordering::SeqCst);
        }
    });
    // Two handles that do not know of each other.
    let handles = [timer.handle(), timer.handle()];
    let thread = std::thread::spawn({
        let ran = Arc::clone(&ran);
        move || {
            for round in 0..ROUNDS {
                handles[round as usize % 2].arm_at(0);
                while ran.load(Ordering::SeqCst) == round {
                    std::thread::yield_now();
                }
                assert_eq!(ran.load(Ordering::SeqCst), round + 1);
            }
        }
    });
    turn_until(&ctx, || ran.load(Ordering::SeqCst) >= ROUNDS);
    thread.join().unwrap();
    assert!(!look(&ctx));
    assert_eq!(ran.load(Ordering::SeqCst), ROUNDS);
}

pub(crate) fn calls_of_four_threads_and_the_home_thread(setup: &Setup) {
    const THREADS: u64 = 4;
    const CALLS: u64 = 1_000;
    let ctx = setup.context();
    let (timer, handle, runs) = counting(&ctx);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|_| {
                let handle = handle.clone();
                scope.spawn(move || {
                    for call in 0..CALLS {
                        match call % 4 {
                            0 => handle.cancel(),
                            1 => handle.arm_after(Duration::from_secs(1_000)),
                            _ => handle.arm_at(0),
                        }
                    }
                })
            })
            .collect();
        while threads.iter().any(|thread| !thread.is_finished()) {
            look(&ctx);
            timer.anticipate_at(1);
            timer.cancel();
        }
    });
    assert!(runs.get() <= THREADS * CALLS / 2, "{} runs", runs.get());
    let before = runs.get();
    elsewhere(|| handle.cancel());
    assert!(!look(&ctx));
    elsewhere(|| handle.arm_at(0));
    assert!(turn(&ctx));
    assert!(!look(&ctx));
    assert_eq!(runs.get(), before + 1);
}

pub(crate) fn its_callback_arms_it_through_the_handle(setup: &Setup) {
    let ctx = setup.context();
    let (slot, runs) = (Slot::<TimerHandle>::new(), Count::default());
    let timer = ctx.timer({
        let (slot, runs) = (slot.clone(), runs.clone());
        move |_| {
            runs.bump();
            slot.with(|handle| handle.arm_at(0));
        }
    });
    slot.put(timer.handle());
    timer.arm_at(0);
    for turns in 1..=5 {
        assert!(turn(&ctx));
        assert_eq!(runs.get(), turns);
    }
    drop(timer);
    assert!(!look(&ctx));
}

pub(crate) fn on_the_virtual_clock(setup: &Setup) {
    let ctx = setup.context();
    let runs = Count::default();
    let timer = ctx.timer_on(Clock::Virtual, {
        let runs = runs.clone();
        move |_| runs.bump()
    });
    let (handle, clock) = (timer.handle(), Arc::clone(ctx.virtual_clock()));
    clock.step(Duration::from_nanos(100));
    let thread = std::thread::spawn(move || {
        assert_eq!(handle.now_ns(), 100);
        handle.arm_after(Duration::from_nanos(50));
        clock.step(Duration::from_nanos(50));
    });
    turn_until(&ctx, || runs.get() == 1);
    thread.join().unwrap();
    assert_eq!(ctx.virtual_clock().now_ns(), 150);
}

pub(crate) fn handles_outlive_timer_and_context(setup: &Setup) {
    let ctx = setup.context();
    let (timer, handle, runs) = counting(&ctx);
    handle.arm_at(0);
    drop(timer);
    handle.arm_at(0);
    assert!(!look(&ctx));
    // The next timer takes its place in the table.
    let (next, _, next_runs) = counting(&ctx);
    handle.arm_at(0);
    assert!(!look(&ctx));
    assert!(!next.is_pending());
    drop(ctx);
    let late = next.handle();
    for handle in [&handle, &late] {
        elsewhere(|| handle.arm_after(Duration::ZERO));
        handle.cancel();
    }
    assert_eq!((runs.get(), next_runs.get()), (0, 0));
}

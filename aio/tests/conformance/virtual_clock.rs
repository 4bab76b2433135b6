//! One virtual clock for the loops of a VM.

use crate::setup::Setup;
use crate::support::{Count, Slot, look, turn, turn_until};
use aio::{AioContext, Clock, IoThread, Timer, VirtualClock};
use std::cell::Cell;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

fn sharing(setup: &Setup, clock: &Arc<VirtualClock>) -> AioContext {
    setup.builder().virtual_clock(Arc::clone(clock)).build().unwrap()
}

fn thread_sharing<T>(
    setup: &Setup,
    clock: &Arc<VirtualClock>,
    init: impl FnOnce(&AioContext) -> io::Result<T> + Send + 'static,
) -> IoThread {
    IoThread::spawn_with("clock", setup.builder().virtual_clock(Arc::clone(clock)), init).unwrap()
}

pub(crate) fn a_context_has_a_clock_of_its_own_unless_it_is_given_one(setup: &Setup) {
    let (one, other) = (setup.context(), setup.context());
    one.virtual_clock().step(Duration::from_nanos(7));
    assert_eq!((one.virtual_clock().now_ns(), other.virtual_clock().now_ns()), (7, 0));
    let sharer = sharing(setup, one.virtual_clock());
    assert!(Arc::ptr_eq(sharer.virtual_clock(), one.virtual_clock()));
    assert_eq!(sharer.timer_on(Clock::Virtual, |_| ()).now_ns(), 7);
}

pub(crate) fn one_step_is_seen_by_the_timers_of_every_loop(setup: &Setup) {
    const LOOPS: u64 = 3;
    const TIMERS: u64 = 10;
    let clock = Arc::new(VirtualClock::new());
    let (ran, runs) = mpsc::channel();
    let threads: Vec<_> = (0..LOOPS)
        .map(|name| {
            let ran = ran.clone();
            thread_sharing(setup, &clock, move |ctx| {
                Ok((0..TIMERS)
                    .map(|i| {
                        let (ran, at_ns) = (ran.clone(), 1 + i * LOOPS + name);
                        let timer = ctx.timer_on(Clock::Virtual, move |ctx| {
                            ran.send((at_ns, ctx.virtual_clock().now_ns())).unwrap();
                        });
                        timer.arm_at(at_ns);
                        timer
                    })
                    .collect::<Vec<_>>())
            })
        })
        .collect();
    let mut seen = Vec::new();
    for now_ns in [LOOPS, TIMERS * LOOPS / 2, TIMERS * LOOPS] {
        clock.step(Duration::from_nanos(now_ns - clock.now_ns()));
        while (seen.len() as u64) < now_ns {
            let (at_ns, read_ns) = runs.recv().unwrap();
            assert_eq!(read_ns, now_ns, "the timer of {at_ns} ns");
            seen.push(at_ns);
        }
        // A closure that runs after the timers of its loop: nothing that is not due has run.
        threads.iter().for_each(|thread| thread.run(|_| ()).unwrap());
        assert!(runs.try_recv().is_err(), "at {now_ns} ns");
    }
    seen.sort_unstable();
    assert_eq!(seen, (1..=TIMERS * LOOPS).collect::<Vec<_>>());
}

/// Sleeps until the timer at 1,000 ns has run, because another thread changes the clock.
fn woken_by(setup: &Setup, change: fn(&VirtualClock)) {
    let clock = Arc::new(VirtualClock::new());
    let (ctx, ran) = (sharing(setup, &clock), Count::default());
    let timer = ctx.timer_on(Clock::Virtual, {
        let ran = ran.clone();
        move |_| ran.bump()
    });
    timer.arm_at(1_000);
    assert!(!look(&ctx));
    let changer = std::thread::spawn(move || {
        // The loop gets a chance to fall asleep. The test holds whether it does or not.
        (0..200).for_each(|_| std::thread::yield_now());
        change(&clock);
    });
    turn_until(&ctx, || ran.get() == 1);
    changer.join().unwrap();
    assert!(ctx.stats().syscalls_write <= 1);
}

pub(crate) fn a_step_by_another_thread_wakes_the_loop(setup: &Setup) {
    (0..20).for_each(|_| woken_by(setup, |clock| clock.step(Duration::from_nanos(1_000))));
}

pub(crate) fn a_start_by_another_thread_wakes_the_loop(setup: &Setup) {
    (0..20).for_each(|_| woken_by(setup, VirtualClock::start));
}

/// How many turns a loop needs for twenty sleeps, each after a `change`. Twice as many if the
/// change has woken it.
pub(crate) fn turns_of_twenty_sleeps(ctx: &AioContext, change: impl Fn()) -> u64 {
    let over = Count::default();
    let timer = ctx.timer({
        let over = over.clone();
        move |_| over.bump()
    });
    let before = ctx.stats().turns;
    for sleep in 1..=20 {
        change();
        timer.arm_after(Duration::from_micros(500));
        turn_until(ctx, || over.get() == sleep);
    }
    ctx.stats().turns - before
}

pub(crate) fn a_loop_without_timers_on_the_clock_sleeps_on(setup: &Setup) {
    let clock = Arc::new(VirtualClock::new());
    let ctx = sharing(setup, &clock);
    let turns = turns_of_twenty_sleeps(&ctx, || {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                clock.start();
                clock.step(Duration::from_nanos(1));
                clock.stop();
            });
        });
    });
    assert!(turns < 30, "{turns} turns");
    assert_eq!(ctx.stats().syscalls_write, 0);
}

pub(crate) fn a_loop_does_not_wake_itself(setup: &Setup) {
    let ctx = setup.context();
    let _timer = ctx.timer_on(Clock::Virtual, |_| ());
    let turns = turns_of_twenty_sleeps(&ctx, || {
        ctx.virtual_clock().start();
        ctx.virtual_clock().step(Duration::from_nanos(1));
    });
    assert!(turns < 30, "{turns} turns");
    assert_eq!(ctx.stats().syscalls_write, 0);
}

pub(crate) fn a_loop_that_is_awake_is_not_written_to(setup: &Setup) {
    let clock = Arc::new(VirtualClock::new());
    let ctx = sharing(setup, &clock);
    let timer = ctx.timer_on(Clock::Virtual, |_| ());
    timer.arm_at(50);
    std::thread::scope(|scope| {
        scope.spawn(|| (0..100).for_each(|_| clock.step(Duration::from_nanos(1))));
    });
    assert!(turn(&ctx));
    assert_eq!((ctx.stats().timers, ctx.stats().syscalls_write), (1, 0));
}

pub(crate) fn time_never_goes_back_between_threads(setup: &Setup) {
    let clock = Arc::new(VirtualClock::new());
    let (latest, over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    // A loop whose timer is due in each turn, twice.
    let readers: Vec<_> = (0..2)
        .map(|_| {
            let (latest, over) = (Arc::clone(&latest), Arc::clone(&over));
            let (ended, end) = mpsc::channel();
            let thread = thread_sharing(setup, &clock, move |ctx| {
                let slot = Slot::new();
                let again = slot.clone();
                slot.put(ctx.timer_on(Clock::Virtual, move |ctx| {
                    let before = latest.load(Ordering::SeqCst);
                    let now_ns = ctx.virtual_clock().now_ns();
                    if now_ns < before {
                        ended.send(Some((now_ns, before))).unwrap();
                    }
                    latest.fetch_max(now_ns, Ordering::SeqCst);
                    if over.load(Ordering::Relaxed) {
                        ended.send(None).unwrap();
                    } else {
                        again.with(|timer: &Timer| timer.arm_at(now_ns));
                    }
                }));
                slot.with(|timer| timer.arm_at(0));
                Ok(slot)
            });
            (thread, end)
        })
        .collect();
    let mut stopped_ns = 0;
    for _ in 0..2_000 {
        clock.start();
        clock.step(Duration::from_nanos(10));
        clock.stop();
        let now_ns = clock.now_ns();
        assert!(now_ns >= stopped_ns + 10 && now_ns >= latest.load(Ordering::SeqCst));
        assert_eq!(clock.now_ns(), now_ns, "stopped");
        stopped_ns = now_ns;
    }
    over.store(true, Ordering::Relaxed);
    for (_thread, end) in &readers {
        assert_eq!(end.recv().unwrap(), None, "(a reading, an earlier one by another thread)");
    }
}

pub(crate) fn nothing_expires_after_a_stop(setup: &Setup) {
    const ROUNDS: u64 = 50;
    let clock = Arc::new(VirtualClock::new());
    let (done, runs) = mpsc::channel();
    let thread_clock = Arc::clone(&clock);
    let thread = thread_sharing(setup, &clock, move |ctx| {
        // Armed for each microsecond of the next one, as long as the clock runs.
        let timers: Vec<_> = (0..20u64)
            .map(|i| {
                let (slot, done, clock) = (Slot::new(), done.clone(), Arc::clone(&thread_clock));
                let (again, at_ns) = (slot.clone(), Cell::new(i * 1_000));
                slot.put(ctx.timer_on(Clock::Virtual, move |_| {
                    done.send((at_ns.get(), clock.now_ns())).unwrap();
                    at_ns.set(at_ns.get() + 20_000);
                    again.with(|timer: &Timer| timer.arm_at(at_ns.get()));
                }));
                slot.with(|timer| timer.arm_at(i * 1_000));
                slot
            })
            .collect();
        Ok(timers)
    });
    for round in 0..ROUNDS {
        clock.start();
        // Let it run a little, by what the clock itself reads.
        let start_ns = clock.now_ns();
        while clock.now_ns() < start_ns + 50_000 {
            std::thread::yield_now();
        }
        clock.stop();
        let stopped_ns = clock.now_ns();
        // What had expired may still run; this closure comes after it.
        (0..2).for_each(|_| thread.run(|_| ()).unwrap());
        for (deadline_ns, read_ns) in runs.try_iter() {
            assert!(deadline_ns <= read_ns && read_ns <= stopped_ns, "round {round}: {deadline_ns} ns");
        }
    }
}

pub(crate) fn a_clock_outlives_its_loops(setup: &Setup) {
    let clock = Arc::new(VirtualClock::new());
    for _ in 0..3 {
        let ctx = sharing(setup, &clock);
        let timer = ctx.timer_on(Clock::Virtual, |_| unreachable!("its loop was dropped"));
        timer.arm_at(5);
        drop(ctx);
        timer.arm_at(clock.now_ns());
    }
    std::thread::spawn(move || {
        clock.start();
        clock.step(Duration::from_secs(1));
    })
    .join()
    .unwrap();
}

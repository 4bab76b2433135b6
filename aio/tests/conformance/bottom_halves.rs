//! Bottom halves. Their order is not part of the contract, and no test here depends on it.

use crate::setup::Setup;
use crate::support::{Count, Slot, look, turn, turn_until};
use aio::{AioContext, BottomHalf};
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A bottom half that counts its runs.
fn counting(ctx: &AioContext) -> (BottomHalf, Count) {
    let runs = Count::default();
    let bh = ctx.bottom_half({
        let runs = runs.clone();
        move |_| runs.bump()
    });
    (bh, runs)
}

pub(crate) fn all_that_are_scheduled_run_once(setup: &Setup) {
    let ctx = setup.context();
    let halves: Vec<_> = (0..100).map(|_| counting(&ctx)).collect();
    halves.iter().step_by(2).for_each(|(bh, _)| bh.schedule());
    assert!(turn(&ctx));
    for (i, (_, runs)) in halves.iter().enumerate() {
        assert_eq!(runs.get(), (i as u64 + 1) % 2, "bottom half {i}");
    }
    assert!(!look(&ctx));
}

pub(crate) fn schedules_coalesce(setup: &Setup) {
    let ctx = setup.context();
    let (bh, runs) = counting(&ctx);
    let remote = bh.handle();
    for _ in 0..10 {
        bh.schedule();
        remote.schedule();
    }
    assert!(turn(&ctx));
    assert!(!look(&ctx));
    assert_eq!(runs.get(), 1);
}

pub(crate) fn a_cancelled_one_does_not_run(setup: &Setup) {
    let ctx = setup.context();
    let (bh, runs) = counting(&ctx);
    bh.schedule();
    bh.cancel();
    assert!(!look(&ctx));
    bh.handle().schedule();
    bh.handle().cancel();
    assert!(!look(&ctx));
    assert_eq!(runs.get(), 0);
}

pub(crate) fn a_cancelled_one_can_be_scheduled_again(setup: &Setup) {
    let ctx = setup.context();
    let (bh, runs) = counting(&ctx);
    // While it is still on the list, and after it has left it.
    for again_at_once in [true, false] {
        bh.schedule();
        bh.cancel();
        if !again_at_once {
            assert!(!look(&ctx));
        }
        bh.schedule();
        assert!(turn(&ctx));
        assert!(!look(&ctx));
    }
    assert_eq!(runs.get(), 2);
}

/// Two bottom halves, each of which does `to_the_other` to the other.
fn duel(setup: &Setup, to_the_other: fn(&Slot<BottomHalf>)) {
    let ctx = setup.context();
    let runs = Count::default();
    let slots = [Slot::new(), Slot::new()];
    for (own, other) in [(0, 1), (1, 0)] {
        let (runs, other) = (runs.clone(), slots[other].clone());
        slots[own].put(ctx.bottom_half(move |_| {
            runs.bump();
            to_the_other(&other);
        }));
    }
    slots.iter().for_each(|slot| slot.with(BottomHalf::schedule));
    assert!(turn(&ctx));
    assert!(!look(&ctx));
    assert_eq!(runs.get(), 1, "whichever came first");
}

pub(crate) fn cancel_reaches_one_that_is_due_in_this_turn(setup: &Setup) {
    duel(setup, |other| other.with(BottomHalf::cancel));
}

pub(crate) fn delete_reaches_one_that_is_due_in_this_turn(setup: &Setup) {
    duel(setup, |other| drop(other.take()));
}

pub(crate) fn dropping_takes_the_schedule_back(setup: &Setup) {
    let ctx = setup.context();
    let (bh, runs) = counting(&ctx);
    bh.schedule();
    drop(bh);
    // Its slot gets a new bottom half, which must not be run instead of it.
    let (_other, others) = counting(&ctx);
    assert!(!look(&ctx));
    assert_eq!((runs.get(), others.get()), (0, 0));
}

pub(crate) fn one_may_delete_itself_in_its_callback(setup: &Setup) {
    let ctx = setup.context();
    let (slot, runs) = (Slot::new(), Count::default());
    slot.put(ctx.bottom_half({
        let (slot, runs) = (slot.clone(), runs.clone());
        move |_| {
            let own: BottomHalf = slot.take().expect("runs once");
            own.schedule();
            drop(own);
            runs.bump();
        }
    }));
    slot.with(BottomHalf::schedule);
    assert!(turn(&ctx));
    assert!(!look(&ctx), "deleted with a schedule pending");
    assert_eq!(runs.get(), 1);
}

pub(crate) fn one_that_schedules_itself_runs_in_the_next_turn(setup: &Setup) {
    let ctx = setup.context();
    let (slot, runs) = (Slot::new(), Count::default());
    slot.put(ctx.bottom_half({
        let (slot, runs) = (slot.clone(), runs.clone());
        move |_| {
            runs.bump();
            slot.with(BottomHalf::schedule);
        }
    }));
    slot.with(BottomHalf::schedule);
    for turns in 1..=5 {
        assert!(turn(&ctx));
        assert_eq!(runs.get(), turns);
    }
    drop(slot.take());
}

pub(crate) fn an_idle_one_runs_without_being_progress(setup: &Setup) {
    let ctx = setup.context();
    let (idle, idle_runs) = counting(&ctx);
    let (bh, runs) = counting(&ctx);
    idle.schedule_idle();
    idle.schedule_idle();
    bh.schedule();
    assert!(turn(&ctx), "the other one is");
    assert_eq!((idle_runs.get(), runs.get()), (1, 1));
    idle.schedule_idle();
    idle.cancel();
    assert!(!look(&ctx));
    assert_eq!(idle_runs.get(), 1);
}

pub(crate) fn an_idle_one_becomes_urgent_when_scheduled(setup: &Setup) {
    let ctx = setup.context();
    let (bh, runs) = counting(&ctx);
    bh.schedule_idle();
    bh.schedule();
    assert!(turn(&ctx));
    assert_eq!(runs.get(), 1);
}

pub(crate) fn an_urgent_one_stays_urgent_when_scheduled_idle(setup: &Setup) {
    let ctx = setup.context();
    let (bh, runs) = counting(&ctx);
    bh.schedule();
    bh.schedule_idle();
    assert!(turn(&ctx));
    assert_eq!(runs.get(), 1);
    bh.schedule_idle();
    assert!(!look(&ctx), "idle again");
    assert_eq!(runs.get(), 2);
}

pub(crate) fn a_deferred_closure_runs_once_in_the_next_turn(setup: &Setup) {
    let ctx = setup.context();
    let runs = Count::default();
    ctx.defer({
        let runs = runs.clone();
        move |ctx| {
            runs.bump();
            ctx.defer(move |_| runs.bump());
        }
    });
    assert_eq!(runs.get(), 0, "not at once");
    assert!(turn(&ctx));
    assert_eq!(runs.get(), 1);
    assert!(turn(&ctx));
    assert_eq!(runs.get(), 2);
    assert!(!look(&ctx));
}

pub(crate) fn closures_from_four_threads_run_once_each(setup: &Setup) {
    const EACH: u64 = 1_000;
    let ctx = setup.context();
    let sum = Arc::new(AtomicU64::new(0));
    let threads: Vec<_> = (0..4u64)
        .map(|thread| {
            let (handle, sum) = (ctx.handle(), Arc::clone(&sum));
            std::thread::spawn(move || {
                for i in 0..EACH {
                    let sum = Arc::clone(&sum);
                    handle.schedule(move |_| {
                        sum.fetch_add(thread * EACH + i, Ordering::Relaxed);
                    });
                }
            })
        })
        .collect();
    turn_until(&ctx, || ctx.stats().bottom_halves == 4 * EACH);
    threads.into_iter().for_each(|t| t.join().unwrap());
    assert!(!look(&ctx));
    assert_eq!(sum.load(Ordering::Relaxed), (0..4 * EACH).sum());
}

pub(crate) fn four_threads_schedule_one_and_nothing_is_lost(setup: &Setup) {
    const LAST: u64 = 2_500;
    let ctx = setup.context();
    let published: Arc<[AtomicU64; 4]> = Arc::default();
    let seen: Rc<[Cell<u64>; 4]> = Rc::default();
    let bh = ctx.bottom_half({
        let (published, seen) = (Arc::clone(&published), Rc::clone(&seen));
        move |_| {
            for (published, seen) in published.iter().zip(&*seen) {
                // Relaxed: the schedule is what makes it visible.
                seen.set(published.load(Ordering::Relaxed));
            }
        }
    });
    let threads: Vec<_> = (0..4)
        .map(|i| {
            let (published, remote) = (Arc::clone(&published), bh.handle());
            std::thread::spawn(move || {
                for value in 1..=LAST {
                    published[i].store(value, Ordering::Relaxed);
                    remote.schedule();
                }
            })
        })
        .collect();
    turn_until(&ctx, || seen.iter().all(|seen| seen.get() == LAST));
    threads.into_iter().for_each(|t| t.join().unwrap());
}

pub(crate) fn a_thread_wakes_the_sleeping_loop(setup: &Setup) {
    let ctx = setup.context();
    let (bh, runs) = counting(&ctx);
    let mut expected = 0;
    while ctx.stats().own_wakeups < 3 {
        let remote = bh.handle();
        let thread = std::thread::spawn(move || {
            (0..100).for_each(|_| std::thread::yield_now());
            remote.schedule();
        });
        expected += 1;
        turn_until(&ctx, || runs.get() == expected);
        thread.join().unwrap();
    }
}

pub(crate) fn handles_outlive_bottom_half_and_context(setup: &Setup) {
    let ctx = setup.context();
    let (bh, runs) = counting(&ctx);
    let (remote, handle) = (bh.handle(), ctx.handle());
    drop(bh);
    remote.schedule();
    assert!(!look(&ctx));
    let (other, _) = counting(&ctx);
    let late = other.handle();
    drop(ctx);
    other.schedule();
    other.schedule_idle();
    late.schedule();
    late.cancel();
    remote.schedule();
    handle.notify();
    handle.stop();
    let dropped = Arc::new(());
    let held = Arc::clone(&dropped);
    handle.schedule(move |_| drop(held));
    assert_eq!(Arc::strong_count(&dropped), 1, "dropped without being run");
    assert_eq!(runs.get(), 0);
}

pub(crate) fn a_nested_turn_runs_what_its_parent_has_left(setup: &Setup) {
    const ALL: u64 = 6;
    let ctx = setup.context();
    let (entered, nested) = (Count::default(), Count::default());
    let halves: Vec<_> = (0..ALL)
        .map(|_| {
            let (entered, nested) = (entered.clone(), nested.clone());
            ctx.bottom_half(move |ctx| {
                entered.bump();
                if entered.get() == 1 {
                    assert!(look(ctx));
                    nested.add(entered.get());
                }
            })
        })
        .collect();
    halves.iter().for_each(BottomHalf::schedule);
    assert!(turn(&ctx));
    assert_eq!(nested.get(), ALL, "all had run when the nested turn returned");
    assert_eq!(entered.get(), ALL, "and the outer one found none left");
    assert!(!look(&ctx));
}

pub(crate) fn what_a_nested_turn_schedules_is_not_lost(setup: &Setup) {
    let ctx = setup.context();
    let (late, runs) = counting(&ctx);
    let late = Rc::new(late);
    ctx.defer({
        let (late, runs) = (Rc::clone(&late), runs.clone());
        move |ctx| {
            ctx.defer(move |_| late.schedule());
            assert!(look(ctx), "runs the inner closure");
            assert_eq!(runs.get(), 0, "which schedules for the turn after it");
        }
    });
    assert!(turn(&ctx));
    assert!(turn(&ctx));
    assert_eq!(runs.get(), 1);
    assert!(!look(&ctx));
}

pub(crate) fn captures_are_dropped_with_the_bottom_half(setup: &Setup) {
    let ctx = setup.context();
    let held = Rc::new(());
    let capture = |held: &Rc<()>| {
        let held = Rc::clone(held);
        move |_: &AioContext| assert!(Rc::strong_count(&held) > 1)
    };
    let bh = ctx.bottom_half(capture(&held));
    bh.schedule();
    drop(bh);
    assert_eq!(Rc::strong_count(&held), 1, "at once");
    let bh = ctx.bottom_half(capture(&held));
    bh.schedule();
    ctx.defer(capture(&held));
    drop(ctx);
    assert_eq!(Rc::strong_count(&held), 1, "with the context");
    drop(bh);
}

/// Between two looks of the loop one thread writes to its eventfd at most once, whatever it
/// schedules, also while the loop takes long to wake up.
pub(crate) fn a_sleeping_loop_is_written_to_once(setup: &Setup) {
    const SCHEDULES: u64 = 20_000;
    let ctx = setup.context();
    let (bh, runs) = counting(&ctx);
    let (remote, handle, closures) = (bh.handle(), ctx.handle(), Arc::new(AtomicU64::new(0)));
    let thread = std::thread::spawn({
        let closures = Arc::clone(&closures);
        move || {
            for _ in 0..SCHEDULES {
                remote.schedule();
                let closures = Arc::clone(&closures);
                handle.schedule(move |_| _ = closures.fetch_add(1, Ordering::Relaxed));
                handle.notify();
            }
        }
    });
    turn_until(&ctx, || closures.load(Ordering::Relaxed) == SCHEDULES);
    thread.join().unwrap();
    let stats = ctx.stats();
    assert!(runs.get() > 0);
    // An outer loop's turn looks twice: in `check` and in `dispatch`.
    let looks = if setup.is_embedded { 2 * stats.turns } else { stats.turns };
    assert!(stats.syscalls_write <= looks + 1, "{stats:?}");
}

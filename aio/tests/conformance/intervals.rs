//! Timers that their callbacks arm again, and periodic ones.

use crate::setup::Setup;
use crate::support::{Count, Slot, look, settle, turn_until};
use aio::{AioContext, Clock, Timer, TimerHandle};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

const PERIOD: Duration = Duration::from_nanos(100);

/// A tick on the virtual clock, and its count.
fn ticks(ctx: &AioContext) -> (Timer, Count) {
    let count = Count::default();
    let bump = count.clone();
    (ctx.interval_on(Clock::Virtual, PERIOD, move |_, _| bump.bump()), count)
}

fn step(ctx: &AioContext, ns: u64) {
    ctx.virtual_clock().step(Duration::from_nanos(ns));
    settle(ctx);
}

pub(crate) fn ticks_keep_their_distance(setup: &Setup) {
    let ctx = setup.context();
    let (timer, count) = ticks(&ctx);
    assert_eq!(timer.deadline_ns(), Some(100));
    step(&ctx, 99);
    assert_eq!(count.get(), 0);
    step(&ctx, 1);
    assert_eq!((count.get(), timer.deadline_ns()), (1, Some(200)));
    // A late tick does not move the next one.
    step(&ctx, 150);
    assert_eq!((count.get(), timer.deadline_ns()), (2, Some(300)));
    // One run for all that were missed.
    step(&ctx, 1_000);
    assert_eq!((count.get(), timer.deadline_ns()), (3, Some(1_300)));
    // The phase is that of the last arming.
    timer.arm_at(1_333);
    step(&ctx, 83);
    assert_eq!((count.get(), timer.deadline_ns()), (4, Some(1_433)));
    timer.cancel();
    step(&ctx, 1_000);
    assert_eq!(count.get(), 4);
    drop(timer);
}

pub(crate) fn a_tick_ends_the_ticks(setup: &Setup) {
    let ctx = setup.context();
    let count = Count::default();
    let bump = count.clone();
    let timer = ctx.interval(Duration::from_micros(20), move |_, timer| {
        bump.bump();
        assert!(timer.is_pending(), "for the next tick");
        if bump.get() == 3 {
            timer.cancel();
        }
    });
    turn_until(&ctx, || !timer.is_pending());
    assert_eq!(count.get(), 3);
    // By dropping itself.
    let (slot, count) = (Slot::<Timer>::new(), Count::default());
    let (own, bump) = (slot.clone(), count.clone());
    slot.put(ctx.interval(Duration::from_micros(20), move |_, _| {
        bump.bump();
        drop(own.take());
    }));
    turn_until(&ctx, || count.get() == 1);
    assert_eq!(ctx.dump().timers().len(), 1, "the first one");
}

pub(crate) fn a_period_of_zero_lets_everything_else_run(setup: &Setup) {
    let ctx = setup.context();
    let (count, other) = (Count::default(), Count::default());
    let bump = count.clone();
    let _timer = ctx.interval(Duration::ZERO, move |_, _| bump.bump());
    let bump = other.clone();
    ctx.defer(move |_| bump.bump());
    turn_until(&ctx, || count.get() == 5);
    assert_eq!(other.get(), 1);
}

pub(crate) fn a_timer_is_armed_by_its_callback(setup: &Setup) {
    let ctx = setup.context();
    let runs = Rc::new(RefCell::new(Vec::new()));
    let log = Rc::clone(&runs);
    let timer = ctx.timer_with_on(Clock::Virtual, move |ctx, timer| {
        log.borrow_mut().push(ctx.virtual_clock().now_ns());
        assert_eq!((timer.is_pending(), timer.now_ns()), (false, ctx.virtual_clock().now_ns()));
        if log.borrow().len() < 3 {
            timer.arm_at(0);
        }
    });
    let handle = timer.handle();
    timer.arm_at(0);
    assert!(look(&ctx));
    assert_eq!(runs.borrow().len(), 1, "in the past: in the next turn");
    settle(&ctx);
    assert_eq!(runs.borrow().len(), 3);
    handle.arm_at(0);
    settle(&ctx);
    assert_eq!(runs.borrow().len(), 4);
    let other = ctx.timer_with(|_, timer| assert_eq!(timer.deadline_ns(), None));
    other.arm_at(0);
    assert!(look(&ctx));
}

pub(crate) fn its_captures_go_with_it(setup: &Setup) {
    let held = Rc::new(());
    for by_context in [false, true] {
        let ctx = setup.context();
        let (one, two) = (Rc::clone(&held), Rc::clone(&held));
        let timer = ctx.timer_with(move |_, _| _ = &one);
        let interval = ctx.interval(Duration::ZERO, move |_, _| _ = &two);
        some_turns(&ctx);
        if by_context {
            drop(ctx);
            assert_eq!(Rc::strong_count(&held), 1, "with the context");
            drop((timer, interval));
        } else {
            drop(timer);
            drop(interval);
            assert_eq!(Rc::strong_count(&held), 1, "with the timer");
        }
    }
}

fn some_turns(ctx: &AioContext) {
    for _ in 0..3 {
        look(ctx);
    }
}

/// The cancel comes after the deadline and before the callback, which arms the timer again.
pub(crate) fn a_cancel_of_another_thread_is_not_lost(setup: &Setup) {
    let ctx = setup.context();
    let handle: Rc<Cell<Option<TimerHandle>>> = Rc::default();
    let kept = Rc::clone(&handle);
    let before = ctx.timer_on(Clock::Virtual, move |_| {
        if let Some(handle) = kept.take() {
            std::thread::spawn(move || handle.cancel()).join().unwrap();
        }
    });
    let (timer, count) = ticks(&ctx);
    handle.set(Some(timer.handle()));
    before.arm_at(99);
    step(&ctx, 100);
    assert!(count.get() <= 1, "this turn was about to run it");
    let so_far = count.get();
    step(&ctx, 1_000);
    assert_eq!((count.get(), timer.is_pending()), (so_far, false));
    // An arming stands as well.
    handle.set(Some(timer.handle()));
    let (timer, count) = ticks(&ctx);
    let handle = timer.handle();
    handle.arm_at(1_150);
    step(&ctx, 50);
    assert_eq!((count.get(), timer.deadline_ns()), (1, Some(1_250)));
}

pub(crate) fn a_nested_turn_may_enter_a_tick_again(setup: &Setup) {
    let ctx = setup.context();
    let (depth, most) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
    let (now, deepest) = (Rc::clone(&depth), Rc::clone(&most));
    let _timer = ctx.interval_on(Clock::Virtual, PERIOD, move |ctx, _| {
        now.set(now.get() + 1);
        deepest.set(deepest.get().max(now.get()));
        if now.get() < 3 {
            ctx.virtual_clock().step(PERIOD);
            assert!(ctx.poll(true).unwrap());
        }
        now.set(now.get() - 1);
    });
    step(&ctx, 100);
    assert_eq!((depth.get(), most.get()), (0, 3));
}

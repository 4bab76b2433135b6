//! Timers. Where time has to be exact the tests use the virtual clock, which moves only when a test
//! advances it.

use crate::setup::Setup;
use crate::support::{Count, SPIN, Slot, look, turn, turn_until, turns_of_an_idle_loop};
use aio::{AioContext, Clock, Timer};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

/// The names of the timers that ran, in order.
type Trace = Rc<RefCell<Vec<usize>>>;

/// A timer on the virtual clock that records its name.
fn noting(ctx: &AioContext, trace: &Trace, name: usize) -> Timer {
    let trace = Rc::clone(trace);
    ctx.timer_on(Clock::Virtual, move |_| trace.borrow_mut().push(name))
}

fn step_to(ctx: &AioContext, at_ns: u64) {
    let clock = ctx.virtual_clock();
    clock.step(Duration::from_nanos(at_ns - clock.now_ns()));
    assert_eq!(clock.now_ns(), at_ns);
}

pub(crate) fn run_in_order_of_their_deadlines(setup: &Setup) {
    let (ctx, trace) = (setup.context(), Trace::default());
    let timers: Vec<_> = (0..5).map(|i| noting(&ctx, &trace, i)).collect();
    for (timer, at_ns) in timers.iter().zip([30, 10, 50, 20, 40]) {
        timer.arm_at(at_ns);
    }
    step_to(&ctx, 40);
    assert!(turn(&ctx));
    assert_eq!(*trace.borrow(), [1, 3, 0, 4]);
    assert!(timers[2].is_pending());
}

pub(crate) fn equal_deadlines_run_in_order_of_arming(setup: &Setup) {
    let (ctx, trace) = (setup.context(), Trace::default());
    let timers: Vec<_> = (0..50).map(|i| noting(&ctx, &trace, i)).collect();
    timers.iter().for_each(|timer| timer.arm_at(7));
    step_to(&ctx, 7);
    assert!(turn(&ctx));
    assert_eq!(*trace.borrow(), (0..50).collect::<Vec<_>>());
}

pub(crate) fn arming_again_moves_to_the_end_of_equals(setup: &Setup) {
    let (ctx, trace) = (setup.context(), Trace::default());
    let timers: Vec<_> = (0..4).map(|i| noting(&ctx, &trace, i)).collect();
    timers.iter().for_each(|timer| timer.arm_at(7));
    timers[1].arm_at(7);
    step_to(&ctx, 7);
    assert!(turn(&ctx));
    assert_eq!(*trace.borrow(), [0, 2, 3, 1]);
}

pub(crate) fn armed_in_the_past_by_its_callback_runs_in_the_next_turn(setup: &Setup) {
    let ctx = setup.context();
    for (clock, deadline) in [(Clock::Virtual, 0), (Clock::Realtime, 0)] {
        let (slot, runs) = (Slot::new(), Count::default());
        slot.put(ctx.timer_on(clock, {
            let (slot, runs) = (slot.clone(), runs.clone());
            move |_| {
                runs.bump();
                slot.with(|timer: &Timer| timer.arm_at(deadline));
            }
        }));
        slot.with(|timer| timer.arm_at(deadline));
        for turns in 1..=5 {
            assert!(turn(&ctx));
            assert_eq!(runs.get(), turns, "{clock:?}");
        }
        drop(slot.take());
    }
    assert!(!look(&ctx));
}

/// Two timers that expire in the same turn; the first one does `to_the_second`. Returns how often
/// the second ran.
fn two_expire(setup: &Setup, to_the_second: fn(&Slot<Timer>)) -> u64 {
    let ctx = setup.context();
    let (runs, second) = (Count::default(), Slot::new());
    let first = ctx.timer_on(Clock::Virtual, {
        let second = second.clone();
        move |_| to_the_second(&second)
    });
    second.put(ctx.timer_on(Clock::Virtual, {
        let runs = runs.clone();
        move |_| runs.bump()
    }));
    first.arm_at(1);
    second.with(|second| second.arm_at(2));
    step_to(&ctx, 10);
    assert!(turn(&ctx));
    runs.get()
}

pub(crate) fn cancel_reaches_one_that_expired_in_this_turn(setup: &Setup) {
    assert_eq!(two_expire(setup, |second| second.with(Timer::cancel)), 0);
}

pub(crate) fn drop_reaches_one_that_expired_in_this_turn(setup: &Setup) {
    assert_eq!(two_expire(setup, |second| drop(second.take())), 0);
}

pub(crate) fn rearming_reaches_one_that_expired_in_this_turn(setup: &Setup) {
    let runs = two_expire(setup, |second| {
        second.with(|second| {
            assert_eq!(second.deadline_ns(), Some(2), "expired, and pending until it runs");
            second.arm_at(11);
            assert_eq!(second.deadline_ns(), Some(11));
        });
    });
    assert_eq!(runs, 0, "it has a new deadline, which has not come");
}

pub(crate) fn anticipate_only_moves_forward_in_time(setup: &Setup) {
    let (ctx, trace) = (setup.context(), Trace::default());
    let timer = noting(&ctx, &trace, 0);
    for (at_ns, armed) in [(50, 50), (60, 50), (50, 50), (40, 40)] {
        timer.anticipate_at(at_ns);
        assert_eq!(timer.deadline_ns(), Some(armed));
    }
    step_to(&ctx, 40);
    assert!(turn(&ctx));
    assert_eq!(trace.borrow().len(), 1);
}

pub(crate) fn pending_from_arming_until_the_callback_begins(setup: &Setup) {
    let ctx = setup.context();
    let slot = Slot::new();
    slot.put(ctx.timer({
        let slot = slot.clone();
        move |_| assert!(!slot.with(Timer::is_pending), "in the callback")
    }));
    assert!(!slot.with(Timer::is_pending));
    slot.with(|timer| timer.arm_after(Duration::from_secs(1_000)));
    assert!(slot.with(Timer::is_pending));
    slot.with(Timer::cancel);
    assert_eq!(slot.with(Timer::deadline_ns), None);
    slot.with(|timer| timer.arm_at(0));
    assert!(slot.with(Timer::is_pending));
    assert!(turn(&ctx));
    assert!(!slot.with(Timer::is_pending));
    drop(slot.take());
}

pub(crate) fn one_may_be_dropped_in_its_callback(setup: &Setup) {
    let ctx = setup.context();
    let (slot, runs) = (Slot::new(), Count::default());
    slot.put(ctx.timer({
        let (slot, runs) = (slot.clone(), runs.clone());
        move |_| {
            let own: Timer = slot.take().expect("runs once");
            own.arm_at(0);
            drop(own);
            runs.bump();
        }
    }));
    slot.with(|timer| timer.arm_at(0));
    assert!(turn(&ctx));
    assert!(!look(&ctx));
    assert_eq!(runs.get(), 1);
}

pub(crate) fn the_virtual_clock_stands_still_until_started(setup: &Setup) {
    let (ctx, trace) = (setup.context(), Trace::default());
    let clock = ctx.virtual_clock();
    assert_eq!((clock.now_ns(), clock.is_running()), (0, false));
    let timer = noting(&ctx, &trace, 0);
    timer.arm_at(1);
    assert!(!look(&ctx));
    clock.start();
    assert!(clock.is_running());
    turn_until(&ctx, || !trace.borrow().is_empty());
    clock.stop();
    let stopped = clock.now_ns();
    assert!(stopped >= 1 && !clock.is_running());
    timer.arm_at(stopped + 1);
    assert!(!look(&ctx));
    assert_eq!(clock.now_ns(), stopped);
    clock.stop();
    assert_eq!(clock.now_ns(), stopped, "stopped twice");
}

pub(crate) fn the_virtual_clock_steps_exactly(setup: &Setup) {
    let (ctx, trace) = (setup.context(), Trace::default());
    let timer = noting(&ctx, &trace, 0);
    timer.arm_at(1_000);
    assert_eq!(timer.now_ns(), 0);
    step_to(&ctx, 999);
    assert!(!look(&ctx));
    step_to(&ctx, 1_000);
    assert!(turn(&ctx), "a deadline that has been reached is due");
    timer.arm_after(Duration::from_nanos(5));
    assert_eq!(timer.deadline_ns(), Some(1_005));
    ctx.virtual_clock().start();
    let before = ctx.virtual_clock().now_ns();
    ctx.virtual_clock().step(Duration::from_secs(3_600));
    assert!(ctx.virtual_clock().now_ns() >= before + 3_600_000_000_000, "running");
    assert!(turn(&ctx));
    assert_eq!(trace.borrow().len(), 2);
    ctx.virtual_clock().step(Duration::MAX);
    assert_eq!(ctx.virtual_clock().now_ns(), u64::MAX, "the end of time");
}

pub(crate) fn a_running_virtual_clock_wakes_the_loop(setup: &Setup) {
    let ctx = setup.context();
    let early = Count::default();
    let (slot, runs) = (Slot::new(), Count::default());
    slot.put(ctx.timer_on(Clock::Virtual, {
        let (slot, runs, early) = (slot.clone(), runs.clone(), early.clone());
        move |ctx| {
            runs.bump();
            let at_ns = runs.get() * 100_000;
            early.add(u64::from(ctx.virtual_clock().now_ns() < at_ns));
            slot.with(|timer: &Timer| timer.arm_at(at_ns + 100_000));
        }
    }));
    slot.with(|timer| timer.arm_at(100_000));
    ctx.virtual_clock().start();
    turn_until(&ctx, || runs.get() == 10);
    assert_eq!(early.get(), 0);
    drop(slot.take());
}

pub(crate) fn a_stopped_virtual_clock_does_not_keep_the_loop_awake(setup: &Setup) {
    let (ctx, trace) = (setup.context(), Trace::default());
    let timer = noting(&ctx, &trace, 0);
    timer.arm_at(1);
    let turns = turns_of_an_idle_loop(&ctx);
    assert!(turns < SPIN, "{turns} turns with nothing to do");
    assert!(timer.is_pending());
}

pub(crate) fn never_early(setup: &Setup) {
    const TIMERS: u64 = 60;
    let ctx = setup.context();
    let (runs, early) = (Count::default(), Count::default());
    let start_ns = ctx.now_ns();
    // From nanoseconds to a few milliseconds, close together and apart.
    let timers: Vec<_> = (0..TIMERS)
        .map(|i| {
            let at_ns = start_ns + i * i * 1_117;
            let (runs, early) = (runs.clone(), early.clone());
            let timer = ctx.timer(move |ctx| {
                runs.bump();
                early.add(u64::from(ctx.now_ns() < at_ns));
            });
            timer.arm_at(at_ns);
            timer
        })
        .collect();
    turn_until(&ctx, || runs.get() == TIMERS);
    assert_eq!(early.get(), 0);
    assert!(timers.iter().all(|timer| !timer.is_pending()));
}

pub(crate) fn the_end_of_time_is_no_error(setup: &Setup) {
    let ctx = setup.context();
    let timers = [Clock::Realtime, Clock::Virtual].map(|c| ctx.timer_on(c, |_| unreachable!("584 years")));
    timers[0].arm_after(Duration::MAX);
    assert_eq!(timers[0].deadline_ns(), Some(u64::MAX));
    timers[1].arm_at(u64::MAX);
    ctx.virtual_clock().start();
    while ctx.stats().own_wakeups == 0 {
        let handle = ctx.handle();
        let waker = std::thread::spawn(move || {
            (0..100).for_each(|_| std::thread::yield_now());
            handle.notify();
        });
        assert!(!turn(&ctx));
        waker.join().unwrap();
    }
}

pub(crate) fn one_armed_by_a_handler_shortens_the_next_sleep(setup: &Setup) {
    let ctx = setup.context();
    let (runs, notifier) = (Count::default(), setup.notifier());
    let far = ctx.timer(|_| unreachable!("an hour"));
    far.arm_after(Duration::from_secs(3_600));
    let near = ctx.timer({
        let runs = runs.clone();
        move |_| runs.bump()
    });
    let bell = ctx.add_notifier(&notifier, move |_| near.arm_after(Duration::from_micros(200)));
    let _bell = bell.unwrap();
    notifier.notify().unwrap();
    turn_until(&ctx, || runs.get() == 1);
}

pub(crate) fn a_nested_turn_runs_what_its_parent_has_left_over(setup: &Setup) {
    let (ctx, trace) = (setup.context(), Trace::default());
    let others: Vec<_> = (1..4).map(|i| noting(&ctx, &trace, i)).collect();
    let first = ctx.timer_on(Clock::Virtual, {
        let trace = Rc::clone(&trace);
        move |ctx| {
            trace.borrow_mut().push(0);
            assert!(turn(ctx), "blocking, since timers are due");
            assert_eq!(*trace.borrow(), [0, 1, 2, 3]);
            trace.borrow_mut().push(4);
        }
    });
    first.arm_at(1);
    others.iter().for_each(|timer| timer.arm_at(2));
    step_to(&ctx, 2);
    assert!(turn(&ctx));
    assert_eq!(*trace.borrow(), [0, 1, 2, 3, 4]);
    assert!(!look(&ctx));
}

/// A small generator of pseudo-random numbers (xorshift64), for the same sequence in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

pub(crate) fn random_arming_agrees_with_a_model(setup: &Setup) {
    const TIMERS: usize = 1_000;
    let (ctx, trace) = (setup.context(), Trace::default());
    let timers: Vec<_> = (0..TIMERS).map(|i| noting(&ctx, &trace, i)).collect();
    // Timer -> (deadline, order of arming).
    let mut model: BTreeMap<usize, (u64, u64)> = BTreeMap::new();
    let (mut random, mut now_ns) = (Random(0x9e37_79b9_7f4a_7c15), 0);
    for round in 0..40u64 {
        for step in 0..100 {
            let i = random.below(TIMERS as u64) as usize;
            let at_ns = (now_ns + random.below(1_000)).saturating_sub(100);
            let order = round * 1_000 + step;
            match random.below(4) {
                0 => {
                    timers[i].cancel();
                    model.remove(&i);
                }
                1 => {
                    timers[i].anticipate_at(at_ns);
                    if model.get(&i).is_none_or(|(armed, _)| at_ns < *armed) {
                        model.insert(i, (at_ns, order));
                    }
                }
                _ => {
                    timers[i].arm_at(at_ns);
                    model.insert(i, (at_ns, order));
                }
            }
        }
        now_ns += random.below(300);
        step_to(&ctx, now_ns);
        let mut due: Vec<_> = model.iter().filter(|(_, (at, _))| *at <= now_ns).collect();
        due.sort_by_key(|(_, when)| **when);
        let due: Vec<_> = due.into_iter().map(|(i, _)| *i).collect();
        assert_eq!(look(&ctx), !due.is_empty());
        assert_eq!(std::mem::take(&mut *trace.borrow_mut()), due, "round {round}");
        model.retain(|i, _| !due.contains(i));
        for (i, timer) in timers.iter().enumerate() {
            assert_eq!(timer.deadline_ns(), model.get(&i).map(|(at, _)| *at));
        }
    }
}

pub(crate) fn a_dead_context_leaves_its_timers_inert(setup: &Setup) {
    let ctx = setup.context();
    let held = Rc::new(());
    let timer = ctx.timer({
        let held = Rc::clone(&held);
        move |_| drop(Rc::clone(&held))
    });
    timer.arm_at(0);
    drop(ctx);
    assert_eq!(Rc::strong_count(&held), 1, "captures are dropped with the context");
    timer.arm_after(Duration::ZERO);
    timer.anticipate_at(0);
    assert!(!timer.is_pending());
    timer.cancel();
}

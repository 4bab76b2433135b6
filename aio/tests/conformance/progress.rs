//! The order of work in a turn, and when a turn reports progress.

use crate::setup::Setup;
use crate::support::{Count, SPIN, Slot, look, settle, turn, turn_until, turns_of_an_idle_loop};
use aio::{AioContext, BottomHalf, Interest, Timer};
use std::cell::RefCell;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::rc::Rc;

pub(crate) fn a_turn_without_events_is_not_progress(setup: &Setup) {
    let ctx = setup.context();
    for _ in 0..5 {
        assert!(!look(&ctx));
    }
}

pub(crate) fn the_own_notifier_is_not_progress(setup: &Setup) {
    let ctx = setup.context();
    for _ in 0..5 {
        ctx.handle().notify();
        assert!(!turn(&ctx));
        assert!(!look(&ctx));
    }
}

pub(crate) fn a_sleeping_loop_is_woken_by_notify(setup: &Setup) {
    let ctx = setup.context();
    // Repeat until the eventfd itself was needed, not only the flag: the loop was asleep, or about
    // to sleep.
    while ctx.stats().own_wakeups == 0 {
        let handle = ctx.handle();
        let waker = std::thread::spawn(move || {
            (0..100).for_each(|_| std::thread::yield_now());
            handle.notify();
        });
        assert!(!turn(&ctx), "the own notifier is not progress");
        waker.join().unwrap();
    }
    assert!(ctx.stats().syscalls_write > 0);
}

pub(crate) fn notify_before_the_turn_keeps_it_from_sleeping(setup: &Setup) {
    let ctx = setup.context();
    settle(&ctx);
    let writes = ctx.stats().syscalls_write;
    ctx.handle().notify();
    assert!(!turn(&ctx));
    assert_eq!(ctx.stats().syscalls_write, writes, "nobody slept: no write(2)");
}

pub(crate) fn an_idle_bottom_half_is_not_progress(setup: &Setup) {
    let ctx = setup.context();
    let runs = Count::default();
    let bh = ctx.bottom_half({
        let runs = runs.clone();
        move |_| runs.bump()
    });
    bh.schedule_idle();
    assert!(!look(&ctx));
    assert_eq!(runs.get(), 1);
    bh.schedule_idle();
    while runs.get() == 1 {
        assert!(!turn(&ctx));
    }
    assert_eq!(runs.get(), 2);
}

pub(crate) fn a_cancelled_bottom_half_is_not_progress(setup: &Setup) {
    let ctx = setup.context();
    let bh = ctx.bottom_half(|_| unreachable!("cancelled"));
    bh.schedule();
    bh.cancel();
    assert!(!look(&ctx));
    bh.schedule();
    drop(bh);
    assert!(!look(&ctx));
}

pub(crate) fn each_kind_of_callback_is_progress(setup: &Setup) {
    let ctx = setup.context();
    let bh = ctx.bottom_half(|_| ());
    bh.schedule();
    assert!(look(&ctx), "a bottom half");
    ctx.defer(|_| ());
    assert!(look(&ctx), "a deferred closure");
    ctx.handle().schedule(|_| ());
    assert!(look(&ctx), "a scheduled closure");
    let timer = ctx.timer(|_| ());
    timer.arm_at(0);
    assert!(look(&ctx), "a timer");
    let notifier = setup.notifier();
    let _bell = ctx.add_notifier(&notifier, |_| ()).unwrap();
    notifier.notify().unwrap();
    assert!(turn(&ctx), "a notifier");
    settle(&ctx);
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let _stream = ctx.add_borrowed_fd(&theirs, Interest::READABLE, |_, _| ()).unwrap();
    ours.write_all(b"x").unwrap();
    assert!(turn(&ctx), "an fd handler");
}

type Trace = Rc<RefCell<Vec<&'static str>>>;

fn tracer(trace: &Trace, what: &'static str) -> impl Fn(&AioContext) + 'static {
    let trace = Rc::clone(trace);
    move |_| trace.borrow_mut().push(what)
}

pub(crate) fn bottom_halves_then_handlers_then_timers(setup: &Setup) {
    let ctx = setup.context();
    let trace = Trace::default();
    let notifier = setup.notifier();
    let timer = ctx.timer(tracer(&trace, "timer"));
    timer.arm_at(0);
    let _bell = ctx.add_notifier(&notifier, tracer(&trace, "handler")).unwrap();
    notifier.notify().unwrap();
    let bh = ctx.bottom_half(tracer(&trace, "bottom half"));
    bh.schedule();
    assert!(turn(&ctx));
    assert_eq!(*trace.borrow(), ["bottom half", "handler", "timer"]);
}

pub(crate) fn a_bottom_half_of_a_handler_runs_in_the_next_turn(setup: &Setup) {
    let ctx = setup.context();
    let (trace, notifier) = (Trace::default(), setup.notifier());
    let bh = ctx.bottom_half(tracer(&trace, "bottom half"));
    let bell = ctx.add_notifier(&notifier, {
        let note = tracer(&trace, "handler");
        move |ctx| {
            note(ctx);
            bh.schedule();
        }
    });
    let _bell = bell.unwrap();
    notifier.notify().unwrap();
    assert!(turn(&ctx));
    assert_eq!(*trace.borrow(), ["handler"]);
    assert!(turn(&ctx));
    assert_eq!(*trace.borrow(), ["handler", "bottom half"]);
}

pub(crate) fn a_bottom_half_of_a_timer_runs_in_the_next_turn(setup: &Setup) {
    let ctx = setup.context();
    let trace = Trace::default();
    let bh = ctx.bottom_half(tracer(&trace, "bottom half"));
    let timer = ctx.timer({
        let note = tracer(&trace, "timer");
        move |ctx| {
            note(ctx);
            bh.schedule();
        }
    });
    timer.arm_at(0);
    assert!(turn(&ctx));
    assert_eq!(*trace.borrow(), ["timer"]);
    assert!(turn(&ctx));
    assert_eq!(*trace.borrow(), ["timer", "bottom half"]);
}

pub(crate) fn a_due_timer_keeps_the_turn_from_sleeping(setup: &Setup) {
    let ctx = setup.context();
    let runs = Count::default();
    let timer = ctx.timer({
        let runs = runs.clone();
        move |_| runs.bump()
    });
    timer.arm_at(ctx.now_ns());
    assert!(turn(&ctx));
    assert_eq!(runs.get(), 1);
}

pub(crate) fn stop_ends_run(setup: &Setup) {
    let ctx = setup.context();
    for _ in 0..20 {
        let handle = ctx.handle();
        let stopper = std::thread::spawn(move || handle.stop());
        ctx.run().unwrap();
        stopper.join().unwrap();
    }
}

pub(crate) fn stop_before_run_ends_the_next_run(setup: &Setup) {
    let ctx = setup.context();
    ctx.handle().stop();
    ctx.run().unwrap();
    // One request ends one run: this run would not end without another request.
    let handle = ctx.handle();
    ctx.defer(move |_| handle.stop());
    ctx.run().unwrap();
    assert_eq!(ctx.stats().bottom_halves, 1);
}

pub(crate) fn a_nested_run_takes_the_stop_first(setup: &Setup) {
    let ctx = setup.context();
    let trace = Trace::default();
    ctx.defer({
        let note = (tracer(&trace, "inner"), tracer(&trace, "outer"));
        move |ctx| {
            ctx.handle().stop();
            ctx.run().unwrap();
            (note.0)(ctx);
            ctx.defer(move |ctx| {
                (note.1)(ctx);
                ctx.handle().stop();
            });
        }
    });
    ctx.run().unwrap();
    assert_eq!(*trace.borrow(), ["inner", "outer"]);
}

pub(crate) fn an_idle_loop_sleeps(setup: &Setup) {
    let ctx = setup.context();
    let notifier = setup.notifier();
    let rings = Count::default();
    let _bell = ctx.add_notifier(&notifier, {
        let rings = rings.clone();
        move |_| rings.bump()
    });
    notifier.notify().unwrap();
    turn_until(&ctx, || rings.get() != 0);
    ctx.handle().notify();
    let turns = turns_of_an_idle_loop(&ctx);
    assert!(turns < SPIN, "{turns} turns with nothing to do");
}

pub(crate) fn counters_count(setup: &Setup) {
    let ctx = setup.context();
    let notifier = setup.notifier();
    let _bell = ctx.add_notifier(&notifier, |_| ()).unwrap();
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let stream = ctx.add_borrowed_fd(&theirs, Interest::READABLE, |_, _| ()).unwrap();
    settle(&ctx);
    let before = ctx.stats();
    ours.write_all(b"x").unwrap();
    turn_until(&ctx, || (ctx.stats() - before).fd_dispatches == 3);
    drop(stream);
    notifier.notify().unwrap();
    turn_until(&ctx, || (ctx.stats() - before).notifier_dispatches == 1);
    ctx.defer(|_| ());
    let timer = ctx.timer(|_| ());
    timer.arm_at(0);
    turn(&ctx);
    let stats = ctx.stats() - before;
    assert_eq!((stats.bottom_halves, stats.timers), (1, 1));
    assert_eq!((stats.fd_dispatches, stats.notifier_dispatches), (3, 1));
    assert!(stats.turns >= 5 && stats.wakeups >= 4, "{stats:?}");
    assert!(stats.syscalls() >= 1, "{stats:?}");
    assert_eq!(stats.completions + stats.poll_hits + stats.poll_misses, 0);
}

pub(crate) fn work_in_every_turn_does_not_starve_descriptors(setup: &Setup) {
    let ctx = setup.context();
    let (notifier, rings) = (setup.notifier(), Count::default());
    let bell = ctx.add_notifier(&notifier, {
        let rings = rings.clone();
        move |_| rings.bump()
    });
    let _bell = bell.unwrap();
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let reads = Count::default();
    let _on = ctx.add_borrowed_fd(&theirs, Interest::READABLE, {
        let reads = reads.clone();
        move |_, _| reads.bump()
    });
    // A bottom half and a timer that are due again as soon as they have run: so no turn of this
    // loop sleeps.
    let (bh, timer) = (Slot::new(), Slot::new());
    bh.put(ctx.bottom_half({
        let bh = bh.clone();
        move |_| bh.with(BottomHalf::schedule)
    }));
    timer.put(ctx.timer({
        let timer = timer.clone();
        move |_| timer.with(|timer: &Timer| timer.arm_at(0))
    }));
    bh.with(BottomHalf::schedule);
    timer.with(|timer| timer.arm_at(0));
    let ringer = std::thread::spawn(move || notifier.notify().unwrap());
    turn_until(&ctx, || rings.get() != 0);
    ringer.join().unwrap();
    ours.write_all(b"x").unwrap();
    turn_until(&ctx, || reads.get() >= 3);
    drop((bh.take(), timer.take()));
}

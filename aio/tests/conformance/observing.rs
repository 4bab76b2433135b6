//! What a user sees of a loop: names, dumps, the profile, and the hook for slow callbacks.

use crate::setup::Setup;
use crate::support::{Count, Slot, look, settle, turn, turn_until};
use aio::{
    AioContext, BottomHalfState, BusyPolled, BusyPolling, CallbackKind, Clock, EventNotifier, Interest,
    NotifierRegistration, TaskState, Timer,
};
use std::cell::{Cell, RefCell};
use std::future::{pending, poll_fn};
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

/// Longer than a callback of these tests can take.
const LONG: Duration = Duration::from_secs(3600);

/// A device that has work when its bell was rung.
struct Device;

impl BusyPolled for Device {
    fn process(&self, _: &AioContext) {}

    fn is_ready(&self) -> bool {
        false
    }
}

/// A notifier with a name and a count.
fn bell(setup: &Setup, ctx: &AioContext, name: &'static str) -> (EventNotifier, NotifierRegistration, Count) {
    let (bell, count) = (setup.notifier(), Count::default());
    let bump = count.clone();
    let on = ctx.add_notifier(&bell, move |_| bump.bump()).unwrap().named(name);
    (bell, on, count)
}

/// A timer with a name that is due at once, and runs `callback`.
fn due(ctx: &AioContext, name: &'static str, callback: impl Fn(&AioContext) + 'static) -> Timer {
    let timer = ctx.timer(callback).named(name);
    timer.arm_at(0);
    timer
}

/// Other threads may have its handle by then.
pub(crate) fn a_timer_with_a_handle_gets_its_name(setup: &Setup) {
    let ctx = setup.context();
    let timer = ctx.timer(|_| ());
    let _handle = timer.handle();
    let _timer = timer.named("rtc");
    let dump = ctx.dump();
    assert_eq!(dump.timers().map(|timer| timer.name()).collect::<Vec<_>>(), [Some("rtc")]);
}

pub(crate) fn a_dump_has_names_and_states(setup: &Setup) {
    let ctx = setup.context();
    settle(&ctx);
    let (rung, _on_rung, _) = bell(setup, &ctx, "kick 0");
    let (ours, mut peer) = UnixStream::pair().unwrap();
    let on_socket = ctx.add_borrowed_fd(&ours, Interest::READABLE | Interest::WRITABLE, |_, _| ()).unwrap();
    let on_socket = on_socket.named(format!("socket {}", 7));
    let device_bell = setup.notifier();
    let _device = ctx.add_polled_notifier(&device_bell, Rc::new(Device)).unwrap();
    let timers = ["rtc", "watchdog"].map(|name| ctx.timer_on(Clock::Virtual, |_| ()).named(name));
    timers[0].arm_at(5_000);
    let halves = ["idle", "later", "now", "cancelled"].map(|name| ctx.bottom_half(|_| ()).named(name));
    halves[1].schedule_idle();
    halves[2].schedule();
    halves[3].schedule();
    halves[3].cancel();
    ctx.defer(|_| ());
    assert!(ctx.handle().schedule(|_| ()));

    let dump = ctx.dump();
    assert_eq!(dump.monitor(), ctx.monitor());
    assert_eq!((dump.now_ns(Clock::Virtual), dump.closures()), (0, 2));
    assert!(dump.now_ns(Clock::Realtime) <= ctx.now_ns());
    let handlers: Vec<_> = dump.handlers().map(|h| (h.name(), h.kind, h.interest)).collect();
    let both = Some(Interest::READABLE | Interest::WRITABLE);
    for expected in [
        (None, CallbackKind::OwnNotifier, None),
        (Some("kick 0"), CallbackKind::Notifier, None),
        (Some("socket 7"), CallbackKind::Fd, both),
        (None, CallbackKind::PolledNotifier, None),
    ] {
        assert!(handlers.contains(&expected), "{expected:?} in {handlers:?}");
    }
    assert_eq!(handlers.len(), 4);
    let timers: Vec<_> = dump.timers().map(|t| (t.name(), t.clock, t.deadline_ns)).collect();
    assert_eq!(
        timers,
        [(Some("rtc"), Clock::Virtual, Some(5_000)), (Some("watchdog"), Clock::Virtual, None)]
    );
    let states: Vec<_> = dump.bottom_halves().map(|h| (h.name().unwrap(), h.state)).collect();
    assert_eq!(
        states,
        [
            ("idle", BottomHalfState::Idle),
            ("later", BottomHalfState::ScheduledIdle),
            ("now", BottomHalfState::Scheduled),
            ("cancelled", BottomHalfState::Idle),
        ]
    );
    assert_eq!(dump.operations().len(), 0);
    assert_eq!(dump.workers(), Default::default());
    // From here on the socket is ready, and what was found ready is in the dump until it is called.
    let seen = Rc::new(RefCell::new(Vec::new()));
    let ready = Rc::clone(&seen);
    let half = ctx.bottom_half(move |ctx| {
        ready
            .borrow_mut()
            .extend(ctx.dump().handlers().filter(|h| h.ready).map(|h| h.name().map(str::to_owned)));
    });
    drop(on_socket);
    rung.notify().unwrap();
    half.schedule();
    turn_until(&ctx, || {
        !seen.borrow().is_empty() || {
            half.schedule();
            rung.notify().unwrap();
            false
        }
    });
    assert_eq!(seen.borrow()[0].as_deref(), Some("kick 0"));
    let _ = peer.write_all(b"x");
    assert!(ctx.dump().handlers().all(|h| h.name() != Some("socket 7")), "removed");
}

pub(crate) fn a_dump_is_printed_one_line_for_each(setup: &Setup) {
    let ctx = setup.context();
    ctx.set_profiling(true);
    let _bell = bell(setup, &ctx, "kick \"0\"\nsecond line");
    let _timers = [due(&ctx, "tick", |_| ()), ctx.timer(|_| ())];
    turn(&ctx);
    let dump = ctx.dump();
    let text = dump.to_string();
    let lines: Vec<_> = text.lines().collect();
    let kind = ctx.monitor().kind;
    assert!(lines[0].starts_with(&format!("monitor {kind} (")), "{text}");
    assert!(
        lines.iter().any(|l| l.starts_with("notifier fd ") && l.ends_with(r#" "kick \"0\"\nsecond line""#))
    );
    assert!(lines.iter().any(|l| l.starts_with(r#"timer idle "tick": 1 calls, "#)), "{text}");
    assert!(lines.iter().any(|l| l.starts_with("all callbacks of kind timer: 1 calls, ")), "{text}");
    assert!(lines.contains(&"0 worker threads, 0 jobs running, 0 queued"), "{text}");
    // Monitor, counters, two handlers, two timers, closures, workers, one kind that was called.
    assert_eq!(lines.len(), 9, "{text}");
}

pub(crate) fn a_dump_has_the_operations_in_flight(setup: &Setup) {
    let ctx = setup.context();
    let (reader, mut writer) = std::io::pipe().unwrap();
    let done = Count::default();
    let bump = done.clone();
    ctx.read_at(reader, vec![0; 8], u64::MAX, move |_, _, _, _| bump.bump()).unwrap();
    settle(&ctx);
    let dump = ctx.dump();
    assert!(dump.to_string().contains("\noperation 0 in flight\n"), "{dump}");
    assert!(dump.operations().all(|o| o.in_flight && !o.multishot));
    assert_eq!(dump.operations().len(), 1);
    writer.write_all(b"x").unwrap();
    turn_until(&ctx, || done.get() == 1);
    assert_eq!(ctx.dump().operations().len(), 0);
}

pub(crate) fn a_name_can_be_changed_and_goes_with_the_handler(setup: &Setup) {
    let ctx = setup.context();
    let (_notifier, on, _) = bell(setup, &ctx, "first");
    let on = on.named(String::from("second"));
    let names = |ctx: &AioContext| -> Vec<_> {
        ctx.dump().handlers().filter_map(|h| h.name().map(str::to_owned)).collect()
    };
    assert_eq!(names(&ctx), ["second"]);
    drop(on);
    assert!(names(&ctx).is_empty());
    let (timer, half) = (ctx.timer(|_| ()).named("timer"), ctx.bottom_half(|_| ()).named("half"));
    drop((timer, half));
    assert_eq!((ctx.dump().timers().len(), ctx.dump().bottom_halves().len()), (0, 0));
    // A dead context: no effect.
    let (timer, half) = (ctx.timer(|_| ()), ctx.bottom_half(|_| ()));
    let (_notifier, on, _) = bell(setup, &ctx, "gone");
    drop(ctx);
    drop((timer.named("timer"), half.named("half"), on.named("handler")));
}

pub(crate) fn a_profile_counts_every_kind_of_callback(setup: &Setup) {
    let ctx = setup.context();
    ctx.set_profiling(false);
    ctx.set_profiling(true);
    assert!(ctx.is_profiling());
    let (rung, _on, count) = bell(setup, &ctx, "kick");
    let (ours, mut peer) = UnixStream::pair().unwrap();
    let heard = Count::default();
    let (bump, socket) = (heard.clone(), ours.try_clone().unwrap());
    let _socket = ctx.add_borrowed_fd(&ours, Interest::READABLE, move |_, _| {
        std::io::Read::read(&mut &socket, &mut [0; 8]).unwrap();
        bump.bump();
    });
    let device_bell = setup.notifier();
    let _device = ctx.add_polled_notifier(&device_bell, Rc::new(Device)).unwrap();
    let half = ctx.bottom_half(|_| ()).named("half");
    let timer = due(&ctx, "tick", |_| ());
    half.schedule();
    ctx.defer(|_| ());
    assert!(ctx.handle().schedule(|_| ()));
    rung.notify().unwrap();
    device_bell.notify().unwrap();
    drop(ctx.spawn(async {}));
    peer.write_all(b"x").unwrap();
    let all = |ctx: &AioContext| {
        let of = |kind| ctx.figures(kind).calls;
        count.get() != 0 && heard.get() != 0 && of(CallbackKind::PolledNotifier) != 0 && !timer.is_pending()
    };
    turn_until(&ctx, || all(&ctx));
    settle(&ctx);
    let calls = CallbackKind::ALL.map(|kind| ctx.figures(kind).calls);
    // An eventfd may ring without need, so the notifiers are compared with what was counted.
    let stats = ctx.stats();
    let expected = [heard.get(), count.get(), stats.notifier_dispatches - count.get(), 0, 1, 1, 2, 0, 1];
    assert_eq!(calls, expected, "{:?}", CallbackKind::ALL);
    let dump = ctx.dump();
    let of_bell = dump.handlers().find(|h| h.name() == Some("kick")).unwrap().figures;
    assert_eq!(of_bell, ctx.figures(CallbackKind::Notifier), "it is the only one of its kind");
    assert_eq!(dump.timers().next().unwrap().figures, ctx.figures(CallbackKind::Timer));
    assert_eq!(dump.bottom_halves().next().unwrap().figures, dump.figures(CallbackKind::BottomHalf));
    // Without a profile the same turns count nothing.
    ctx.set_profiling(false);
    timer.arm_at(0);
    turn(&ctx);
    assert_eq!((ctx.figures(CallbackKind::Timer).calls, ctx.stats().timers), (1, 2));
}

pub(crate) fn a_profile_begins_from_zero_and_is_kept_when_it_ends(setup: &Setup) {
    let ctx = setup.context();
    ctx.set_profiling(false);
    let timer = due(&ctx, "tick", |_| ());
    let calls = |ctx: &AioContext| {
        (ctx.figures(CallbackKind::Timer).calls, ctx.dump().timers().next().unwrap().figures.calls)
    };
    let run = |ctx: &AioContext| {
        timer.arm_at(0);
        turn_until(ctx, || !timer.is_pending());
    };
    run(&ctx);
    assert_eq!(calls(&ctx), (0, 0), "off");
    for profile in 0..3 {
        ctx.set_profiling(true);
        assert_eq!(calls(&ctx), (0, 0), "profile {profile} begins");
        run(&ctx);
        ctx.set_profiling(true);
        run(&ctx);
        assert_eq!(calls(&ctx), (2, 2), "switching on what is on changes nothing");
        ctx.set_profiling(false);
        run(&ctx);
        assert_eq!(calls(&ctx), (2, 2), "kept");
    }
}

pub(crate) fn a_profile_measures_the_time_of_a_callback(setup: &Setup) {
    const AT_LEAST: Duration = Duration::from_millis(2);
    let ctx = setup.context();
    ctx.set_profiling(true);
    let spins = Rc::new(Cell::new(true));
    let flag = Rc::clone(&spins);
    let timer = due(&ctx, "tick", move |_| {
        let start = Instant::now();
        while flag.get() && start.elapsed() < AT_LEAST {
            std::hint::spin_loop();
        }
    });
    turn(&ctx);
    let first = ctx.figures(CallbackKind::Timer);
    assert!(first.longest >= AT_LEAST && first.total == first.longest, "{first:?}");
    spins.set(false);
    timer.arm_at(0);
    turn(&ctx);
    let both = ctx.figures(CallbackKind::Timer);
    assert_eq!((both.calls, both.longest), (2, first.longest.max(both.total - first.total)));
    assert!(both.total > first.total, "{both:?}");
}

pub(crate) fn a_callback_that_panics_counts(setup: &Setup) {
    let ctx = setup.context();
    ctx.set_profiling(true);
    let timer = due(&ctx, "tick", |_| std::panic::resume_unwind(Box::new(())));
    catch_unwind(AssertUnwindSafe(|| ctx.poll(true))).unwrap_err();
    assert_eq!((ctx.figures(CallbackKind::Timer).calls, ctx.stats().timers), (1, 1));
    drop(timer);
    let _other = due(&ctx, "other", |_| ());
    turn(&ctx);
    assert_eq!(ctx.figures(CallbackKind::Timer).calls, 2);
}

pub(crate) fn a_callback_may_dump_and_switch_the_profile(setup: &Setup) {
    // Also with busy polling, whose turns are other code again.
    for policy in [BusyPolling::OFF, BusyPolling::up_to_ns(1_000)] {
        let ctx = setup.context();
        ctx.set_busy_polling(policy);
        let half = ctx.bottom_half(|_| ());
        let timer = Slot::new();
        let again = timer.clone();
        timer.put(ctx.timer(move |ctx| {
            ctx.set_profiling(!ctx.is_profiling());
            assert_ne!(ctx.dump().handlers().len(), 0);
            again.with(|timer: &Timer| timer.arm_at(0));
        }));
        ctx.set_profiling(false);
        timer.with(|timer| timer.arm_at(0));
        for _ in 0..10 {
            half.schedule();
            turn(&ctx);
        }
        let (halves, timers) = (ctx.figures(CallbackKind::BottomHalf), ctx.figures(CallbackKind::Timer));
        assert_eq!((ctx.stats().timers, ctx.stats().bottom_halves), (10, 10));
        assert_eq!(halves.calls, 1, "every other turn was profiled, each from zero");
        assert_eq!(timers.calls, 0, "it switches the profile off before it returns");
        drop(timer.take());
    }
}

pub(crate) fn slow_callbacks_are_reported_with_name_and_kind(setup: &Setup) {
    let ctx = setup.context();
    let reports = Rc::new(RefCell::new(Vec::new()));
    let report = Rc::clone(&reports);
    ctx.on_slow_callback(Duration::ZERO, move |_, slow| {
        assert_ne!(slow.took, Duration::ZERO);
        assert!(slow.to_string().contains(&format!("took {:?}", slow.took)));
        report.borrow_mut().push((slow.name.map(str::to_owned), slow.kind));
    });
    // At least two readings of the clock apart.
    let spin = |_: &AioContext| {
        let start = Instant::now();
        while start.elapsed() < Duration::from_micros(2) {}
    };
    let half = ctx.bottom_half(spin).named("half");
    half.schedule();
    ctx.defer(spin);
    let _timer = due(&ctx, "tick", spin);
    let unnamed = ctx.timer(spin);
    unnamed.arm_at(1);
    turn(&ctx);
    let name = |name: &str| Some(name.to_owned());
    assert_eq!(
        *reports.borrow(),
        [
            (name("half"), CallbackKind::BottomHalf),
            (None, CallbackKind::Closure),
            (name("tick"), CallbackKind::Timer),
            (None, CallbackKind::Timer),
        ]
    );
    // No profile, no figures, unless the set-up profiles.
    if !ctx.is_profiling() {
        assert_eq!(ctx.figures(CallbackKind::Timer).calls, 0);
    }
    let (rung, _on, _) = bell(setup, &ctx, "kick");
    let on_spin = setup.notifier();
    let _spins = ctx.add_notifier(&on_spin, spin).unwrap().named("spins");
    rung.notify().unwrap();
    on_spin.notify().unwrap();
    turn_until(&ctx, || reports.borrow().contains(&(name("spins"), CallbackKind::Notifier)));
}

pub(crate) fn a_hook_that_was_replaced_or_removed_is_not_called(setup: &Setup) {
    let ctx = setup.context();
    let (first, second) = (Count::default(), Count::default());
    let timer = due(&ctx, "tick", |_| {
        let start = Instant::now();
        while start.elapsed() < Duration::from_micros(2) {}
    });
    let run = |ctx: &AioContext| {
        timer.arm_at(0);
        turn_until(ctx, || !timer.is_pending());
    };
    let bump = first.clone();
    ctx.on_slow_callback(Duration::ZERO, move |_, _| bump.bump());
    run(&ctx);
    let bump = second.clone();
    ctx.on_slow_callback(Duration::ZERO, move |_, _| bump.bump());
    run(&ctx);
    ctx.remove_slow_callback_hook();
    run(&ctx);
    let bump = first.clone();
    ctx.on_slow_callback(LONG, move |_, _| bump.bump());
    run(&ctx);
    assert_eq!((first.get(), second.get()), (1, 1));
}

pub(crate) fn a_hook_may_turn_the_loop_and_remove_itself(setup: &Setup) {
    let ctx = setup.context();
    let (calls, inner) = (Count::default(), Count::default());
    let (bump, ran) = (calls.clone(), inner.clone());
    ctx.on_slow_callback(Duration::ZERO, move |ctx, slow| {
        bump.bump();
        if slow.name == Some("outer") {
            let bump = ran.clone();
            let _inner = due(ctx, "inner", move |_| {
                let start = Instant::now();
                while start.elapsed() < Duration::from_micros(2) {}
                bump.bump();
            });
            turn_until(ctx, || ran.get() == 1);
            // Drops this very hook, while it runs.
            ctx.remove_slow_callback_hook();
            assert_eq!(ran.get(), 1, "its captures are still there");
        }
    });
    let _outer = due(&ctx, "outer", |_| {
        let start = Instant::now();
        while start.elapsed() < Duration::from_micros(2) {}
    });
    turn(&ctx);
    assert_eq!((calls.get(), inner.get()), (2, 1), "once for each timer");
    let _again = due(&ctx, "again", |_| ());
    turn(&ctx);
    assert_eq!(calls.get(), 2);
}

pub(crate) fn a_panic_of_the_hook_leaves_the_loop_working(setup: &Setup) {
    let ctx = setup.context();
    ctx.on_slow_callback(Duration::ZERO, |_, _| std::panic::resume_unwind(Box::new("the hook")));
    let (rung, _on, count) = bell(setup, &ctx, "kick");
    let spin = |_: &AioContext| {
        let start = Instant::now();
        while start.elapsed() < Duration::from_micros(2) {}
    };
    let timers = [due(&ctx, "first", spin), due(&ctx, "second", spin)];
    let payload = catch_unwind(AssertUnwindSafe(|| ctx.poll(true))).unwrap_err();
    assert_eq!(payload.downcast_ref(), Some(&"the hook"));
    assert!(!timers[0].is_pending() && timers[1].is_pending(), "the second runs in the next turn");
    ctx.remove_slow_callback_hook();
    rung.notify().unwrap();
    turn_until(&ctx, || count.get() != 0 && !timers[1].is_pending());
    assert_eq!(ctx.stats().timers, 2);
    assert!(!look(&ctx));
}

pub(crate) fn the_hook_is_dropped_with_the_context(setup: &Setup) {
    struct OnDrop(aio::Handle, Rc<Cell<Option<bool>>>);
    impl Drop for OnDrop {
        fn drop(&mut self) {
            self.1.set(Some(self.0.is_alive()));
        }
    }
    let alive = Rc::new(Cell::new(None));
    let ctx = setup.context();
    let (held, timer) = (OnDrop(ctx.handle(), Rc::clone(&alive)), ctx.timer(|_| ()));
    ctx.on_slow_callback(LONG, move |_, _| _ = (&held, &timer));
    drop(ctx);
    assert_eq!(alive.get(), Some(true), "while the context can still be used, as other captures");
}

/// Runs long enough for two readings of the clock to differ.
fn spin() {
    let start = Instant::now();
    while start.elapsed() < Duration::from_micros(2) {}
}

/// The names and states of the tasks.
fn tasks(ctx: &AioContext) -> Vec<(Option<String>, TaskState)> {
    ctx.dump().tasks().map(|task| (task.name().map(str::to_owned), task.state)).collect()
}

pub(crate) fn a_dump_has_the_tasks_with_names_and_states(setup: &Setup) {
    let ctx = setup.context();
    let name = |name: &str| Some(name.to_owned());
    let (waker, local) = (Rc::new(RefCell::new(None::<Waker>)), ctx.local_handle());
    let kept = Rc::clone(&waker);
    let waits = ctx
        .spawn(poll_fn(move |cx| {
            *kept.borrow_mut() = Some(cx.waker().clone());
            Poll::<()>::Pending
        }))
        .named("first")
        .named("waits");
    let seen = Rc::new(RefCell::new(Vec::new()));
    let dumped = Rc::clone(&seen);
    let looks = ctx.spawn(async move { *dumped.borrow_mut() = tasks(&local) }).named(String::from("looks"));
    let unnamed = ctx.spawn(pending::<()>());
    let ready = TaskState::Ready;
    assert_eq!(tasks(&ctx), [(name("waits"), ready), (name("looks"), ready), (None, ready)]);
    turn(&ctx);
    let waiting = TaskState::Waiting;
    assert_eq!(
        *seen.borrow(),
        [(name("waits"), waiting), (name("looks"), TaskState::Running), (None, ready)]
    );
    // It is over: a name has no effect, and the next task in its place has none.
    assert_eq!(tasks(&ctx), [(name("waits"), waiting), (None, waiting)]);
    let looks = looks.named("over");
    let next = ctx.spawn(pending::<()>());
    assert_eq!(tasks(&ctx), [(name("waits"), waiting), (None, ready), (None, waiting)]);
    turn(&ctx);
    // Woken by another thread, which cannot put it on the queue.
    let woken = waker.borrow().clone().unwrap();
    std::thread::spawn(move || woken.wake()).join().unwrap();
    unnamed.abort();
    assert_eq!(tasks(&ctx), [(name("waits"), ready), (None, waiting), (None, ready)]);
    // The future that is waited for is no task.
    let inside = ctx.block_on(async { tasks(&ctx).len() }).unwrap();
    assert_eq!(inside, 3);
    let text = ctx.dump().to_string();
    assert!(text.contains("\ntask ready \"waits\"") && text.contains("\ntask waits"), "{text}");
    drop(ctx);
    drop((waits.named("dead"), looks, next));
}

pub(crate) fn polls_of_tasks_are_profiled_by_name(setup: &Setup) {
    let ctx = setup.context();
    ctx.set_profiling(false);
    let spawn = |name: &'static str| {
        let local = ctx.local_handle();
        ctx.spawn(async move {
            for _ in 0..4 {
                spin();
                local.yield_now().await;
            }
            pending::<()>().await;
        })
        .named(name)
    };
    let [_disk, _net] = ["disk", "net"].map(spawn);
    let polls = || -> Vec<_> {
        ctx.dump().tasks().map(|task| (task.name().unwrap().to_owned(), task.figures.calls)).collect()
    };
    turn_until(&ctx, || tasks(&ctx).iter().all(|(_, state)| *state == TaskState::Waiting));
    assert_eq!(polls(), [("disk".to_owned(), 0), ("net".to_owned(), 0)], "off");
    assert_eq!(ctx.figures(CallbackKind::Task).calls, 0);
    ctx.set_profiling(true);
    let before = ctx.stats().task_polls;
    drop(spawn("blk"));
    turn(&ctx);
    turn_until(&ctx, || tasks(&ctx).iter().all(|(_, state)| *state == TaskState::Waiting));
    let blk = ctx.dump().tasks().find(|task| task.name() == Some("blk")).unwrap().figures;
    assert_eq!((blk.calls, ctx.stats().task_polls - before), (5, 5));
    assert!(blk.longest >= Duration::from_micros(2) && blk.total >= 4 * Duration::from_micros(2));
    assert_eq!(ctx.figures(CallbackKind::Task), blk, "the others were not polled");
}

pub(crate) fn polls_of_tasks_between_turns_are_observed(setup: &Setup) {
    let ctx = setup.context();
    let (reports, local) = (Rc::new(RefCell::new(Vec::new())), ctx.local_handle());
    let report = Rc::clone(&reports);
    ctx.on_slow_callback(Duration::ZERO, move |_, slow| {
        if slow.kind == CallbackKind::Task {
            report.borrow_mut().push(slow.name.map(str::to_owned));
        }
    });
    let before = ctx.stats().turns;
    ctx.block_on(async {
        spin();
        let inner = local.spawn(async { spin() }).named("inner");
        inner.await.unwrap();
        spin();
    })
    .unwrap();
    assert_eq!(ctx.stats().turns, before, "no turn was needed");
    assert_eq!(*reports.borrow(), [Some("inner".to_owned())], "the task, and not the future itself");
    ctx.remove_slow_callback_hook();
    ctx.block_on(local.spawn(async { spin() })).unwrap().unwrap();
    assert_eq!(reports.borrow().len(), 1);
}

pub(crate) fn a_panic_of_the_hook_after_a_poll_loses_no_task(setup: &Setup) {
    let ctx = setup.context();
    let turned = Rc::new(RefCell::new(None::<Waker>));
    let (kept, polls) = (Rc::clone(&turned), Count::default());
    let (bump, local) = (polls.clone(), ctx.local_handle());
    let nested = Rc::new(Cell::new(false));
    let is_nested = Rc::clone(&nested);
    // It wakes itself and turns the loop, so it has to be polled again.
    let again = ctx
        .spawn(poll_fn(move |cx| {
            bump.bump();
            if bump.get() == 1 {
                *kept.borrow_mut() = Some(cx.waker().clone());
                cx.waker().wake_by_ref();
                nested.set(true);
                local.poll(false).unwrap();
                nested.set(false);
                spin();
                return Poll::Pending;
            }
            Poll::Ready(())
        }))
        .named("again");
    ctx.on_slow_callback(Duration::ZERO, move |_, slow| {
        if slow.name == Some("again") && !is_nested.get() {
            std::panic::resume_unwind(Box::new("the hook"));
        }
    });
    let payload = catch_unwind(AssertUnwindSafe(|| ctx.poll(true))).unwrap_err();
    assert_eq!(payload.downcast_ref(), Some(&"the hook"));
    assert_eq!(tasks(&ctx), [(Some("again".to_owned()), TaskState::Ready)], "it is still to be polled");
    ctx.remove_slow_callback_hook();
    turn_until(&ctx, || again.is_finished());
    assert_eq!(polls.get(), 2);
    // Also for a task that is over: its place is free.
    let done = ctx.spawn(async { spin() }).named("again");
    ctx.on_slow_callback(Duration::ZERO, |_, _| std::panic::resume_unwind(Box::new("the hook")));
    catch_unwind(AssertUnwindSafe(|| ctx.poll(true))).unwrap_err();
    ctx.remove_slow_callback_hook();
    assert!(done.is_finished() && tasks(&ctx).is_empty());
}

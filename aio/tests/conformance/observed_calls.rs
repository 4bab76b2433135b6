//! What the time of a callback is, and under which name it goes.

use crate::setup::Setup;
use crate::support::{Count, Slot, settle, turn, turn_until};
use aio::subscriber::{Event, Ops, Subscriber, Subscribers};
use aio::{AioContext, CallbackKind, Home, Hosted, Interest, Movable};
use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::{Duration, Instant};

/// The least time of a callback that spins.
const SPIN: Duration = Duration::from_micros(200);

fn spin() {
    let start = Instant::now();
    while start.elapsed() < SPIN {
        std::hint::spin_loop();
    }
}

/// Spins as it is dropped.
struct SpinOnDrop;

impl Drop for SpinOnDrop {
    fn drop(&mut self) {
        spin();
    }
}

/// What a hook was called with: name, kind, time, and own time.
type Report = (Option<String>, CallbackKind, Duration, Duration);
type Reports = Rc<RefCell<Vec<Report>>>;

/// Reports callbacks that took longer than `limit` by themselves.
fn reports(ctx: &AioContext, limit: Duration) -> Reports {
    let all = Reports::default();
    let reports = Rc::clone(&all);
    ctx.on_slow_callback(limit, move |_, slow| {
        let report = (slow.name.map(str::to_owned), slow.kind, slow.took, slow.own);
        reports.borrow_mut().push(report);
    });
    all
}

/// Calls under each name, of what there is and of what has ended.
fn calls(ctx: &AioContext) -> BTreeMap<(&'static str, String), u64> {
    let (dump, mut sums) = (ctx.dump(), BTreeMap::new());
    let mut add = |kind: CallbackKind, name: Option<&str>, calls| {
        if let Some(name) = name {
            *sums.entry((kind.as_str(), name.to_owned())).or_default() += calls;
        }
    };
    dump.handlers().for_each(|e| add(e.kind, e.name(), e.figures.calls));
    dump.timers().for_each(|e| add(CallbackKind::Timer, e.name(), e.figures.calls));
    dump.bottom_halves().for_each(|e| add(CallbackKind::BottomHalf, e.name(), e.figures.calls));
    dump.tasks().for_each(|e| add(CallbackKind::Task, e.name(), e.figures.calls));
    dump.ended().for_each(|e| add(e.kind, Some(e.name()), e.figures.calls));
    sums
}

pub(crate) fn what_a_name_has_counted_outlives_its_callbacks(setup: &Setup) {
    let ctx = setup.context();
    ctx.set_profiling(true);
    let timers = [(); 2].map(|()| ctx.timer(|_| ()).named("timer"));
    let halves = [(); 2].map(|()| ctx.bottom_half(|_| ()).named("half"));
    let bell = setup.notifier();
    let handler = ctx.add_notifier(&bell, |_| ()).unwrap().named("bell");
    timers.iter().for_each(|timer| timer.arm_at(0));
    halves.iter().for_each(|half| half.schedule());
    drop(ctx.spawn(async {}).named("task"));
    bell.notify().unwrap();
    turn_until(&ctx, || ctx.stats().notifier_dispatches != 0 && ctx.stats().timers == 2);
    settle(&ctx);
    let before = calls(&ctx);
    for (kind, name, count) in [("timer", "timer", 2), ("bottom half", "half", 2), ("task", "task", 1)] {
        assert_eq!(before.get(&(kind, name.to_owned())), Some(&count), "{before:?}");
    }
    assert!(before[&("notifier", "bell".to_owned())] != 0);
    let ([one, other], [first, second]) = (timers, halves);
    drop((one, first));
    assert_eq!(calls(&ctx), before);
    drop((other, second, handler));
    assert_eq!(calls(&ctx), before, "nobody has these names any more");
    // A new one of the same name goes on.
    let timer = ctx.timer(|_| ()).named("timer");
    timer.arm_at(0);
    turn_until(&ctx, || !timer.is_pending());
    assert_eq!(calls(&ctx)[&("timer", "timer".to_owned())], 3);
    // What ended while nobody profiled stays as well; a new profile begins with nothing.
    ctx.set_profiling(false);
    drop(timer);
    assert_eq!(calls(&ctx)[&("timer", "timer".to_owned())], 3);
    ctx.set_profiling(true);
    assert_eq!(ctx.dump().ended().len(), 0);
}

pub(crate) fn a_nested_turn_is_not_the_time_of_its_callback(setup: &Setup) {
    let ctx = setup.context();
    ctx.set_profiling(true);
    let done = Rc::new(Cell::new(false));
    let flag = Rc::clone(&done);
    let hog = ctx
        .bottom_half(move |_| {
            spin();
            flag.set(true);
        })
        .named("hog");
    let drain = ctx
        .bottom_half(move |ctx| {
            hog.schedule();
            turn_until(ctx, || done.get());
        })
        .named("drain");
    let reports = reports(&ctx, Duration::ZERO);
    drain.schedule();
    turn(&ctx);
    let reports = reports.take();
    let find = |name: &str| reports.iter().find(|report| report.0.as_deref() == Some(name)).unwrap();
    let (_, _, took, own) = find("hog");
    assert!(*own >= SPIN && took == own, "{took:?} {own:?}");
    let (_, _, took, own) = find("drain");
    assert!(*took >= SPIN && *took - *own >= SPIN, "{took:?} {own:?}");
    let of_drain = ctx.dump().bottom_halves().find(|half| half.name() == Some("drain")).unwrap().figures;
    assert!(of_drain.total - of_drain.own >= SPIN && of_drain.longest_own <= of_drain.own, "{of_drain:?}");
    let all = ctx.figures(CallbackKind::BottomHalf);
    assert!(all.own <= all.total - SPIN, "the time of the hog counts once: {all:?}");
}

pub(crate) fn a_panic_out_of_a_nested_turn_keeps_the_times_right(setup: &Setup) {
    let ctx = setup.context();
    ctx.set_profiling(true);
    let bomb = ctx.bottom_half(|_| {
        spin();
        std::panic::resume_unwind(Box::new("bomb"));
    });
    let outer = ctx.bottom_half(move |ctx| {
        bomb.schedule();
        turn_until(ctx, || false);
    });
    let reports = reports(&ctx, Duration::ZERO);
    outer.schedule();
    let payload = catch_unwind(AssertUnwindSafe(|| ctx.poll(true))).unwrap_err();
    assert_eq!(payload.downcast_ref(), Some(&"bomb"));
    let taken = reports.take();
    assert_eq!(taken.len(), 2, "both were reported");
    assert!(taken[1].2 - taken[1].3 >= SPIN, "{taken:?}");
    // A callback that comes after it is in no other one.
    ctx.defer(|_| spin());
    turn(&ctx);
    let (_, _, took, own) = &reports.borrow()[0];
    assert_eq!(took, own);
}

pub(crate) fn a_panic_of_hook_and_callback_is_that_of_the_callback(setup: &Setup) {
    let ctx = setup.context();
    ctx.on_slow_callback(Duration::ZERO, |_, _| std::panic::resume_unwind(Box::new("hook")));
    ctx.defer(|_| {
        spin();
        std::panic::resume_unwind(Box::new("callback"));
    });
    let payload = catch_unwind(AssertUnwindSafe(|| ctx.poll(true))).unwrap_err();
    assert_eq!(payload.downcast_ref(), Some(&"callback"));
}

pub(crate) fn what_a_callback_drops_with_itself_is_its_time(setup: &Setup) {
    let ctx = setup.context();
    ctx.set_profiling(true);
    let timer = Slot::new();
    let (own, held) = (timer.clone(), SpinOnDrop);
    timer.put(ctx.timer(move |_| _ = (&held, own.take())));
    let half = Slot::new();
    let (own, held) = (half.clone(), SpinOnDrop);
    half.put(ctx.bottom_half(move |_| _ = (&held, own.take())));
    timer.with(|timer: &aio::Timer| timer.arm_at(0));
    half.with(|half: &aio::BottomHalf| half.schedule());
    turn_until(&ctx, || ctx.stats().timers != 0);
    for kind in [CallbackKind::Timer, CallbackKind::BottomHalf] {
        assert!(ctx.figures(kind).longest >= SPIN, "{kind}: {:?}", ctx.figures(kind));
    }
}

pub(crate) fn a_callback_names_itself(setup: &Setup) {
    let ctx = setup.context();
    ctx.set_profiling(true);
    ctx.name_callback("nobody");
    let reports = reports(&ctx, Duration::ZERO);
    ctx.defer(|ctx| {
        ctx.name_callback("first");
        ctx.name_callback(String::from("deferred"));
        spin();
    });
    assert!(ctx.handle().schedule(|ctx| {
        ctx.name_callback("sent");
        // What it calls has names of its own.
        ctx.defer(|_| spin());
        ctx.poll(true).unwrap();
        spin();
    }));
    let done = Count::default();
    let bump = done.clone();
    let finished = move |ctx: &AioContext, _| {
        ctx.name_callback("worked");
        spin();
        bump.bump();
    };
    ctx.spawn_blocking(|| (), finished).unwrap();
    let given = ctx.bottom_half(|ctx| {
        ctx.name_callback("own");
        spin();
    });
    let given = given.named("given");
    given.schedule();
    turn_until(&ctx, || done.get() != 0);
    settle(&ctx);
    let mut names: Vec<_> = reports.borrow().iter().map(|report| (report.0.clone(), report.1)).collect();
    names.sort_by(|a, b| a.0.cmp(&b.0));
    let name = |name: &str| Some(name.to_owned());
    let closure = |of: &str| (name(of), CallbackKind::Closure);
    let unnamed = (None, CallbackKind::Closure);
    let given_name = (name("given"), CallbackKind::BottomHalf);
    assert_eq!(names, [unnamed, closure("deferred"), given_name, closure("sent"), closure("worked")]);
    let counted = calls(&ctx);
    for of in ["deferred", "sent", "worked"] {
        assert_eq!(counted.get(&("closure", of.to_owned())), Some(&1), "{counted:?}");
    }
    assert_eq!(counted[&("bottom half", "given".to_owned())], 1);
    assert!(!counted.keys().any(|(_, name)| ["nobody", "own", "first"].contains(&&**name)));
}

pub(crate) fn what_tasks_and_subscribers_wait_for_has_names(setup: &Setup) {
    let ctx = setup.context();
    let names = |ctx: &AioContext| {
        let mut names: Vec<_> = ctx.dump().handlers().filter_map(|h| h.name().map(str::to_owned)).collect();
        names.sort();
        names
    };
    let bell = setup.notifier();
    let doorbell = ctx.doorbell(&bell).unwrap().named("doorbell");
    let (ours, peer) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    let stream = ctx.async_fd(ours).unwrap().named("stream");
    assert_eq!(names(&ctx), ["doorbell", "stream"]);
    // A hang-up that nobody waits for removes the handler; the next one has the name as well.
    drop(peer);
    turn_until(&ctx, || names(&ctx) == ["doorbell"]);
    let reader = ctx.spawn(async move {
        let mut guard = stream.readable().await.unwrap();
        guard.clear_ready();
        drop(stream.readable().await.unwrap());
        stream
    });
    let seen = Rc::new(RefCell::new(Vec::new()));
    let (seen_by, wanted) = (Rc::clone(&seen), ["doorbell", "stream"]);
    let look = ctx.bottom_half(move |ctx| {
        let names = ctx.dump().handlers().filter_map(|h| h.name().map(str::to_owned)).collect::<Vec<_>>();
        seen_by.borrow_mut().extend(names);
    });
    turn_until(&ctx, || {
        look.schedule();
        seen.borrow().iter().any(|name| name == wanted[1]) || reader.is_finished()
    });
    assert!(seen.borrow().iter().any(|name| name == "stream"), "{:?}", seen.borrow());
    drop((reader, doorbell));
    settle(&ctx);

    struct Device(UnixStream, aio::EventNotifier);
    impl Subscriber for Device {
        fn init(&mut self, ops: &mut Ops<'_>) {
            ops.add(&self.0, Interest::READABLE, 0).unwrap();
            ops.add_notifier(&self.1, 1).unwrap();
            ops.name(&self.0, "socket").unwrap();
            ops.name(&self.1, String::from("kick")).unwrap();
            assert_eq!(ops.name(&1_000_000, "").unwrap_err().kind(), io::ErrorKind::NotFound);
        }
        fn process(&mut self, _: Event, _: &mut Ops<'_>) {}
    }
    let (ours, _peer) = UnixStream::pair().unwrap();
    let subscribers = Subscribers::new(&ctx);
    let _device = subscribers.add(Device(ours, setup.notifier()));
    assert_eq!(names(&ctx), ["kick", "socket"]);
}

pub(crate) fn a_device_that_moves_is_named(setup: &Setup) {
    struct Device;
    impl Movable for Device {
        type Attached = ();
        fn attach(&self, _: &AioContext, _: &Home<Self>) -> io::Result<()> {
            spin();
            Ok(())
        }
        fn detach(&self, _: &AioContext, (): ()) {
            spin();
        }
        fn name(&self) -> Cow<'static, str> {
            "disk0".into()
        }
    }
    let ctx = setup.context();
    let reports = reports(&ctx, Duration::ZERO);
    let device = Hosted::new(Device);
    device.move_to(&ctx.handle());
    turn_until(&ctx, || device.is_on(&ctx.handle()));
    drop(device);
    turn_until(&ctx, || reports.borrow().len() == 2);
    let names: Vec<_> = reports.borrow().iter().map(|report| report.0.clone().unwrap()).collect();
    assert_eq!(names, ["disk0: attach", "disk0: detach"]);
}

pub(crate) fn a_report_is_grammatical(setup: &Setup) {
    let ctx = setup.context();
    let texts = Rc::new(RefCell::new(Vec::new()));
    let all = Rc::clone(&texts);
    ctx.on_slow_callback(Duration::ZERO, move |_, slow| all.borrow_mut().push(slow.to_string()));
    let (ours, _peer) = UnixStream::pair().unwrap();
    let _on = ctx.add_fd(ours, Interest::WRITABLE, |_, _| spin()).unwrap();
    ctx.defer(|_| spin());
    turn_until(&ctx, || texts.borrow().len() >= 2);
    for start in ["the callback of an fd without a name took ", "the callback of a closure without a name"] {
        assert!(texts.borrow().iter().any(|text| text.starts_with(start)), "{:?}", texts.borrow());
    }
}

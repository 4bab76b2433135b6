//! The events of the feature `tracing`: which there are, and what they carry.

use aio::{AioContext, BusyPolled, BusyPolling, EventNotifier, Reset};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// An event: its level, its name, and its fields as text.
#[derive(Clone, Debug)]
struct Seen {
    level: Level,
    name: &'static str,
    fields: BTreeMap<&'static str, String>,
}

impl Visit for Seen {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.fields.insert(field.name(), format!("{value:?}"));
    }
}

/// Keeps the events of the loop up to a level.
#[derive(Clone)]
struct Log {
    most: Level,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "aio" && *metadata.level() <= self.most
    }

    fn event(&self, event: &Event<'_>) {
        let metadata = event.metadata();
        let mut seen = Seen { level: *metadata.level(), name: metadata.name(), fields: BTreeMap::new() };
        event.record(&mut seen);
        self.seen.lock().unwrap().push(seen);
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        unreachable!("the loop makes no spans")
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

/// What is logged up to a level while `work` runs.
fn logged(most: Level, work: impl FnOnce()) -> Vec<Seen> {
    let log = Log { most, seen: Arc::default() };
    let seen = Arc::clone(&log.seen);
    tracing::subscriber::with_default(log, work);
    let seen = seen.lock().unwrap();
    seen.clone()
}

fn names(seen: &[Seen]) -> Vec<&'static str> {
    seen.iter().map(|seen| seen.name).collect()
}

/// Long enough for two readings of the clock to differ.
fn spin(_: &AioContext) {
    let start = Instant::now();
    while start.elapsed() < Duration::from_micros(2) {}
}

#[test]
fn a_turn_and_its_callbacks() {
    let ctx = AioContext::new().unwrap();
    let timer = ctx.timer(spin).named("rtc");
    let half = ctx.bottom_half(spin);
    timer.arm_at(0);
    half.schedule();
    let seen = logged(Level::TRACE, || assert!(ctx.poll(true).unwrap()));
    assert_eq!(names(&seen), ["aio_dispatch", "aio_dispatch", "aio_poll"]);
    assert!(seen.iter().all(|seen| seen.level == Level::TRACE));
    assert_eq!(seen[0].fields["kind"], "\"bottom half\"");
    assert!(!seen[0].fields.contains_key("name"));
    assert_eq!((&*seen[1].fields["kind"], &*seen[1].fields["name"]), ("\"timer\"", "\"rtc\""));
    assert!(seen[1].fields["took_ns"].parse::<u64>().unwrap() >= 2_000);
    assert_eq!((&*seen[2].fields["blocking"], &*seen[2].fields["progress"]), ("true", "true"));
    // Nobody profiles: nothing is counted. Nobody listens: nothing is sent.
    assert_eq!(ctx.figures(aio::CallbackKind::Timer).calls, 0);
    timer.arm_at(0);
    assert!(logged(Level::WARN, || assert!(ctx.poll(true).unwrap())).is_empty());
}

#[test]
fn a_slow_callback_is_a_warning() {
    let ctx = AioContext::new().unwrap();
    let calls = Rc::new(Cell::new(0));
    let count = Rc::clone(&calls);
    ctx.on_slow_callback(Duration::from_nanos(1), move |_, _| count.set(count.get() + 1));
    let timer = ctx.timer(spin).named("rtc");
    timer.arm_at(0);
    let seen = logged(Level::WARN, || assert!(ctx.poll(true).unwrap()));
    assert_eq!((names(&seen), calls.get()), (vec!["slow_callback"], 1));
    assert_eq!(seen[0].level, Level::WARN);
    assert_eq!((&*seen[0].fields["limit_ns"], &*seen[0].fields["name"]), ("1", "\"rtc\""));
}

#[test]
fn worker_threads_under_the_names_of_qemu() {
    let ctx = AioContext::builder().worker_threads(0..=1).build().unwrap();
    let (let_go, may_end) = std::sync::mpsc::channel::<()>();
    let done = Rc::new(Cell::new(0));
    let seen = logged(Level::TRACE, || {
        let count = Rc::clone(&done);
        ctx.spawn_blocking(move || may_end.recv(), move |_, _| count.set(count.get() + 1)).unwrap();
        let count = Rc::clone(&done);
        let second = ctx.spawn_blocking(|| (), move |_, _| count.set(count.get() + 1)).unwrap();
        assert!(second.cancel());
        let_go.send(()).unwrap();
        while done.get() != 2 {
            ctx.poll(true).unwrap();
        }
    });
    let of_pool = |seen: &&Seen| seen.name.starts_with("thread_pool_");
    let of_pool: Vec<_> = seen.iter().filter(of_pool).map(|s| (s.name, &*s.fields["job"])).collect();
    assert_eq!(
        of_pool[..3],
        [("thread_pool_submit_aio", "0"), ("thread_pool_submit_aio", "1"), ("thread_pool_cancel_aio", "1")]
    );
    let mut ends = of_pool[3..].to_vec();
    ends.sort_unstable();
    assert_eq!(ends, [("thread_pool_complete_aio", "0"), ("thread_pool_complete_aio", "1")]);
}

#[test]
fn busy_polling_under_the_names_of_qemu() {
    struct Device(Cell<bool>);
    impl BusyPolled for Device {
        fn process(&self, _: &AioContext) {
            self.0.set(false);
        }

        fn is_ready(&self) -> bool {
            self.0.get()
        }
    }
    // The window opens with the first event, and is longer than the test runs.
    let policy = BusyPolling { max_ns: 60_000_000_000, grow: 1, ..BusyPolling::OFF };
    let ctx = AioContext::builder().busy_polling(policy).build().unwrap();
    let (bell, device) = (EventNotifier::new(Reset::Autoreset).unwrap(), Rc::new(Device(Cell::new(true))));
    let _device = ctx.add_polled_notifier(&bell, Rc::clone(&device)).unwrap();
    bell.notify().unwrap();
    while ctx.stats().notifier_dispatches == 0 {
        ctx.poll(true).unwrap();
    }
    let seen = logged(Level::TRACE, || {
        let hits = ctx.stats().poll_hits;
        while ctx.stats().poll_hits == hits {
            device.0.set(true);
            ctx.poll(true).unwrap();
        }
    });
    let at = names(&seen).iter().position(|name| *name == "run_poll_handlers_begin").unwrap();
    assert_eq!(seen[at + 1].name, "run_poll_handlers_end");
    assert!(seen[at].fields["max_ns"].parse::<u64>().unwrap() > 0);
    let end = seen.iter().rfind(|seen| seen.name == "run_poll_handlers_end").unwrap();
    assert_eq!(end.fields["progress"], "true");
}

#[test]
fn a_write_that_wakes_the_loop() {
    let ctx = AioContext::new().unwrap();
    let handle = ctx.handle();
    // An event belongs to the thread that sends it: the one that wakes.
    let log = Log { most: Level::TRACE, seen: Arc::default() };
    let waker = std::thread::spawn({
        let log = log.clone();
        move || {
            tracing::subscriber::with_default(log.clone(), || {
                let deadline = Instant::now() + Duration::from_secs(20);
                while log.seen.lock().unwrap().is_empty() && Instant::now() < deadline {
                    handle.notify();
                    std::thread::sleep(Duration::from_millis(1));
                }
                handle.stop();
            })
        }
    });
    ctx.run().unwrap();
    waker.join().unwrap();
    let seen = log.seen.lock().unwrap();
    assert!(!seen.is_empty() && seen.iter().all(|seen| seen.name == "aio_notify"), "{seen:?}");
    assert_eq!(seen.len() as u64, ctx.stats().syscalls_write);
}

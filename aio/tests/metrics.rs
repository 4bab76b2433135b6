//! The feature `metrics`: the text that a scraper gets.

use aio::{AioContext, Metrics};
use prometheus_client::collector::Collector;
use std::collections::{BTreeSet, HashMap};

/// The samples of a document, after a check of its form: each family has HELP and TYPE lines before
/// its samples, counters end with `_total`, no sample comes twice, and EOF comes last.
fn samples(text: &str) -> HashMap<String, f64> {
    let mut lines = text.lines().peekable();
    let (mut samples, mut family, mut families) = (HashMap::new(), String::new(), BTreeSet::new());
    while let Some(line) = lines.next() {
        if line == "# EOF" {
            assert!(lines.peek().is_none(), "something after the end:\n{text}");
            return samples;
        } else if let Some(help) = line.strip_prefix("# HELP ") {
            family = help.split(' ').next().unwrap().to_owned();
            assert!(families.insert(family.clone()), "{family} comes twice");
            let of_type = lines.next().unwrap();
            assert!(of_type.starts_with(&format!("# TYPE {family} ")), "{of_type}");
            if of_type.ends_with(" counter") {
                family += "_total";
            }
        } else {
            let (key, value) = line.rsplit_once(' ').unwrap();
            assert!(key.starts_with(&format!("{family}{{loop=\"")), "{key} is not of {family}");
            assert!(samples.insert(key.to_owned(), value.parse().unwrap()).is_none(), "{key} twice");
        }
    }
    panic!("no end:\n{text}");
}

#[test]
fn counters_gauges_and_times() {
    let (ctx, metrics) = (AioContext::new().unwrap(), Metrics::default());
    ctx.set_profiling(true);
    // Two with one name count together, and a name may be anything.
    let timers = ["rtc", "rtc", "a \"b\"\\\nc"].map(|name| ctx.timer(|_| ()).named(name));
    timers.iter().for_each(|timer| timer.arm_at(0));
    assert!(ctx.poll(true).unwrap());
    timers[0].arm_at(u64::MAX);
    let task = ctx.spawn(std::future::pending::<()>()).named("flush");
    ctx.poll(false).unwrap();
    ctx.defer(|_| ());
    metrics.publish("main", ctx.dump());
    let found = samples(&metrics.to_string());
    let stats = ctx.stats();
    for (key, value) in [
        (r#"aio_turns_total{loop="main"}"#, 2),
        (r#"aio_callbacks_total{loop="main",kind="task"}"#, 1),
        (r#"aio_tasks{loop="main",state="waiting"}"#, 1),
        (r#"aio_tasks{loop="main",state="ready"}"#, 0),
        (r#"aio_named_callbacks_total{loop="main",kind="task",name="flush"}"#, 1),
        (r#"aio_callbacks_total{loop="main",kind="timer"}"#, 3),
        (r#"aio_syscalls_total{loop="main",call="wait"}"#, stats.syscalls_wait),
        (r#"aio_syscalls_total{loop="main",call="enter"}"#, stats.syscalls_enter),
        (r#"aio_handlers{loop="main"}"#, 1),
        (r#"aio_timers{loop="main",state="armed"}"#, 1),
        (r#"aio_timers{loop="main",state="idle"}"#, 2),
        (r#"aio_closures{loop="main"}"#, 1),
        (r#"aio_worker_threads{loop="main"}"#, 0),
        (r#"aio_profiled_callbacks_total{loop="main",kind="timer"}"#, 3),
        (r#"aio_named_callbacks_total{loop="main",kind="timer",name="rtc"}"#, 2),
        (r#"aio_named_callbacks_total{loop="main",kind="timer",name="a \"b\"\\\nc"}"#, 1),
    ] {
        assert_eq!(found.get(key), Some(&(value as f64)), "{key} in {found:#?}");
    }
    drop(task);
    let seconds = |family: &str| found[&format!(r#"{family}{{loop="main",kind="timer"}}"#)];
    let (sum, longest) = (seconds("aio_callback_seconds_total"), seconds("aio_longest_callback_seconds"));
    assert!(0.0 < longest && longest <= sum, "{longest} of {sum}");
    assert_eq!(sum, ctx.figures(aio::CallbackKind::Timer).total.as_secs_f64());
}

/// A connection comes and goes; a scrape may fall anywhere.
#[test]
fn a_counter_of_a_name_never_goes_back() {
    let (ctx, metrics) = (AioContext::new().unwrap(), Metrics::default());
    ctx.set_profiling(true);
    let count = || {
        metrics.publish("main", ctx.dump());
        let found = samples(&metrics.to_string());
        let of = |family: &str| {
            found.get(&format!(r#"{family}{{loop="main",kind="timer",name="idle"}}"#)).copied()
        };
        assert!(of("aio_named_callback_own_seconds_total") <= of("aio_named_callback_seconds_total"));
        of("aio_named_callbacks_total")
    };
    let timers = [(); 2].map(|()| ctx.timer(|_| ()).named("idle"));
    timers.iter().for_each(|timer| timer.arm_at(0));
    assert!(ctx.poll(true).unwrap());
    let [first, second] = timers;
    let mut counts = vec![count()];
    drop(first);
    counts.push(count());
    drop(second);
    counts.push(count());
    assert_eq!(counts, [Some(2.0); 3]);
    // The next one goes on where the others ended.
    let third = ctx.timer(|_| ()).named("idle");
    third.arm_at(0);
    assert!(ctx.poll(true).unwrap());
    assert_eq!(count(), Some(3.0));
}

#[test]
fn several_loops_are_published_and_removed() {
    let (first, second, metrics) =
        (AioContext::new().unwrap(), AioContext::new().unwrap(), Metrics::default());
    assert!(samples(&metrics.to_string()).is_empty());
    for _ in 0..3 {
        first.poll(false).unwrap();
        metrics.publish("first", first.dump());
    }
    metrics.clone().publish("second", second.dump());
    let turns = |name: &str| {
        samples(&metrics.to_string()).get(&format!("aio_turns_total{{loop=\"{name}\"}}")).copied()
    };
    assert_eq!((turns("first"), turns("second")), (Some(3.0), Some(0.0)));
    assert!(metrics.remove("first") && !metrics.remove("first"));
    assert_eq!((turns("first"), turns("second")), (None, Some(0.0)));
}

#[test]
fn they_are_a_collector_that_any_thread_can_read() {
    fn is_collector<T: Collector + Clone>(_: &T) {}
    let (ctx, metrics) = (AioContext::new().unwrap(), Metrics::default());
    is_collector(&metrics);
    metrics.publish("main", ctx.dump());
    let mut registry = prometheus_client::registry::Registry::with_prefix("vmm");
    registry.register_collector(Box::new(metrics));
    let text = std::thread::spawn(move || {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        text
    });
    assert!(text.join().unwrap().contains("vmm_aio_turns_total{loop=\"main\"} 0\n"));
}

//! Dumps as metrics, in the OpenMetrics text format.

use super::dump::{Dump, TaskState};
use crate::profile::{CallbackKind, Figures};
use crate::stats::Stats;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType::{self, Counter, Gauge};
use prometheus_client::registry::Registry;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The metrics of one or more loops, for a scraper such as Prometheus. Feature `metrics`.
///
/// A loop can only be looked at in its home thread, so each home thread publishes a
/// [dump](crate::AioContext::dump) now and then, for example from a timer or when the scraper asks
/// ([`IoThread::run`](crate::IoThread::run)). Any thread can read what was published last: as text,
/// or through a registry of the crate `prometheus-client`, with which this registers as a
/// [`Collector`]. A clone is the same collection.
///
/// Counters never go back, with two exceptions: a loop which is published under the name of another
/// one begins again, and what the [profile](crate::AioContext::set_profiling) has counted begins
/// again with each profile. What callbacks with a name had counted when they ended stays in the
/// sums of that name. Only the 256 names of which the loop heard last are kept so: if you make up a
/// name for each connection, the series of the oldest ones end, and a name that comes back after
/// that begins again.
///
/// ```
/// # use aio::{AioContext, Metrics};
/// # fn main() -> std::io::Result<()> {
/// let (ctx, metrics) = (AioContext::new()?, Metrics::default());
/// ctx.poll(false)?;
/// metrics.publish("main", ctx.dump());
/// assert!(metrics.to_string().contains("aio_turns_total{loop=\"main\"} 1\n"));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default)]
pub struct Metrics(Arc<Mutex<BTreeMap<String, Dump>>>);

impl Metrics {
    /// Puts a dump in place of the last one of the same loop. The name is the value of the label
    /// `loop`. Waits for a thread that reads, as long as that takes.
    pub fn publish(&self, name: impl Into<String>, dump: Dump) {
        let name = name.into();
        let old = self.lock().insert(name, dump);
        drop(old);
    }

    /// Forgets a loop. Returns false if nothing was published under this name. Waits as `publish`.
    pub fn remove(&self, name: &str) -> bool {
        let old = self.lock().remove(name);
        old.is_some()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Dump>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Display for Metrics {
    /// A whole document in the OpenMetrics text format, with its `# EOF`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self.clone()));
        encode(f, &registry)
    }
}

impl Collector for Metrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let loops = self.lock();
        for (name, help, kind, samples) in FAMILIES {
            let mut family = encoder.encode_descriptor(name, help, None, *kind)?;
            for (name, dump) in &*loops {
                samples(dump, &mut Samples { family: &mut family, kind: *kind, name })?;
            }
        }
        Ok(())
    }
}

/// Where the samples of one loop in one family go.
struct Samples<'a, 'b> {
    family: &'a mut MetricEncoder<'b>,
    kind: MetricType,
    name: &'a str,
}

impl Samples<'_, '_> {
    /// A number, with further labels.
    fn put(&mut self, labels: &[(&'static str, &str)], value: u64) -> fmt::Result {
        let labels = self.labels(labels);
        let mut sample = self.family.encode_family(&labels)?;
        match self.kind {
            Counter => sample.encode_counter::<NoLabelSet, u64, f64>(&value, None),
            _ => sample.encode_gauge(&value),
        }
    }

    /// A number of seconds.
    fn put_seconds(&mut self, labels: &[(&'static str, &str)], value: f64) -> fmt::Result {
        let labels = self.labels(labels);
        let mut sample = self.family.encode_family(&labels)?;
        match self.kind {
            Counter => sample.encode_counter::<NoLabelSet, f64, f64>(&value, None),
            _ => sample.encode_gauge(&value),
        }
    }

    fn labels(&self, further: &[(&'static str, &str)]) -> Vec<(&'static str, String)> {
        let all = [("loop", self.name)].into_iter().chain(further.iter().copied());
        all.map(|(key, value)| (key, escaped(value))).collect()
    }
}

/// A label value as the text format wants it. The encoder writes values as they are.
fn escaped(value: &str) -> String {
    value.replace('\\', r"\\").replace('"', r#"\""#).replace('\n', r"\n")
}

/// Name, help, type, and what makes the samples of a loop.
type Family = (&'static str, &'static str, MetricType, fn(&Dump, &mut Samples<'_, '_>) -> fmt::Result);

const FAMILIES: &[Family] = &[
    ("aio_turns", "Turns of the loop.", Counter, |d, s| s.put(&[], d.stats().turns)),
    ("aio_wakeups", "Waits that returned an event.", Counter, |d, s| s.put(&[], d.stats().wakeups)),
    ("aio_own_wakeups", "Wake-ups by the loop's own notifier.", Counter, |d, s| {
        s.put(&[], d.stats().own_wakeups)
    }),
    ("aio_callbacks", "Callbacks that were called.", Counter, callbacks),
    ("aio_syscalls", "System calls of the loop.", Counter, syscalls),
    ("aio_spurious_events", "Readiness without anything to do.", Counter, |d, s| {
        s.put(&[], d.stats().spurious)
    }),
    ("aio_stale_events", "Events for what was already removed.", Counter, |d, s| s.put(&[], d.stats().stale)),
    ("aio_busy_polling_rounds", "Rounds of busy polling.", Counter, |d, s| {
        s.put(&[("found", "work")], d.stats().poll_hits)?;
        s.put(&[("found", "nothing")], d.stats().poll_misses)
    }),
    ("aio_handlers", "Handlers of descriptors and notifiers.", Gauge, |d, s| {
        s.put(&[], d.handlers().len() as u64)
    }),
    ("aio_timers", "Timers, by whether they are armed.", Gauge, |d, s| {
        let armed = d.timers().filter(|timer| timer.deadline_ns.is_some()).count();
        s.put(&[("state", "armed")], armed as u64)?;
        s.put(&[("state", "idle")], (d.timers().len() - armed) as u64)
    }),
    ("aio_operations", "Operations whose last callback has not begun.", Gauge, |d, s| {
        s.put(&[], d.operations().len() as u64)
    }),
    ("aio_closures", "Closures that wait for a turn.", Gauge, |d, s| s.put(&[], d.closures() as u64)),
    ("aio_tasks", "Tasks, by whether they will be polled.", Gauge, |d, s| {
        let states =
            [("waiting", TaskState::Waiting), ("ready", TaskState::Ready), ("running", TaskState::Running)];
        states.into_iter().try_for_each(|(label, state)| {
            let count = d.tasks().filter(|task| task.state == state).count();
            s.put(&[("state", label)], count as u64)
        })
    }),
    ("aio_worker_threads", "Worker threads.", Gauge, |d, s| s.put(&[], d.workers().threads as u64)),
    ("aio_worker_jobs", "Work that was given to the worker threads.", Gauge, |d, s| {
        s.put(&[("state", "queued")], d.workers().queued as u64)?;
        s.put(&[("state", "running")], d.workers().running as u64)
    }),
    ("aio_profiled_callbacks", "Callbacks that the profile has timed.", Counter, |d, s| {
        of_kinds(d, |kind, figures| s.put(&[("kind", kind)], figures.calls))
    }),
    ("aio_callback_seconds", "Time that callbacks took.", Counter, |d, s| {
        of_kinds(d, |kind, figures| s.put_seconds(&[("kind", kind)], figures.total.as_secs_f64()))
    }),
    ("aio_callback_own_seconds", "Time that callbacks took, without nested turns.", Counter, |d, s| {
        of_kinds(d, |kind, figures| s.put_seconds(&[("kind", kind)], figures.own.as_secs_f64()))
    }),
    ("aio_longest_callback_seconds", "Time of the longest callback.", Gauge, |d, s| {
        of_kinds(d, |kind, figures| s.put_seconds(&[("kind", kind)], figures.longest.as_secs_f64()))
    }),
    ("aio_named_callbacks", "Callbacks with a name that the profile has timed.", Counter, |d, s| {
        of_names(d, |kind, name, figures| s.put(&[("kind", kind), ("name", name)], figures.calls))
    }),
    ("aio_named_callback_seconds", "Time that callbacks with a name took.", Counter, |d, s| {
        of_names(d, |kind, name, figures| {
            s.put_seconds(&[("kind", kind), ("name", name)], figures.total.as_secs_f64())
        })
    }),
    ("aio_named_callback_own_seconds", "The same without nested turns.", Counter, |d, s| {
        of_names(d, |kind, name, figures| {
            s.put_seconds(&[("kind", kind), ("name", name)], figures.own.as_secs_f64())
        })
    }),
    ("aio_named_longest_callback_seconds", "Time of the longest callback with a name.", Gauge, |d, s| {
        of_names(d, |kind, name, figures| {
            s.put_seconds(&[("kind", kind), ("name", name)], figures.longest.as_secs_f64())
        })
    }),
];

fn callbacks(dump: &Dump, samples: &mut Samples<'_, '_>) -> fmt::Result {
    let Stats { fd_dispatches, notifier_dispatches, bottom_halves, timers, completions, task_polls, .. } =
        dump.stats();
    for (kind, count) in [
        ("fd", fd_dispatches),
        ("notifier", notifier_dispatches),
        ("bottom half", bottom_halves),
        ("timer", timers),
        ("operation", completions),
        ("task", task_polls),
    ] {
        samples.put(&[("kind", kind)], count)?;
    }
    Ok(())
}

fn syscalls(dump: &Dump, samples: &mut Samples<'_, '_>) -> fmt::Result {
    let stats = dump.stats();
    for (call, count) in [
        ("wait", stats.syscalls_wait),
        ("enter", stats.syscalls_enter),
        ("read", stats.syscalls_read),
        ("write", stats.syscalls_write),
        ("ctl", stats.syscalls_ctl),
    ] {
        samples.put(&[("call", call)], count)?;
    }
    Ok(())
}

/// The kinds of which callbacks were timed.
fn of_kinds(dump: &Dump, mut put: impl FnMut(&str, Figures) -> fmt::Result) -> fmt::Result {
    let timed = |kind: &CallbackKind| dump.figures(*kind).calls != 0;
    CallbackKind::ALL.into_iter().filter(timed).try_for_each(|kind| put(kind.as_str(), dump.figures(kind)))
}

/// The same by name. Callbacks of one kind with the same name count together, because a sample must
/// not come twice, and so do those that are gone, because a counter must not go back.
fn of_names(dump: &Dump, mut put: impl FnMut(&str, &str, Figures) -> fmt::Result) -> fmt::Result {
    let handlers = dump.handlers().map(|entry| (entry.kind, entry.name(), entry.figures));
    let timers = dump.timers().map(|entry| (CallbackKind::Timer, entry.name(), entry.figures));
    let halves = dump.bottom_halves().map(|entry| (CallbackKind::BottomHalf, entry.name(), entry.figures));
    let tasks = dump.tasks().map(|entry| (CallbackKind::Task, entry.name(), entry.figures));
    let mut sums = BTreeMap::<_, Figures>::new();
    let ended = dump.ended().map(|entry| (entry.kind, Some(entry.name()), entry.figures));
    for (kind, name, figures) in handlers.chain(timers).chain(halves).chain(tasks).chain(ended) {
        if let Some(name) = name.filter(|_| figures.calls != 0) {
            let sum = sums.entry((kind.as_str(), name)).or_default();
            sum.calls = sum.calls.wrapping_add(figures.calls);
            sum.total = sum.total.saturating_add(figures.total);
            sum.longest = sum.longest.max(figures.longest);
            sum.own = sum.own.saturating_add(figures.own);
            sum.longest_own = sum.longest_own.max(figures.longest_own);
        }
    }
    sums.into_iter().try_for_each(|((kind, name), figures)| put(kind, name, figures))
}

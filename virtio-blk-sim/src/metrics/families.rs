//! The families of the text, and their samples.

use std::fmt;

use aio::Stats;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType::{self, Counter, Gauge, Histogram};
use prometheus_client::registry::{Registry, Unit};

use super::errno;
use super::figures::{Figures, Frontends, Kind, OperationFigures};
use super::latency::bounds;

/// A disk as the text shows it.
#[derive(Debug)]
pub(super) struct DiskView {
    pub(super) name: String,
    pub(super) frontends: Frontends,
    pub(super) queues: Vec<QueueView>,
}

#[derive(Debug)]
pub(super) struct QueueView {
    pub(super) figures: Figures,
    pub(super) is_running: bool,
}

/// A loop as the text shows it.
#[derive(Debug)]
pub(super) struct LoopView {
    pub(super) name: String,
    pub(super) stats: Stats,
    pub(super) has_answered: bool,
    pub(super) is_alive: bool,
}

/// What the text shows.
#[derive(Debug)]
pub(super) struct Document {
    pub(super) disks: Vec<DiskView>,
    pub(super) loops: Vec<LoopView>,
}

impl Document {
    /// The whole text, with its `# EOF`.
    pub(super) fn text(self) -> String {
        let mut text = String::new();
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self));
        // Writing to a string does not fail.
        let _ = encode(&mut text, &registry);
        text
    }
}

impl Collector for Document {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for (name, help, unit, kind, samples) in OF_DISKS {
            let mut family = encoder.encode_descriptor(name, help, unit.as_ref(), *kind)?;
            for disk in &self.disks {
                samples(disk, &mut Samples { family: &mut family, kind: *kind, of: ("disk", &disk.name) })?;
            }
        }
        for (name, help, kind, samples) in OF_LOOPS {
            let mut family = encoder.encode_descriptor(name, help, None, *kind)?;
            for view in &self.loops {
                samples(view, &mut Samples { family: &mut family, kind: *kind, of: ("loop", &view.name) })?;
            }
        }
        Ok(())
    }
}

/// Where the samples of one disk or loop in one family go.
struct Samples<'a, 'b> {
    family: &'a mut MetricEncoder<'b>,
    kind: MetricType,
    of: (&'static str, &'a str),
}

type Labels<'a> = [(&'static str, &'a str)];

impl Samples<'_, '_> {
    /// A number, with further labels.
    fn put(&mut self, labels: &Labels<'_>, value: u64) -> fmt::Result {
        let labels = self.labels(labels);
        let mut sample = self.family.encode_family(&labels)?;
        match self.kind {
            MetricType::Counter => sample.encode_counter::<NoLabelSet, u64, f64>(&value, None),
            _ => sample.encode_gauge(&value),
        }
    }

    fn put_histogram(&mut self, labels: &Labels<'_>, figures: &OperationFigures) -> fmt::Result {
        let labels = self.labels(labels);
        let buckets: Vec<_> = bounds().into_iter().zip(figures.buckets).collect();
        let seconds = figures.total_ns as f64 / 1e9;
        // From the buckets, so that they add up to it.
        let count = figures.buckets.iter().sum();
        self.family.encode_family(&labels)?.encode_histogram::<NoLabelSet>(seconds, count, &buckets, None)
    }

    fn labels(&self, further: &Labels<'_>) -> Vec<(&'static str, String)> {
        let all = [self.of].into_iter().chain(further.iter().copied());
        all.map(|(key, value)| (key, escaped(value))).collect()
    }
}

/// A label value as the text format wants it. The encoder writes values as they are.
fn escaped(value: &str) -> String {
    value.replace('\\', r"\\").replace('"', r#"\""#).replace('\n', r"\n")
}

/// Name, help, unit, type, and what makes the samples of a disk.
type OfDisk = (
    &'static str,
    &'static str,
    Option<Unit>,
    MetricType,
    fn(&DiskView, &mut Samples<'_, '_>) -> fmt::Result,
);

const OF_DISKS: &[OfDisk] = &[
    ("virtio_blk_requests", "Requests answered.", None, Counter, |disk, samples| {
        of_operations(disk, |labels, figures| samples.put(labels, figures.requests))
    }),
    (
        "virtio_blk_transferred",
        "Bytes that were read, written, discarded or zeroed.",
        Some(Unit::Bytes),
        Counter,
        |disk, samples| of_operations(disk, |labels, figures| samples.put(labels, figures.bytes)),
    ),
    (
        "virtio_blk_request_duration",
        "From the taking of the request to its completion.",
        Some(Unit::Seconds),
        Histogram,
        |disk, samples| {
            of_operations(disk, |labels, figures| match figures.requests {
                // Two dozen lines that say nothing.
                0 => Ok(()),
                _ => samples.put_histogram(labels, figures),
            })
        },
    ),
    ("virtio_blk_errors", "Requests that the backend failed.", None, Counter, |disk, samples| {
        of_queues(disk, |index, queue| {
            queue.figures.errors.iter().try_for_each(|((kind, number), count)| {
                let errno = errno::name(*number);
                samples.put(&[("queue", index), ("operation", kind.name()), ("errno", &errno)], *count)
            })
        })
    }),
    ("virtio_blk_interrupts", "Interrupts of the guest.", None, Counter, |disk, samples| {
        of_queues(disk, |index, queue| samples.put(&[("queue", index)], queue.figures.stats.interrupts))
    }),
    ("virtio_blk_drains", "Times that the queue was looked at.", None, Counter, |disk, samples| {
        of_queues(disk, |index, queue| samples.put(&[("queue", index)], queue.figures.stats.drains))
    }),
    (
        "virtio_blk_stalls",
        "Times that the page cache of the image held up the loop, so that I/O was handed over for a while.",
        None,
        Counter,
        |disk, samples| {
            of_queues(disk, |index, queue| samples.put(&[("queue", index)], queue.figures.stats.stalls))
        },
    ),
    ("virtio_blk_ring_running", "Whether the ring is running.", None, Gauge, |disk, samples| {
        of_queues(disk, |index, queue| samples.put(&[("queue", index)], queue.is_running.into()))
    }),
    ("virtio_blk_frontend_connected", "Whether a frontend is connected.", None, Gauge, |disk, samples| {
        samples.put(&[], disk.frontends.is_connected.into())
    }),
    ("virtio_blk_frontends", "Frontends that were served.", None, Counter, |disk, samples| {
        samples.put(&[], disk.frontends.sessions)
    }),
    (
        "virtio_blk_frontend_throttled",
        "Times that frontends had to wait because there were too many messages or connections.",
        None,
        Counter,
        |disk, samples| {
            samples.put(&[("of", "messages")], disk.frontends.throttled_messages)?;
            samples.put(&[("of", "connections")], disk.frontends.throttled_connections)
        },
    ),
];

/// Name, help, type, and what makes the samples of a loop.
type OfLoop = (&'static str, &'static str, MetricType, fn(&LoopView, &mut Samples<'_, '_>) -> fmt::Result);

const OF_LOOPS: &[OfLoop] = &[
    ("virtio_blk_loop_answered", "Whether the loop answered in time.", Gauge, |view, samples| {
        samples.put(&[], view.has_answered.into())
    }),
    ("virtio_blk_loop_alive", "Whether the loop has not ended.", Gauge, |view, samples| {
        samples.put(&[], view.is_alive.into())
    }),
    ("aio_turns", "Turns of the loop.", Counter, |view, samples| samples.put(&[], view.stats.turns)),
    ("aio_wakeups", "Waits that returned an event.", Counter, |view, samples| {
        samples.put(&[], view.stats.wakeups)
    }),
    ("aio_syscalls", "System calls of the loop.", Counter, |view, samples| {
        let stats = &view.stats;
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
    }),
    ("aio_busy_polling_rounds", "Rounds of busy polling.", Counter, |view, samples| {
        samples.put(&[("found", "work")], view.stats.poll_hits)?;
        samples.put(&[("found", "nothing")], view.stats.poll_misses)
    }),
];

fn of_queues(disk: &DiskView, mut put: impl FnMut(&str, &QueueView) -> fmt::Result) -> fmt::Result {
    disk.queues.iter().enumerate().try_for_each(|(index, queue)| put(&index.to_string(), queue))
}

/// The kinds of requests that came, of each queue. Reads and writes are there from the beginning,
/// so that a rate has its first value.
fn of_operations(
    disk: &DiskView,
    mut put: impl FnMut(&Labels<'_>, &OperationFigures) -> fmt::Result,
) -> fmt::Result {
    of_queues(disk, |index, queue| {
        for kind in Kind::ALL {
            let figures = queue.figures.operations.get(&kind).copied();
            let is_common = matches!(kind, Kind::Read | Kind::Write);
            if let Some(figures) = figures.or_else(|| is_common.then(OperationFigures::default)) {
                put(&[("queue", index), ("operation", kind.name())], &figures)?;
            }
        }
        Ok(())
    })
}

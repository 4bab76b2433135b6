//! What a running queue records, on its own loop; and the look at all of them.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use aio::{LocalHandle, Stats};

use super::figures::{Figures, Kind, OperationFigures};
use super::latency::Latency;
use super::meter::{Meters, QueueMeter};
use crate::queue::QueueStats;

/// Queues that are looked at in one turn of their loop.
const PER_TURN: usize = 16;

thread_local! {
    /// The recorders of this thread, by number.
    static RUNNING: RefCell<BTreeMap<u64, Weak<Recorder>>> = const { RefCell::new(BTreeMap::new()) };
}

/// Records the requests of one run of a queue. Stays in the home thread of its loop.
pub(crate) struct Recorder {
    number: u64,
    meter: Arc<QueueMeter>,
    /// By kind; a kind that did not come yet has none.
    operations: RefCell<[Option<Box<Recorded>>; Kind::ALL.len()]>,
    errors: RefCell<BTreeMap<(Kind, i32), u64>>,
    /// The counters of the queue, while there is one.
    stats: Box<dyn Fn() -> Option<QueueStats>>,
    /// The counters at its end.
    last: Cell<Option<QueueStats>>,
    /// The time that the present batch uses, and the batch: the number of the queue's drain.
    now: Cell<Option<(u64, Instant)>>,
}

struct Recorded {
    requests: u64,
    bytes: u64,
    total_ns: u64,
    latency: Latency,
}

impl std::fmt::Debug for Recorder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recorder").field("number", &self.number).finish_non_exhaustive()
    }
}

impl Recorder {
    /// Begins a run of queue `index`; `None` if there is no meter for it. `stats` returns the
    /// counters of the queue, once it is there.
    pub(crate) fn start(
        meters: &Meters,
        index: u16,
        stats: impl Fn() -> Option<QueueStats> + 'static,
    ) -> Option<Rc<Self>> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let recorder = Rc::new(Self {
            number: NEXT.fetch_add(1, Ordering::Relaxed),
            meter: Arc::clone(meters.queue(index)?),
            operations: RefCell::default(),
            errors: RefCell::default(),
            stats: Box::new(stats),
            last: Cell::new(None),
            now: Cell::new(None),
        });
        RUNNING.with_borrow_mut(|running| running.insert(recorder.number, Rc::downgrade(&recorder)));
        Some(recorder)
    }

    /// The time at which a request was taken: that of its batch.
    pub(crate) fn taken_at(&self) -> Instant {
        let drain = self.drain();
        match self.now.get() {
            Some((of, now)) if of == drain => now,
            _ => self.keep(drain, Instant::now()),
        }
    }

    /// Reads the clock. The requests of the batch that follow were taken now: they waited for this
    /// one, which was carried out at once.
    pub(crate) fn read_clock(&self) -> Instant {
        let drain = self.now.get().map_or(0, |(drain, _)| drain);
        self.keep(drain, Instant::now())
    }

    fn keep(&self, drain: u64, now: Instant) -> Instant {
        self.now.set(Some((drain, now)));
        now
    }

    fn drain(&self) -> u64 {
        (self.stats)().map_or(0, |stats| stats.drains)
    }

    /// Records an answered request. `errno` is 0 for an error without a number.
    pub(crate) fn record(&self, kind: Kind, bytes: u64, took: Duration, errno: Option<i32>) {
        let mut operations = self.operations.borrow_mut();
        let Some(place) = operations.get_mut(kind as usize) else { return };
        let recorded = place.get_or_insert_with(|| {
            Box::new(Recorded { requests: 0, bytes: 0, total_ns: 0, latency: Latency::new() })
        });
        let ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        recorded.requests = recorded.requests.wrapping_add(1);
        recorded.total_ns = recorded.total_ns.wrapping_add(ns);
        recorded.latency.record(ns);
        match errno {
            None => recorded.bytes = recorded.bytes.wrapping_add(bytes),
            Some(errno) => {
                let mut errors = self.errors.borrow_mut();
                let count = errors.entry((kind, errno)).or_default();
                *count = count.wrapping_add(1);
            }
        }
    }

    /// The queue ends with these counters. It can be asked no more.
    pub(crate) fn end(&self, stats: QueueStats) {
        self.last.set(Some(stats));
    }

    /// What this run has recorded so far.
    fn figures(&self) -> Figures {
        let operations = self.operations.borrow();
        let operations = Kind::ALL.into_iter().zip(&*operations).filter_map(|(kind, recorded)| {
            let recorded = recorded.as_ref()?;
            let figures = OperationFigures {
                requests: recorded.requests,
                bytes: recorded.bytes,
                total_ns: recorded.total_ns,
                buckets: recorded.latency.buckets(),
            };
            Some((kind, figures))
        });
        let stats = self.last.get().or_else(|| (self.stats)()).unwrap_or_default();
        Figures { operations: operations.collect(), errors: self.errors.borrow().clone(), stats }
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        // A thread that ends may have dropped its list already.
        let _ = RUNNING.try_with(|running| running.borrow_mut().remove(&self.number));
        let figures = self.figures();
        self.meter.past().add(&figures);
    }
}

/// What a look at a loop has found.
#[derive(Debug)]
pub(super) struct Look {
    pub(super) stats: Stats,
    /// The queues that run there, and what each has counted in all of its runs.
    pub(super) queues: Vec<(u64, Figures)>,
}

/// Looks at this loop and at the queues that run in its thread, a few in each turn.
pub(super) async fn look(context: LocalHandle) -> Look {
    let numbers: Vec<u64> = RUNNING.with_borrow(|running| running.keys().copied().collect());
    let mut queues = Vec::with_capacity(numbers.len());
    for (index, number) in numbers.iter().enumerate() {
        if index > 0 && index.is_multiple_of(PER_TURN) {
            // Not `yield_now`: tasks are polled several times in one turn.
            context.sleep(Duration::from_nanos(1)).await;
        }
        let recorder = RUNNING.with_borrow(|running| running.get(number).and_then(Weak::upgrade));
        if let Some(recorder) = recorder {
            // In this thread, so the run cannot end between the two.
            let mut figures = recorder.meter.past().clone();
            figures.add(&recorder.figures());
            queues.push((recorder.meter.id, figures));
        }
    }
    Look { stats: context.stats(), queues }
}

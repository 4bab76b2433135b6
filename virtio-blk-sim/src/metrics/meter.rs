//! What the queues of a disk have counted in the past, for as long as the disk exists.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::figures::Figures;

/// The meters of a disk's queues. A clone is the same set. A running queue records in its loop;
/// what it recorded comes here when it stops.
#[derive(Debug, Clone)]
pub struct Meters(Arc<[Arc<QueueMeter>]>);

/// What a queue recorded in all of its runs that are over.
#[derive(Debug)]
pub(super) struct QueueMeter {
    /// Tells it from all others of the process.
    pub(super) id: u64,
    past: Mutex<Figures>,
}

impl Meters {
    /// Meters for so many queues.
    pub fn new(queues: u16) -> Self {
        Self((0..queues).map(|_| Arc::new(QueueMeter::new())).collect())
    }

    pub(super) fn queue(&self, index: u16) -> Option<&Arc<QueueMeter>> {
        self.0.get(usize::from(index))
    }

    pub(super) fn queues(&self) -> impl ExactSizeIterator<Item = &QueueMeter> {
        self.0.iter().map(|meter| &**meter)
    }
}

impl QueueMeter {
    fn new() -> Self {
        static NEXT_ID: AtomicU64 = AtomicU64::new(0);
        Self { id: NEXT_ID.fetch_add(1, Ordering::Relaxed), past: Mutex::default() }
    }

    /// Locked for a short time only, by the loop of the queue and by the exporter.
    pub(super) fn past(&self) -> MutexGuard<'_, Figures> {
        self.past.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

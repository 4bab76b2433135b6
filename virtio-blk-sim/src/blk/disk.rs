//! A disk: the block device and its backend, as a kind of device for any transport.

use std::error::Error;
use std::io::{self, ErrorKind};
use std::rc::Rc;
use std::sync::Arc;

use aio::AioContext;

use super::backend::{Backend, Engine, FileImage};
use super::device::{
    BlockDevice, Features, FinishedRequest, Operation, RequestSlot, SECTOR_SIZE, SectorRanges, Started,
    Status,
};
use super::lock_wait::LockWait;
use crate::log;
use crate::memory::GuestMemoryMmap;
use crate::queue::{self, Answer, Device, Meter, Queue, QueueRef, Worker};
use crate::virtqueue::{Chain, QueueError};

/// Stands in front of log lines, unless the disk has another name.
const NAME: &str = "vhost-user-blk";

/// A block device with what its requests are carried out on.
#[derive(Debug, Clone)]
pub struct Disk {
    /// What the guest sees.
    pub device: Arc<BlockDevice>,
    /// What requests are carried out on.
    pub backend: Backend,
    /// Stands in front of log lines.
    pub name: Arc<str>,
}

/// A running queue of a disk.
pub type BlkQueue = Queue<BlkWorker>;

/// A running queue of a disk, with its doorbell.
pub type Attached = queue::Attached<BlkWorker>;

/// A disk's side of one queue.
#[derive(Debug)]
pub struct BlkWorker {
    device: Arc<BlockDevice>,
    engine: Engine,
    name: Arc<str>,
    /// For an image that is locked while it is used.
    lock: Option<LockWait>,
}

impl Disk {
    /// A disk with what its requests are carried out on.
    pub fn new(device: BlockDevice, backend: Backend) -> Self {
        Self::shared(Arc::new(device), backend)
    }

    /// The same, for a device that others look at, too.
    pub fn shared(device: Arc<BlockDevice>, backend: Backend) -> Self {
        Self { device, backend, name: NAME.into() }
    }

    /// Sets the name that stands in front of log lines. By default it is that of the program
    /// vhost-user-blk.
    #[must_use]
    pub fn named(self, name: &str) -> Self {
        Self { name: name.into(), ..self }
    }

    /// Makes the worker of a queue on the loop of `context`. The same as [`Device::start`], for
    /// whoever has no transport between.
    ///
    /// # Errors
    /// As for [`Backend::attach`].
    pub fn worker(&self, context: &AioContext, queue: QueueRef<BlkWorker>) -> io::Result<BlkWorker> {
        let name = Arc::clone(&self.name);
        let waiting = queue.clone();
        let done = move |_: &AioContext, finished: &mut Vec<FinishedRequest>| {
            queue.answer(finished.drain(..).map(|finished| answer(finished, &name)));
        };
        let engine = self.backend.clone().attach(context, Rc::new(done))?;
        let wait = |image| LockWait::begin(context, image, log_wait, move || waiting.wake());
        let lock = self.image_to_lock().cloned().map(wait);
        Ok(BlkWorker { device: Arc::clone(&self.device), engine, name: Arc::clone(&self.name), lock })
    }

    /// The image, if it is locked while it is used.
    fn image_to_lock(&self) -> Option<&Arc<FileImage>> {
        self.backend.image().filter(|image| image.is_locked_while_used())
    }
}

fn log_wait(line: std::fmt::Arguments<'_>) {
    log::limited(format_args!("{NAME}: {line}"));
}

impl Device for Disk {
    type Worker = BlkWorker;

    fn name(&self) -> &str {
        &self.name
    }

    fn queues(&self) -> u16 {
        self.device.config().num_queues
    }

    fn offered(&self) -> u64 {
        self.device.offered().bits()
    }

    fn check_features(&self, driver: u64) -> Result<(), Box<dyn Error + Send + Sync>> {
        Ok(self.device.check_features(Features::from_bits(driver))?)
    }

    fn negotiate(&self, driver: u64) {
        // Checked by the caller; a wrong choice changes nothing.
        let _ = self.device.negotiate(Features::from_bits(driver));
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        self.device.read_config(offset, data);
    }

    fn write_config(&self, offset: u64, data: &[u8]) {
        self.device.write_config(offset, data);
    }

    fn reset(&self) {
        self.device.reset();
    }

    fn idle(&self) {
        if let Some(image) = self.image_to_lock() {
            image.unlock();
        }
    }

    fn start(
        self: Arc<Self>,
        _: u16,
        context: &AioContext,
        queue: QueueRef<BlkWorker>,
    ) -> io::Result<BlkWorker> {
        self.worker(context, queue)
    }
}

impl Worker for BlkWorker {
    type Memory = GuestMemoryMmap;
    type Slot = RequestSlot;

    fn new_slot(&self, chain: Chain) -> RequestSlot {
        RequestSlot::new(chain)
    }

    #[inline]
    fn chain(slot: &mut RequestSlot) -> &mut Chain {
        slot.chain_mut()
    }

    #[inline]
    fn begin(&self, slot: RequestSlot, meter: Meter<'_>) -> Option<Answer<RequestSlot>> {
        match slot.begin(&self.device) {
            Started::Finished(finished) => {
                meter.charge(|| 0);
                Some(answer(finished, &self.name))
            }
            Started::Pending(request) => {
                meter.charge(|| bytes(request.operation()));
                self.engine.submit(request).map(|finished| answer(finished, &self.name))
            }
        }
    }

    fn refuse(&self, slot: RequestSlot, error: QueueError) -> Answer<RequestSlot> {
        answer(slot.refuse(error), &self.name)
    }

    fn waits(&self) -> bool {
        self.lock.as_ref().is_some_and(|lock| !lock.is_over())
    }

    #[inline]
    fn batch(&self) -> u16 {
        self.engine.batch()
    }

    #[inline]
    fn commit(&self) {
        self.engine.commit();
    }

    fn submit_calls(&self) -> u64 {
        self.engine.submit_calls()
    }
}

#[inline]
fn answer(finished: FinishedRequest, name: &Arc<str>) -> Answer<RequestSlot> {
    if finished.failure().is_some() {
        log_failure(&finished, name);
    }
    let written = finished.written();
    Answer { slot: finished.into_slot(), written }
}

/// Writes a line about an error of the backend, which the guest sees only as an I/O error.
#[cold]
fn log_failure(finished: &FinishedRequest, name: &str) {
    let Some((operation, error)) = finished.failure() else { return };
    // A file system that cannot punch holes is no fault.
    let optional = matches!(operation, Operation::Discard(_) | Operation::WriteZeroes { .. });
    if optional && finished.status() != Some(Status::IoErr) {
        return;
    }
    let error: &dyn std::fmt::Display = match error.kind() {
        ErrorKind::UnexpectedEof => &"the image is shorter than the disk",
        _ => error,
    };
    match operation {
        // A separate line has a separate limit: this is worse than a failed transfer.
        Operation::Flush => log::limited(format_args!("{name}: a flush failed: {error}")),
        operation => log::limited(format_args!("{name}: {} failed: {error}", Described(operation))),
    }
}

/// Names an operation and its first sector.
struct Described<'a>(&'a Operation);

impl std::fmt::Display for Described<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let first = |ranges: &SectorRanges| ranges.iter().next().map_or(0, |range| range.sector);
        match self.0 {
            Operation::In { sector, len } => write!(f, "a read of {len} bytes at sector {sector}"),
            Operation::Out { sector, len, .. } => write!(f, "a write of {len} bytes at sector {sector}"),
            Operation::Flush => f.write_str("a flush"),
            Operation::Discard(ranges) => write!(f, "a discard at sector {}", first(ranges)),
            Operation::WriteZeroes { ranges, .. } => {
                write!(f, "a write of zeros at sector {}", first(ranges))
            }
        }
    }
}

/// What a limit on bytes counts: data that moves.
fn bytes(operation: &Operation) -> u64 {
    match operation {
        Operation::In { len, .. } | Operation::Out { len, .. } => *len,
        Operation::WriteZeroes { ranges, .. } => {
            ranges.iter().map(|range| u64::from(range.sectors) * SECTOR_SIZE).sum()
        }
        Operation::Flush | Operation::Discard(_) => 0,
    }
}

//! A disk: the block device and its backend, as a kind of device for any transport.

use std::error::Error;
use std::io::{self, ErrorKind};
use std::rc::Rc;
use std::sync::Arc;

use aio::AioContext;

use super::backend::{Backend, Engine};
use super::device::{
    BlockDevice, Features, FinishedRequest, Operation, RequestSlot, SECTOR_SIZE, Started, Status,
};
use crate::log::Line;
use crate::memory::GuestMemoryMmap;
use crate::queue::{self, Answer, Device, Meter, Queue, QueueRef, Worker};
use crate::virtqueue::{Chain, QueueError};

/// Stands in front of log lines.
const NAME: &str = "vhost-user-blk";

/// A block device with what its requests are carried out on.
#[derive(Debug, Clone)]
pub struct Disk {
    /// What the guest sees.
    pub device: Arc<BlockDevice>,
    /// What requests are carried out on.
    pub backend: Backend,
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
}

impl Disk {
    /// A disk with what its requests are carried out on.
    pub fn new(device: BlockDevice, backend: Backend) -> Self {
        Self { device: Arc::new(device), backend }
    }

    /// Makes the worker of a queue on the loop of `context`. The same as [`Device::start`], for
    /// whoever has no transport between.
    ///
    /// # Errors
    /// As for [`Backend::attach`].
    pub fn worker(&self, context: &AioContext, queue: QueueRef<BlkWorker>) -> io::Result<BlkWorker> {
        let done = move |_: &AioContext, finished: &mut Vec<FinishedRequest>| {
            queue.answer(finished.drain(..).map(answer));
        };
        let engine = self.backend.clone().attach(context, Rc::new(done))?;
        Ok(BlkWorker { device: Arc::clone(&self.device), engine })
    }
}

impl Device for Disk {
    type Worker = BlkWorker;

    fn name(&self) -> &str {
        NAME
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
                Some(answer(finished))
            }
            Started::Pending(request) => {
                meter.charge(|| bytes(request.operation()));
                self.engine.submit(request).map(answer)
            }
        }
    }

    fn refuse(&self, slot: RequestSlot, error: QueueError) -> Answer<RequestSlot> {
        answer(slot.refuse(error))
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
fn answer(finished: FinishedRequest) -> Answer<RequestSlot> {
    if finished.failure().is_some() {
        log_failure(&finished);
    }
    let written = finished.written();
    Answer { slot: finished.into_slot(), written }
}

/// Writes a line about an error of the backend, which the guest sees only as an I/O error.
#[cold]
fn log_failure(finished: &FinishedRequest) {
    let Some((operation, error)) = finished.failure() else { return };
    // A file system that cannot punch holes is no fault.
    let optional = matches!(operation, Operation::Discard(_) | Operation::WriteZeroes { .. });
    if optional && finished.status() != Some(Status::IoErr) {
        return;
    }
    let why: &dyn std::fmt::Display = match error.kind() {
        ErrorKind::UnexpectedEof => &"the image is shorter than the disk",
        _ => error,
    };
    match operation {
        // A separate line has a separate limit: this is worse than a failed transfer.
        Operation::Flush => {
            Line::error(format_args!("a flush failed: {why}")).device(NAME).caused_by(error).limited();
        }
        operation => {
            let (what, sector) = (Described(operation), Described(operation).sector());
            let line = format_args!("{what} failed: {why}");
            Line::error(line).device(NAME).sector(sector).caused_by(error).limited();
        }
    }
}

/// Names an operation and its first sector.
struct Described<'a>(&'a Operation);

impl Described<'_> {
    /// The first sector; 0 for a flush.
    fn sector(&self) -> u64 {
        match self.0 {
            Operation::In { sector, .. } | Operation::Out { sector, .. } => *sector,
            Operation::Discard(ranges) | Operation::WriteZeroes { ranges, .. } => {
                ranges.first().map_or(0, |range| range.sector)
            }
            Operation::Flush => 0,
        }
    }
}

impl std::fmt::Display for Described<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Operation::In { len, .. } => write!(f, "a read of {len} bytes")?,
            Operation::Out { len, .. } => write!(f, "a write of {len} bytes")?,
            Operation::Flush => return f.write_str("a flush"),
            Operation::Discard(_) => f.write_str("a discard")?,
            Operation::WriteZeroes { .. } => f.write_str("a write of zeros")?,
        }
        write!(f, " at sector {}", self.sector())
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

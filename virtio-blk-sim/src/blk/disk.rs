//! A disk: the block device and its backend, as a kind of device for any transport.

use std::error::Error;
use std::io::{self, ErrorKind};
use std::rc::Rc;
use std::sync::Arc;

use aio::AioContext;

use super::backend::{Backend, Done, Engine, FileImage, Stall};
use super::device::{BlockDevice, Features, FinishedRequest, Operation, RequestSlot, Started, Status};
use super::lock_wait::LockWait;
#[cfg(feature = "metrics")]
use super::metered::{begin_metered, record_batch, record_now, record_refusal};
use crate::log::Line;
use crate::memory::GuestMemoryMmap;
#[cfg(feature = "metrics")]
use crate::metrics::{Meters, Recorder};
#[cfg(feature = "metrics")]
use crate::queue::QueueStats;
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
    /// Where its queues count their requests.
    #[cfg(feature = "metrics")]
    meters: Option<Meters>,
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
    #[cfg(feature = "metrics")]
    recorder: Option<Rc<Recorder>>,
}

impl Disk {
    /// A disk with what its requests are carried out on.
    pub fn new(device: BlockDevice, backend: Backend) -> Self {
        Self::shared(Arc::new(device), backend)
    }

    /// The same, for a device that others look at, too.
    pub fn shared(device: Arc<BlockDevice>, backend: Backend) -> Self {
        Self {
            device,
            backend,
            name: NAME.into(),
            #[cfg(feature = "metrics")]
            meters: None,
        }
    }

    /// Sets the name that stands in front of log lines. By default it is that of the program
    /// vhost-user-blk.
    #[must_use]
    pub fn named(self, name: &str) -> Self {
        Self { name: name.into(), ..self }
    }

    /// Has the queues count their requests. The meters should have as many queues as the disk;
    /// other queues are not counted. What that costs is said in the module
    /// [`metrics`](crate::metrics).
    #[cfg(feature = "metrics")]
    #[must_use]
    pub fn metered(self, meters: &Meters) -> Self {
        Self { meters: Some(meters.clone()), ..self }
    }

    /// Makes the worker of a queue on the loop of `context`. The same as [`Device::start`], for
    /// whoever has no transport between. It counts its requests as queue 0.
    ///
    /// # Errors
    /// As for [`Backend::attach`].
    pub fn worker(&self, context: &AioContext, queue: QueueRef<BlkWorker>) -> io::Result<BlkWorker> {
        self.worker_of(0, context, queue)
    }

    fn worker_of(
        &self,
        _index: u16,
        context: &AioContext,
        queue: QueueRef<BlkWorker>,
    ) -> io::Result<BlkWorker> {
        #[cfg(feature = "metrics")]
        let recorder = self.meters.as_ref().and_then(|meters| {
            let queue = queue.clone();
            Recorder::start(meters, _index, move || queue.stats())
        });
        let name = Arc::clone(&self.name);
        let waiting = queue.clone();
        let answer_all = move |_: &AioContext, finished: &mut Vec<FinishedRequest>| {
            queue.answer(finished.drain(..).map(|finished| answer(finished, &name)));
        };
        #[cfg(feature = "metrics")]
        let done: Rc<Done> = match &recorder {
            Some(recorder) => {
                let recorder = Rc::downgrade(recorder);
                Rc::new(move |context, finished| {
                    if let Some(recorder) = recorder.upgrade() {
                        record_batch(&recorder, finished);
                    }
                    answer_all(context, finished);
                })
            }
            None => Rc::new(answer_all),
        };
        #[cfg(not(feature = "metrics"))]
        let done: Rc<Done> = Rc::new(answer_all);
        let engine = self.backend.clone().attach(context, done)?;
        let wait = |image| LockWait::begin(context, image, log_wait, move || waiting.wake());
        let lock = self.image_to_lock().cloned().map(wait);
        Ok(BlkWorker {
            device: Arc::clone(&self.device),
            engine,
            name: Arc::clone(&self.name),
            lock,
            #[cfg(feature = "metrics")]
            recorder,
        })
    }

    /// The image, if it is locked while it is used.
    fn image_to_lock(&self) -> Option<&Arc<FileImage>> {
        self.backend.image().filter(|image| image.is_locked_while_used())
    }
}

fn log_wait(line: std::fmt::Arguments<'_>) {
    Line::info(line).device(NAME).limited();
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
        index: u16,
        context: &AioContext,
        queue: QueueRef<BlkWorker>,
    ) -> io::Result<BlkWorker> {
        self.worker_of(index, context, queue)
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
        #[cfg(feature = "metrics")]
        if let Some(recorder) = &self.recorder {
            let finished = begin_metered(recorder, &self.device, &self.engine, slot, meter);
            return finished.map(|finished| answer(finished, &self.name));
        }
        match slot.begin(&self.device) {
            Started::Finished(finished) => {
                meter.charge(|| 0);
                Some(answer(finished, &self.name))
            }
            Started::Pending(request) => {
                meter.charge(|| request.operation().moved_bytes());
                self.engine.submit(request).map(|finished| answer(finished, &self.name))
            }
        }
    }

    fn refuse(&self, slot: RequestSlot, error: QueueError) -> Answer<RequestSlot> {
        #[cfg(feature = "metrics")]
        if let Some(recorder) = &self.recorder {
            record_refusal(recorder);
        }
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
    fn collects(&self) -> bool {
        self.engine.collects()
    }

    fn commit(&self, mut answered: impl FnMut(Answer<RequestSlot>)) {
        let stall = self.engine.commit(|finished| {
            #[cfg(feature = "metrics")]
            if let Some(recorder) = &self.recorder {
                record_now(recorder, &finished);
            }
            answered(answer(finished, &self.name));
        });
        if let Some(stall) = stall {
            log_stall(stall, &self.name);
        }
    }

    fn submit_calls(&self) -> u64 {
        self.engine.submit_calls()
    }

    fn stalls(&self) -> u64 {
        self.engine.stalls()
    }

    #[cfg(feature = "metrics")]
    fn ended(&self, stats: QueueStats) {
        if let Some(recorder) = &self.recorder {
            recorder.end(stats);
        }
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

#[cold]
fn log_stall(stall: Stall, name: &str) {
    let (excess, backoff) = (stall.excess_ns as f64 / 1e6, stall.backoff_ns as f64 / 1e9);
    let line = format_args!(
        "the page cache of the image held up the loop for {excess:.1} ms: the I/O of the next {backoff:.1} s \
         is handed over"
    );
    Line::warn(line).device(name).limited();
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
    let why: &dyn std::fmt::Display = match error.kind() {
        ErrorKind::UnexpectedEof => &"the image is shorter than the disk",
        _ => error,
    };
    match operation {
        // A separate line has a separate limit: this is worse than a failed transfer.
        Operation::Flush => {
            Line::error(format_args!("a flush failed: {why}")).device(name).caused_by(error).limited();
        }
        operation => {
            let (what, sector) = (Described(operation), Described(operation).sector());
            let line = format_args!("{what} failed: {why}");
            Line::error(line).device(name).sector(sector).caused_by(error).limited();
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

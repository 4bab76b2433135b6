//! What the server asks of a device: its features, its configuration space, and to run its rings.

use std::error::Error;
use std::io;
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::sync::Arc;

use aio::AioContext;

use super::error_line::ErrorLine;
use super::features::{F_PROTOCOL_FEATURES, ProtocolFeatures};
use super::inflight::{InflightQueue, InflightRegion};
use super::memory::MemoryTable;
use crate::log::Line;
use crate::memory::GuestMemoryMmap;
use crate::queue::{
    Attached, Device, InFlight, Interrupt, Kick, Queue, QueueParts, QueueStats, RateLimit, Stopped, Worker,
};
use crate::virtqueue::{DeviceQueue, DirtyPages, QueueConfig, QueueError};

/// A device as a [`Server`](super::Server) knows it: it runs its rings itself.
///
/// Each [`queue::Device`](Device) is one: this module takes the chains off its rings and passes
/// them to its workers. Implement this trait directly for a device that has its own code for rings,
/// as `hosted` does for devices of the crate vhost-user-backend.
///
/// All methods but [`start_ring`](Self::start_ring) are called on the home thread of the server,
/// and none of them may block.
pub trait RingDevice: Send + Sync + 'static {
    /// Its name, for log lines.
    fn name(&self) -> &str;

    /// How many rings it has, 1 to 256. Does not change.
    fn queues(&self) -> u16;

    /// The largest ring that it serves, in entries: at most 32768.
    fn max_queue_size(&self) -> u16 {
        1 << 15
    }

    /// The virtio features that a driver may accept. The server adds [`F_PROTOCOL_FEATURES`].
    fn offered(&self) -> u64;

    /// Those of the server's protocol features that the device can serve. By default all of them.
    /// With LOG_SHMFD the server also offers [`F_LOG_ALL`](super::F_LOG_ALL), and the device's
    /// rings must record what they write: [`RingOrder::queue`] when they start, and
    /// [`RunningRing::set_dirty_log`].
    fn offered_protocol(&self) -> ProtocolFeatures {
        ProtocolFeatures::from_bits(u64::MAX)
    }

    /// Checks the driver's choice of features, without [`F_PROTOCOL_FEATURES`].
    ///
    /// # Errors
    /// The reason why the choice is refused, for the log and the frontend.
    fn check_features(&self, driver: u64) -> Result<(), Box<dyn Error + Send + Sync>>;

    /// Takes the choice that was checked. [`F_PROTOCOL_FEATURES`] is set if the frontend set it. No
    /// ring runs.
    fn negotiate(&self, driver: u64);

    /// Reads the configuration space. Bytes beyond its end are zero.
    fn read_config(&self, offset: u64, data: &mut [u8]);

    /// Writes the configuration space.
    ///
    /// # Errors
    /// The reason why the write is refused.
    fn write_config(&self, offset: u64, data: &[u8]) -> io::Result<()>;

    /// A frontend has connected.
    fn begin_session(&self) {}

    /// The frontend has stopped the last ring that ran. (Not called for rings that are stopped and
    /// started again by one request.)
    fn idle(&self) {}

    /// The frontend is gone, and all rings are stopped. Called once after each
    /// [`begin_session`](Self::begin_session), also if that or another method has panicked, and if
    /// the server's loop has ended: then rings on other loops are being dropped.
    fn end_session(&self) {}

    /// Device reset, at the request of the frontend. No ring runs.
    fn reset(&self);

    /// Takes the guest's memory whenever it changes. No ring runs.
    ///
    /// # Errors
    /// The reason why this memory cannot be used. The old one stays in use.
    fn set_memory(&self, _memory: &MemoryTable) -> io::Result<()> {
        Ok(())
    }

    /// Takes the socket for requests of the backend, or returns it: then the server uses it to
    /// notify the frontend of changes of the configuration space. It can be any descriptor that the
    /// frontend sent.
    fn take_backend_channel(&self, socket: OwnedFd, _negotiated: ProtocolFeatures) -> Option<OwnedFd> {
        Some(socket)
    }

    /// Starts ring `index`, on the home thread of the loop that it will run on. What was made
    /// available before counts, also without a kick.
    ///
    /// # Errors
    /// The reason why it cannot start.
    fn start_ring(
        self: Arc<Self>,
        index: u16,
        order: RingOrder,
        context: &AioContext,
    ) -> io::Result<Box<dyn RunningRing>>;

    /// Writes a line to the log, like [`Device::log`].
    #[track_caller]
    fn log(&self, line: std::fmt::Arguments<'_>) {
        self.log_line(Line::warn(line));
    }

    /// Writes a line to the log, like [`Device::log_line`].
    #[track_caller]
    fn log_line(&self, line: Line<'_>) {
        line.device(self.name()).limited();
    }
}

/// What a ring needs to run, on any loop.
#[derive(Debug)]
pub struct RingOrder {
    /// The ring at its current position. Its addresses were checked. It records what it writes, if
    /// the frontend wants that.
    pub queue: DeviceQueue,
    /// The place of the ring in guest memory.
    pub config: QueueConfig,
    /// The kick eventfd, or [`Kick::Polled`] if the driver does not kick.
    pub kick: Kick,
    /// The call eventfd.
    pub interrupt: Interrupt,
    /// The rate limit of the device.
    pub limit: Option<Arc<RateLimit>>,
    /// The record of requests in flight, and the heads that a previous backend left there.
    pub in_flight: Option<(InflightQueue, Vec<u16>)>,
    /// What connects the ring to its session.
    pub link: RingLink,
}

/// The connection of a running ring to its session: whether its memory is intact, and where to
/// report that it does not work.
#[derive(Debug)]
pub struct RingLink {
    /// The guest memory that the ring uses.
    pub(super) memory: MemoryTable,
    /// The shared memory that holds the record of requests in flight. It belongs to the frontend as
    /// well.
    pub(super) record: Option<InflightRegion>,
    /// The frontend's socket.
    pub(super) socket: Arc<UnixStream>,
    /// The line to raise when the ring does not work.
    pub(super) error: ErrorLine,
}

impl RingLink {
    /// Returns true if the frontend has truncated memory that the ring uses, and a page of it was
    /// accessed since. Ask it after each batch: it costs a load while no page was ever missing.
    #[inline]
    pub fn is_memory_lost(&self) -> bool {
        self.memory.is_broken() || self.record.as_ref().is_some_and(InflightRegion::is_broken)
    }

    /// Signals the ring's error eventfd: the ring does not work any more.
    pub fn fail(&self) {
        self.error.raise();
    }

    /// Ends the session, and signals the ring's error eventfd. The server notices it as the end of
    /// the frontend's stream, on whichever thread it runs.
    pub fn hang_up(&self) {
        let _ = self.socket.shutdown(Shutdown::Both);
        self.error.raise();
    }
}

/// A ring that runs on a loop. It stays on the home thread of that loop. Dropping it stops it
/// without waiting for what is in flight.
pub trait RunningRing {
    /// Sets another call eventfd, and signals it: nobody may have seen the signals on the old one.
    fn set_interrupt(&self, interrupt: Interrupt);

    /// Records the guest pages that the ring writes from now on, or with `None` does not record
    /// them any more. When this returns, no page is recorded in the former log.
    fn set_dirty_log(&self, pages: Option<DirtyPages>);

    /// The counters.
    fn stats(&self) -> QueueStats;

    /// Takes nothing new from this call on. The future is done when what is in flight has been
    /// answered. It is polled on the same loop; if it is dropped before, so is the ring.
    fn stop(self: Box<Self>, context: &AioContext) -> Stopping;
}

/// The end of a [`RunningRing`]: waits for its requests in flight.
pub type Stopping = Pin<Box<dyn Future<Output = Stopped>>>;

impl std::fmt::Debug for dyn RunningRing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Calls no code of the device: something may be borrowed.
        f.debug_struct("RunningRing").finish_non_exhaustive()
    }
}

impl<D: Device<Worker: Worker<Memory = GuestMemoryMmap>>> RingDevice for D {
    fn name(&self) -> &str {
        Device::name(self)
    }

    fn queues(&self) -> u16 {
        Device::queues(self)
    }

    fn offered(&self) -> u64 {
        Device::offered(self)
    }

    fn check_features(&self, driver: u64) -> Result<(), Box<dyn Error + Send + Sync>> {
        Device::check_features(self, driver)
    }

    fn negotiate(&self, driver: u64) {
        Device::negotiate(self, driver & !F_PROTOCOL_FEATURES);
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        Device::read_config(self, offset, data);
    }

    fn write_config(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        Device::write_config(self, offset, data);
        Ok(())
    }

    fn begin_session(&self) {
        Device::reset(self);
    }

    fn idle(&self) {
        Device::idle(self);
    }

    fn end_session(&self) {
        Device::idle(self);
    }

    fn reset(&self) {
        Device::reset(self);
    }

    fn start_ring(
        self: Arc<Self>,
        index: u16,
        order: RingOrder,
        context: &AioContext,
    ) -> io::Result<Box<dyn RunningRing>> {
        let (device, link) = (Arc::clone(&self), order.link);
        // Asked for each batch, so it has what it needs at hand.
        let (memory, record) = (link.memory.clone(), link.record.clone());
        let on_broken = move |rule: QueueError| {
            let line = format_args!("stopping queue {index}: {rule}");
            Device::log_line(&*device, Line::warn(line).queue(index));
            match rule {
                QueueError::MemoryLost => link.hang_up(),
                _ => link.fail(),
            }
        };
        let in_flight = order.in_flight.map(|(log, resubmit)| InFlight { log: Box::new(log), resubmit });
        let parts = QueueParts {
            memory_lost: Some(Box::new(move || {
                memory.is_broken() || record.as_ref().is_some_and(InflightRegion::is_broken)
            })),
            queue: order.queue,
            kick: order.kick,
            interrupt: order.interrupt,
            on_broken: Box::new(on_broken),
            limit: order.limit,
            in_flight,
        };
        Ok(Box::new(Queue::attach(context, parts, |queue| self.start(index, context, queue))?))
    }

    #[track_caller]
    fn log(&self, line: std::fmt::Arguments<'_>) {
        Device::log(self, line);
    }

    #[track_caller]
    fn log_line(&self, line: Line<'_>) {
        Device::log_line(self, line);
    }
}

impl<W: Worker> RunningRing for Attached<W> {
    fn set_interrupt(&self, interrupt: Interrupt) {
        Queue::set_interrupt(self, interrupt);
    }

    fn set_dirty_log(&self, pages: Option<DirtyPages>) {
        Queue::set_dirty_log(self, pages);
    }

    fn stats(&self) -> QueueStats {
        Queue::stats(self)
    }

    fn stop(self: Box<Self>, _: &AioContext) -> Stopping {
        Box::pin(self.stopped())
    }
}

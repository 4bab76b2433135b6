//! A disk of a vhost-user server, in the hands of a [`BlkDriver`] of this process: what QEMU does between the server and
//! its guest's driver, for one queue.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use aio::{EventNotifier, Reset};
use vm_memory::GuestMemoryBackend;

use super::driver::{BlkDriver, DriverError};
use crate::blk::device::Features;
use crate::guest::sim::GuestPorts;
use crate::memory::{GuestAddress, GuestMemoryMmap, GuestRam};
use crate::queue::Irqfd;
use crate::vhost_user::{
    F_PROTOCOL_FEATURES, Frontend, FrontendError, MemoryRegion, ProtocolFeatures, VringAddr,
};
use crate::virtqueue::QueueConfig;

mod watch;

use watch::Watch;

/// The queue that is driven; a session has one.
const QUEUE: u8 = 0;
/// The beginning of `struct virtio_blk_config`, up to and with `blk_size` (virtio 1.2, section 5.2.4).
const CONFIG_BYTES: u32 = 24;
const BLK_SIZE_OFFSET: usize = 20;

/// What a driver wants of its queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueShape {
    /// Entries: a power of two. [`BlkDriver::queue_size_for`] says how many are needed; it may be more.
    pub size: u16,
    /// Requests in flight.
    pub slots: u16,
    /// Bytes of a transfer.
    pub block_bytes: u32,
    /// Which features to negotiate, as far as the server offers them. VERSION_1, RO and BLK_SIZE always are.
    pub features: Features,
}

/// Why there is no disk, or none any more.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VhostUserError {
    /// The server did not do as it was asked.
    #[error(transparent)]
    Frontend(#[from] FrontendError),
    /// The server cannot do what a driver needs.
    #[error("the server does not offer {0}, without which its disk cannot be used")]
    Missing(&'static str),
    /// The configuration space makes no sense.
    #[error("the server's configuration space has {bytes} bytes where {CONFIG_BYTES} were asked for")]
    ShortConfig {
        /// How many there were.
        bytes: usize,
    },
    /// The rings could not be laid out.
    #[error(transparent)]
    Driver(#[from] DriverError),
    /// Guest memory, or an eventfd, could not be had.
    #[error("guest memory or an eventfd could not be had: {0}")]
    Io(#[from] io::Error),
}

/// A session with a vhost-user-blk server: its first queue runs until this is dropped or [stopped](Self::stop).
///
/// When the server goes away or reports a broken ring, the driver's next [`BlkDriver::wait`] (one that sleeps, too) fails
/// with [`DriverError::NeedsReset`].
#[derive(Debug)]
pub struct VhostUserDisk {
    frontend: Frontend,
    _watch: Watch,
    _ram: GuestRam,
    features: Features,
    capacity_sectors: u64,
    block_size: u32,
}

impl VhostUserDisk {
    /// Connects to the server at `path` and starts a queue. `timeout` is for each exchange. Blocks.
    ///
    /// # Errors
    /// [`VhostUserError`] says what went wrong.
    pub fn connect(
        path: impl AsRef<Path>,
        timeout: Duration,
        shape: QueueShape,
    ) -> Result<(Self, BlkDriver), VhostUserError> {
        Self::start(Frontend::connect(path, timeout)?, shape)
    }

    /// Negotiates, shares a new guest's memory and starts a queue on a session that has just begun. Blocks.
    ///
    /// # Errors
    /// [`VhostUserError`] says what went wrong.
    pub fn start(mut frontend: Frontend, shape: QueueShape) -> Result<(Self, BlkDriver), VhostUserError> {
        let features = negotiate(&mut frontend, shape.features)?;
        let config = frontend.get_config(0, CONFIG_BYTES)?;
        let bytes = config.len();
        let short = || VhostUserError::ShortConfig { bytes };
        let capacity = config.first_chunk::<8>().ok_or_else(short)?;
        let block_size =
            config.get(BLK_SIZE_OFFSET..).and_then(|field| field.first_chunk::<4>()).ok_or_else(short)?;

        let queue = QueueConfig {
            event_idx: features.contains(Features::EVENT_IDX),
            indirect: features.contains(Features::INDIRECT_DESC),
            ..QueueConfig::at(GuestAddress(0), shape.size)
        };
        let bytes = BlkDriver::ram_bytes(shape.size, shape.slots, shape.block_bytes);
        let too_much = |_| io::Error::from(io::ErrorKind::OutOfMemory);
        let ram = GuestRam::new(usize::try_from(bytes).map_err(too_much)?)?;
        let ports = GuestPorts {
            memory: Arc::clone(ram.memory()),
            queue,
            features,
            capacity_sectors: u64::from_le_bytes(*capacity),
            kick: EventNotifier::new(Reset::Classic)?.into(),
            irq: Irqfd::new()?,
            needs_reset: Arc::new(AtomicBool::new(false)),
        };
        let driver = BlkDriver::new(ports.clone(), shape.slots, shape.block_bytes)?;
        let broken = EventNotifier::new(Reset::Classic)?;
        share(&mut frontend, &ram, bytes)?;
        start_queue(&mut frontend, &ports, &broken)?;
        let watch = Watch::start(frontend.as_fd(), broken, ports.irq, ports.needs_reset)?;
        let block_size =
            if features.contains(Features::BLK_SIZE) { u32::from_le_bytes(*block_size) } else { 512 };
        let disk = Self {
            frontend,
            _watch: watch,
            _ram: ram,
            features,
            capacity_sectors: ports.capacity_sectors,
            block_size,
        };
        Ok((disk, driver))
    }

    /// The features that are in force.
    pub fn features(&self) -> Features {
        self.features
    }

    /// Size of the disk in sectors of 512 bytes.
    pub fn capacity_sectors(&self) -> u64 {
        self.capacity_sectors
    }

    /// Size of a logical block in bytes: transfers are multiples of it.
    pub fn block_size(&self) -> u32 {
        self.block_size
    }

    /// Stops the queue: when this returns, everything that was in flight is on the used ring. Gives where in the avail
    /// ring the server stands. Blocks.
    ///
    /// # Errors
    /// If the server does not answer.
    pub fn stop(&mut self) -> Result<u32, VhostUserError> {
        Ok(self.frontend.get_vring_base(u32::from(QUEUE))?)
    }

    /// The session, for what else there is to ask.
    pub fn frontend(&mut self) -> &mut Frontend {
        &mut self.frontend
    }
}

/// The session's socket: SO_PEERCRED says who the server is.
impl AsFd for VhostUserDisk {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.frontend.as_fd()
    }
}

fn negotiate(frontend: &mut Frontend, wanted: Features) -> Result<Features, VhostUserError> {
    frontend.set_owner()?;
    let offered = frontend.get_features()?;
    if offered & F_PROTOCOL_FEATURES == 0 {
        return Err(VhostUserError::Missing("VHOST_USER_F_PROTOCOL_FEATURES"));
    }
    let protocol = frontend.get_protocol_features()?;
    if !protocol.contains(ProtocolFeatures::CONFIG) {
        return Err(VhostUserError::Missing("VHOST_USER_PROTOCOL_F_CONFIG"));
    }
    let useful = ProtocolFeatures::MQ | ProtocolFeatures::CONFIG | ProtocolFeatures::REPLY_ACK;
    frontend.set_protocol_features(protocol.intersection(useful))?;
    let offered_features = Features::from_bits(offered);
    if !offered_features.contains(Features::VERSION_1) {
        return Err(VhostUserError::Missing("VIRTIO_F_VERSION_1"));
    }
    let wanted = wanted | Features::VERSION_1 | Features::RO | Features::BLK_SIZE;
    let features = wanted.without(wanted.without(offered_features));
    // The bit stays set, so queues begin disabled (specification, "Ring states").
    frontend.set_features(features.bits() | F_PROTOCOL_FEATURES)?;
    Ok(features)
}

/// The first byte of guest RAM as this process sees it, which vhost-user calls user addresses.
fn user_base(memory: &GuestMemoryMmap) -> Result<u64, VhostUserError> {
    let base = memory.get_host_address(GuestAddress(0)).map_err(DriverError::from)?;
    Ok(base.addr() as u64)
}

fn share(frontend: &mut Frontend, ram: &GuestRam, size: u64) -> Result<(), VhostUserError> {
    let region = MemoryRegion { guest_addr: 0, size, user_addr: user_base(ram.memory())?, mmap_offset: 0 };
    Ok(frontend.set_mem_table(&[(region, ram.as_fd())])?)
}

fn start_queue(
    frontend: &mut Frontend,
    ports: &GuestPorts,
    broken: &EventNotifier,
) -> Result<(), VhostUserError> {
    let (index, base) = (u32::from(QUEUE), user_base(&ports.memory)?);
    let queue = ports.queue;
    frontend.set_vring_num(index, queue.size.into())?;
    frontend.set_vring_base(index, 0)?;
    frontend.set_vring_addr(VringAddr {
        index,
        flags: 0,
        descriptor: base + queue.desc_table.0,
        used: base + queue.used_ring.0,
        available: base + queue.avail_ring.0,
        log: 0,
    })?;
    frontend.set_vring_err(QUEUE, Some(broken.as_fd()))?;
    frontend.set_vring_call(QUEUE, Some(ports.irq.as_fd()))?;
    frontend.set_vring_kick(QUEUE, Some(ports.kick.as_fd()))?;
    frontend.set_vring_enable(index, true)?;
    // Something that is answered even without REPLY_ACK: what comes before has been done when its answer is here.
    frontend.get_features()?;
    ports.irq.make_blocking()?;
    Ok(())
}

#[cfg(test)]
mod tests;

//! A disk of a vhost-user server, used by a [`BlkDriver`] in this process. It does for one queue
//! what QEMU does between the server and the guest's driver.

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

/// The only queue of a session.
const QUEUE: u8 = 0;
/// Length of the start of `struct virtio_blk_config`, up to and including `blk_size` (virtio 1.2,
/// section 5.2.4).
const CONFIG_BYTES: u32 = 24;
const BLK_SIZE_OFFSET: usize = 20;

/// The parameters of a driver's queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueShape {
    /// Number of entries, a power of two. At least [`BlkDriver::queue_size_for`].
    pub size: u16,
    /// Maximum number of requests in flight.
    pub slots: u16,
    /// Bytes per transfer.
    pub block_bytes: u32,
    /// Features to negotiate, if the server offers them. VERSION_1, RO and BLK_SIZE are always
    /// added.
    pub features: Features,
}

/// Why a disk cannot be used, or cannot be used any more.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VhostUserError {
    /// A request to the server failed.
    #[error(transparent)]
    Frontend(#[from] FrontendError),
    /// The server lacks a feature that the driver needs.
    #[error("the server does not offer {0}, which is required to use its disk")]
    Missing(&'static str),
    /// The configuration space is too short.
    #[error("the server's configuration space has {bytes} bytes; {CONFIG_BYTES} were requested")]
    ShortConfig {
        /// The length received.
        bytes: usize,
    },
    /// The rings could not be set up.
    #[error(transparent)]
    Driver(#[from] DriverError),
    /// Guest memory or an eventfd could not be created.
    #[error("guest memory or an eventfd could not be created: {0}")]
    Io(#[from] io::Error),
}

/// A session with a vhost-user-blk server. Its first queue runs until this is dropped or
/// [stopped](Self::stop).
///
/// When the server disconnects or reports a broken ring, the driver's next [`BlkDriver::wait`]
/// fails with [`DriverError::NeedsReset`]; a sleeping wait is woken up.
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
    /// Connects to the server at `path` and starts a queue. `timeout` applies to each exchange.
    /// Blocks.
    ///
    /// # Errors
    /// [`VhostUserError`] reports what failed.
    pub fn connect(
        path: impl AsRef<Path>,
        timeout: Duration,
        shape: QueueShape,
    ) -> Result<(Self, BlkDriver), VhostUserError> {
        Self::start(Frontend::connect(path, timeout)?, shape)
    }

    /// Negotiates features, shares new guest memory, and starts a queue, on a new session. Blocks.
    ///
    /// # Errors
    /// [`VhostUserError`] reports what failed.
    pub fn start(frontend: Frontend, shape: QueueShape) -> Result<(Self, BlkDriver), VhostUserError> {
        Self::start_with_kick(frontend, shape, EventNotifier::new(Reset::Classic)?)
    }

    /// As [`start`](Self::start), with the eventfd that the driver kicks, for example one that the
    /// kernel resets. Only the server waits for it, so its reset method is the server's affair.
    /// Blocks.
    ///
    /// # Errors
    /// [`VhostUserError`] reports what failed.
    pub fn start_with_kick(
        mut frontend: Frontend,
        shape: QueueShape,
        kick: EventNotifier,
    ) -> Result<(Self, BlkDriver), VhostUserError> {
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
            kick: kick.into(),
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

    /// Returns the negotiated features.
    pub fn features(&self) -> Features {
        self.features
    }

    /// Returns the size of the disk in sectors of 512 bytes.
    pub fn capacity_sectors(&self) -> u64 {
        self.capacity_sectors
    }

    /// Returns the size of a logical block in bytes. Transfers must be multiples of it.
    pub fn block_size(&self) -> u32 {
        self.block_size
    }

    /// Stops the queue. When this returns, all requests that were in flight are on the used ring.
    /// Returns the server's position in the avail ring. Blocks.
    ///
    /// # Errors
    /// If the server does not reply.
    pub fn stop(&mut self) -> Result<u32, VhostUserError> {
        Ok(self.frontend.get_vring_base(u32::from(QUEUE))?)
    }

    /// Returns the session, for other requests.
    pub fn frontend(&mut self) -> &mut Frontend {
        &mut self.frontend
    }
}

/// The session's socket. SO_PEERCRED returns the identity of the server.
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
    // Keep this bit set, so that queues start disabled (specification, "Ring states").
    frontend.set_features(features.bits() | F_PROTOCOL_FEATURES)?;
    Ok(features)
}

/// Returns the address of the first byte of guest RAM in this process. vhost-user calls such
/// addresses user addresses.
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
    frontend.set_vring_kick(QUEUE, ports.kick.fd())?;
    frontend.set_vring_enable(index, true)?;
    // A request with a reply, even without REPLY_ACK: when the reply arrives, all requests before
    // it have been handled.
    frontend.get_features()?;
    ports.irq.make_blocking()?;
    Ok(())
}

#[cfg(test)]
mod tests;

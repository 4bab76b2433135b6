//! What a VMM does with a vhost-user device: negotiates, shares its guest's RAM, sets the queues up.
//!
//! ```text
//! Client::connect ─► ports(n) ─► BlkDriver::new lays the rings out ─► start(n) ─► guest::run ... ─► stop(n)
//! ```

use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use aio::{EventNotifier, Reset};

use virtio_blk_sim::blk::device::Features;
use virtio_blk_sim::guest::GuestPorts;
use virtio_blk_sim::memory::{GuestAddress, GuestMemoryMmap, GuestRam};
use virtio_blk_sim::queue::Irqfd;
use virtio_blk_sim::vhost_user::{
    F_PROTOCOL_FEATURES, Frontend, FrontendError, Inflight, MemoryRegion, ProtocolFeatures, VringAddr,
};
use virtio_blk_sim::virtqueue::QueueConfig;

type Result<T> = std::result::Result<T, FrontendError>;

/// Where the guest's RAM begins in the address space of a VMM. Made up: a backend only subtracts it.
const USER_BASE: u64 = 0x7f00_0000_0000;

/// The queues of one guest begin at multiples of this in its RAM.
const PAGE: u64 = 4096;

/// What a client wants of its device.
#[derive(Debug, Clone)]
pub(crate) struct ClientOptions {
    /// The virtio features, as far as they are offered; VERSION_1 always.
    pub(crate) features: Features,
    /// The protocol features, as far as they are offered. `None` plays a VMM that knows of no such thing.
    pub(crate) protocol: Option<ProtocolFeatures>,
    /// How many queues.
    pub(crate) queues: u16,
    /// Entries of each.
    pub(crate) queue_size: u16,
    /// Guest RAM for each: [`BlkDriver::ram_bytes`](virtio_blk_sim::guest::BlkDriver::ram_bytes).
    pub(crate) queue_ram_bytes: u64,
    /// Size of the disk, for a session without [`ProtocolFeatures::CONFIG`], in which it cannot be asked for.
    pub(crate) capacity_sectors: u64,
    /// For each exchange.
    pub(crate) timeout: Duration,
}

impl ClientOptions {
    /// One queue of `queue_size` with every feature that a [`BlkDriver`](virtio_blk_sim::guest::BlkDriver) makes use of, ten seconds
    /// for an exchange.
    pub(crate) fn new(queue_size: u16, queue_ram_bytes: u64) -> Self {
        Self {
            features: Features::INDIRECT_DESC | Features::EVENT_IDX | Features::FLUSH,
            protocol: Some(
                ProtocolFeatures::MQ
                    | ProtocolFeatures::REPLY_ACK
                    | ProtocolFeatures::CONFIG
                    | ProtocolFeatures::INFLIGHT_SHMFD
                    | ProtocolFeatures::RESET_DEVICE
                    | ProtocolFeatures::CONFIGURE_MEM_SLOTS,
            ),
            queues: 1,
            queue_size,
            queue_ram_bytes,
            capacity_sectors: 0,
            timeout: Duration::from_secs(10),
        }
    }
}

/// A VMM with one vhost-user disk. Its guest is whoever takes the ports. Blocks like [`Frontend`].
#[derive(Debug)]
pub(crate) struct Client {
    frontend: Frontend,
    options: ClientOptions,
    ram: GuestRam,
    /// The guest's own mapping.
    guest: Arc<GuestMemoryMmap>,
    features: Features,
    protocol: Option<ProtocolFeatures>,
    capacity_sectors: u64,
    queues: Vec<Queue>,
    inflight: Option<(Inflight, OwnedFd)>,
}

#[derive(Debug)]
struct Queue {
    kick: EventNotifier,
    irq: Irqfd,
    error: EventNotifier,
    base: u32,
    started: bool,
}

impl Client {
    /// Connects to the server at `path` and negotiates; no queue runs yet.
    pub(crate) fn connect(path: impl AsRef<Path>, options: ClientOptions) -> Result<Self> {
        let frontend = Frontend::connect(path, options.timeout)?;
        Self::over(frontend, options)
    }

    /// As [`connect`](Self::connect), over a session that has just begun.
    pub(crate) fn over(frontend: Frontend, options: ClientOptions) -> Result<Self> {
        let bytes =
            u64::from(options.queues).checked_mul(stride(&options)).and_then(|n| usize::try_from(n).ok());
        let ram = GuestRam::new(bytes.unwrap_or(usize::MAX))?;
        let mut client = Self {
            guest: ram.map()?,
            ram,
            features: Features::NONE,
            protocol: None,
            capacity_sectors: options.capacity_sectors,
            queues: Vec::new(),
            inflight: None,
            frontend,
            options,
        };
        client.negotiate()?;
        for _ in 0..client.options.queues {
            let queue = Queue {
                kick: EventNotifier::new(Reset::Classic)?,
                irq: Irqfd::of_peer(client.frontend.as_fd().try_clone_to_owned()?)?,
                error: EventNotifier::new(Reset::Classic)?,
                base: 0,
                started: false,
            };
            client.queues.push(queue);
        }
        Ok(client)
    }

    /// Goes on with another server, which has the same disk, or with the same one after a disconnection: the queues that
    /// ran are started again. What the last server left in flight is found in the in-flight region; without one the queues
    /// must have been stopped before. Each driver needs its new interrupt line ([`BlkDriver::set_irq`]) before it waits again.
    ///
    /// [`BlkDriver::set_irq`]: virtio_blk_sim::guest::BlkDriver::set_irq
    pub(crate) fn reconnect(&mut self, path: impl AsRef<Path>) -> Result<()> {
        hang_up(&self.frontend);
        self.frontend = Frontend::connect(path, self.options.timeout)?;
        self.negotiate()?;
        for queue in &mut self.queues {
            queue.irq = Irqfd::of_peer(self.frontend.as_fd().try_clone_to_owned()?)?;
        }
        let running =
            (0..self.options.queues).filter(|&index| self.queue(index).is_ok_and(|queue| queue.started));
        for index in running.collect::<Vec<_>>() {
            self.start(index)?;
        }
        Ok(())
    }

    fn negotiate(&mut self) -> Result<()> {
        let frontend = &mut self.frontend;
        frontend.set_owner()?;
        let offered = frontend.get_features()?;
        let (mut bits, mut protocol) = (0, None);
        if let Some(wanted) = self.options.protocol
            && offered & F_PROTOCOL_FEATURES != 0
        {
            let agreed = frontend.get_protocol_features()?.intersection(wanted);
            frontend.set_protocol_features(agreed)?;
            (bits, protocol) = (F_PROTOCOL_FEATURES, Some(agreed));
        }
        let has = |feature| protocol.is_some_and(|agreed| agreed.contains(feature));
        if has(ProtocolFeatures::CONFIG) {
            let capacity = frontend.get_config(0, 8)?;
            let capacity = capacity.try_into().map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
            self.capacity_sectors = u64::from_le_bytes(capacity);
        }
        let wanted = self.options.features | Features::VERSION_1;
        self.features = Features::from_bits(wanted.bits() & offered);
        self.protocol = protocol;
        frontend.set_features(self.features.bits() | bits)?;
        if has(ProtocolFeatures::INFLIGHT_SHMFD) {
            if self.inflight.is_none() {
                self.inflight = frontend.get_inflight_fd(self.options.queues, self.options.queue_size)?;
            }
            if let Some((inflight, file)) = &self.inflight {
                frontend.set_inflight_fd(*inflight, file.as_fd())?;
            }
        }
        frontend.set_mem_table(&[(region(&self.options), self.ram.as_fd())])
    }

    /// Heads that the in-flight region of the only queue has as taken and not answered (specification, `QueueRegionSplit`:
    /// a header of 16 bytes, and an entry of 16 for each descriptor, whose first byte says it).
    pub(crate) fn heads_in_flight(&self) -> usize {
        let Some((inflight, file)) = &self.inflight else { return 0 };
        let mut region = vec![0; inflight.mmap_size as usize];
        let file = std::fs::File::from(file.try_clone().unwrap());
        file.read_exact_at(&mut region, inflight.mmap_offset).unwrap();
        let entries = region[16..].chunks_exact(16).take(inflight.queue_size.into());
        entries.filter(|entry| entry[0] != 0).count()
    }

    fn queue(&self, index: u16) -> Result<&Queue> {
        let missing = || io::Error::new(io::ErrorKind::InvalidInput, format!("there is no queue {index}"));
        Ok(self.queues.get(usize::from(index)).ok_or_else(missing)?)
    }

    /// What the guest's side of a queue holds.
    pub(crate) fn ports(&self, index: u16) -> Result<GuestPorts> {
        let queue = self.queue(index)?;
        let (memory, config) = (Arc::clone(&self.guest), self.config(index));
        let (kick, irq) = (queue.kick.clone(), queue.irq.clone());
        Ok(GuestPorts::without_status(memory, config, self.features, self.capacity_sectors, kick, irq))
    }

    fn config(&self, index: u16) -> QueueConfig {
        let base = u64::from(index) * stride(&self.options);
        QueueConfig {
            event_idx: self.features.contains(Features::EVENT_IDX),
            indirect: self.features.contains(Features::INDIRECT_DESC),
            ..QueueConfig::at(GuestAddress(base), self.options.queue_size)
        }
    }

    /// Starts a queue whose rings are laid out, where it was stopped.
    pub(crate) fn start(&mut self, index: u16) -> Result<()> {
        let config = self.config(index);
        let (number, name) = (u32::from(index), index as u8);
        let &Queue { ref kick, ref irq, ref error, base, .. } = self.queue(index)?;
        let (kick, irq, error) = (kick.clone(), irq.clone(), error.clone());
        let frontend = &mut self.frontend;
        frontend.set_vring_num(number, config.size.into())?;
        frontend.set_vring_base(number, base)?;
        frontend.set_vring_addr(VringAddr {
            index: number,
            flags: 0,
            descriptor: USER_BASE + config.desc_table.0,
            used: USER_BASE + config.used_ring.0,
            available: USER_BASE + config.avail_ring.0,
            log: 0,
        })?;
        frontend.set_vring_err(name, Some(error.as_fd()))?;
        frontend.set_vring_call(name, Some(irq.as_fd()))?;
        frontend.set_vring_kick(name, Some(kick.as_fd()))?;
        if self.protocol.is_some() {
            frontend.set_vring_enable(number, true)?;
        }
        self.queues[usize::from(index)].started = true;
        Ok(())
    }

    /// Stops a queue: when this returns, everything that the device took is answered. Where in the avail ring it stands;
    /// [`start`](Self::start) goes on there.
    pub(crate) fn stop(&mut self, index: u16) -> Result<u16> {
        self.queue(index)?;
        let base = self.frontend.get_vring_base(index.into())?;
        let queue = &mut self.queues[usize::from(index)];
        (queue.base, queue.started) = (base, false);
        Ok(base as u16)
    }

    /// Where in the avail ring a stopped queue goes on, if not where it stopped.
    pub(crate) fn set_base(&mut self, index: u16, base: u16) {
        self.queues[usize::from(index)].base = base.into();
    }

    /// Whether the device has said, since the last call, that the queue's driver broke a rule of the ring.
    pub(crate) fn take_error(&self, index: u16) -> Result<bool> {
        Ok(self.queue(index)?.error.test_and_clear()?)
    }

    /// The session itself.
    pub(crate) fn frontend(&mut self) -> &mut Frontend {
        &mut self.frontend
    }

    /// The guest's RAM, from guest address 0 on.
    pub(crate) fn ram(&self) -> &GuestRam {
        &self.ram
    }

    /// The one region that all of it is in.
    pub(crate) fn region(&self) -> MemoryRegion {
        region(&self.options)
    }

    /// Size of the disk.
    pub(crate) fn capacity_sectors(&self) -> u64 {
        self.capacity_sectors
    }

    /// The virtio features in force.
    pub(crate) fn features(&self) -> Features {
        self.features
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        hang_up(&self.frontend);
    }
}

/// Ends a session now: interrupt lines hold its socket open, too, and so does, for a moment, a program that another test
/// is about to start.
pub(crate) fn hang_up(frontend: &Frontend) {
    let socket = frontend.as_fd().try_clone_to_owned().map(UnixStream::from);
    let _ = socket.and_then(|socket| socket.shutdown(Shutdown::Both));
}

fn stride(options: &ClientOptions) -> u64 {
    options.queue_ram_bytes.checked_next_multiple_of(PAGE).unwrap_or(u64::MAX)
}

fn region(options: &ClientOptions) -> MemoryRegion {
    let size = u64::from(options.queues).saturating_mul(stride(options));
    MemoryRegion { guest_addr: 0, size, user_addr: USER_BASE, mmap_offset: 0 }
}

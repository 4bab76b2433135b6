//! What a VMM does with a vhost-user device: negotiates features, shares its guest's RAM, and sets
//! up the queues.
//!
//! ```text
//! Client::connect ─► ports(n) ─► BlkDriver::new (rings) ─► start(n) ─► guest::run ─► stop(n)
//! ```

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use aio::{EventNotifier, Reset};

use virtio_blk_sim::blk::device::Features;
use virtio_blk_sim::guest::GuestPorts;
use virtio_blk_sim::memory::{GuestAddress, GuestMemoryMmap, GuestRam};
use virtio_blk_sim::queue::Irqfd;
use virtio_blk_sim::vhost_user::{
    F_PROTOCOL_FEATURES, Frontend, FrontendError, Inflight, MemoryRegion, ProtocolFeatures,
};
use virtio_blk_sim::virtqueue::QueueConfig;

use super::vring::{USER_BASE, Vring, hang_up};

type Result<T> = std::result::Result<T, FrontendError>;

/// In guest RAM, the area of each queue starts at a multiple of this.
const PAGE: u64 = 4096;

/// The options of a client.
#[derive(Debug, Clone)]
pub(crate) struct ClientOptions {
    /// Virtio features to negotiate if offered. VERSION_1 is always added.
    pub(crate) features: Features,
    /// Protocol features to negotiate if offered. `None` plays a VMM without protocol features.
    pub(crate) protocol: Option<ProtocolFeatures>,
    /// Number of queues.
    pub(crate) queues: u16,
    /// Entries per queue.
    pub(crate) queue_size: u16,
    /// Guest RAM per queue: [`BlkDriver::ram_bytes`](virtio_blk_sim::guest::BlkDriver::ram_bytes).
    pub(crate) queue_ram_bytes: u64,
    /// Size of the disk, for a session without [`ProtocolFeatures::CONFIG`], which cannot read it.
    pub(crate) capacity_sectors: u64,
    /// Timeout of each exchange.
    pub(crate) timeout: Duration,
}

impl ClientOptions {
    /// One queue of `queue_size` entries, with all features that a
    /// [`BlkDriver`](virtio_blk_sim::guest::BlkDriver) uses, and a timeout of ten seconds per
    /// exchange.
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

/// A VMM with one vhost-user disk. Whoever takes the ports plays the guest. Blocks like
/// [`Frontend`].
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
    /// Connects to the server at `path` and negotiates. No queue is started.
    pub(crate) fn connect(path: impl AsRef<Path>, options: ClientOptions) -> Result<Self> {
        let frontend = Frontend::connect(path, options.timeout)?;
        Self::over(frontend, options)
    }

    /// Like [`connect`](Self::connect), over an existing new session.
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

    /// Continues with another server for the same disk, or with the same server after a disconnect.
    /// Restarts the queues that were running. The new server finds the requests in flight in the
    /// in-flight region; without a region, the queues must have been stopped before. Each driver
    /// needs its new interrupt eventfd ([`BlkDriver::set_irq`]) before it waits again.
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

    /// Returns the number of heads that the in-flight region of the only queue marks as taken but
    /// not completed (specification, `QueueRegionSplit`: a header of 16 bytes, then an entry of 16
    /// bytes per descriptor, whose first byte is the mark).
    pub(crate) fn heads_in_flight(&self) -> usize {
        let Some((inflight, file)) = &self.inflight else { return 0 };
        let mut region = vec![0; inflight.mmap_size as usize];
        let file = std::fs::File::from(file.try_clone().unwrap());
        file.read_exact_at(&mut region, inflight.mmap_offset).unwrap();
        let entries = region[16..].chunks_exact(16).take(inflight.queue_size.into());
        entries.filter(|entry| entry[0] != 0).count()
    }

    fn queue(&self, index: u16) -> Result<&Queue> {
        let missing = || io::Error::new(io::ErrorKind::InvalidInput, format!("no such queue: {index}"));
        Ok(self.queues.get(usize::from(index)).ok_or_else(missing)?)
    }

    /// Returns the guest's side of a queue.
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

    /// Starts a queue whose rings are set up, at the position where it was stopped.
    pub(crate) fn start(&mut self, index: u16) -> Result<()> {
        let config = self.config(index);
        let &Queue { ref kick, ref irq, ref error, base, .. } = self.queue(index)?;
        let (kick, irq, error) = (kick.clone(), irq.clone(), error.clone());
        let vring = Vring {
            index: index as u8,
            config: &config,
            base,
            kick: kick.as_fd(),
            call: irq.as_fd(),
            error: error.as_fd(),
        };
        vring.start(&mut self.frontend, self.protocol.is_some())?;
        self.queues[usize::from(index)].started = true;
        Ok(())
    }

    /// Stops a queue. When this returns, all requests that the device took have completed. Returns
    /// the position in the avail ring, where [`start`](Self::start) continues.
    pub(crate) fn stop(&mut self, index: u16) -> Result<u16> {
        self.queue(index)?;
        let base = self.frontend.get_vring_base(index.into())?;
        let queue = &mut self.queues[usize::from(index)];
        (queue.base, queue.started) = (base, false);
        Ok(base as u16)
    }

    /// Changes the position in the avail ring where a stopped queue continues.
    pub(crate) fn set_base(&mut self, index: u16, base: u16) {
        self.queues[usize::from(index)].base = base.into();
    }

    /// Returns true if the device has reported a ring error of this queue since the last call.
    pub(crate) fn take_error(&self, index: u16) -> Result<bool> {
        Ok(self.queue(index)?.error.test_and_clear()?)
    }

    /// Returns the session.
    pub(crate) fn frontend(&mut self) -> &mut Frontend {
        &mut self.frontend
    }

    /// Returns the guest's RAM, which starts at guest address 0.
    pub(crate) fn ram(&self) -> &GuestRam {
        &self.ram
    }

    /// Returns the single memory region, which contains all of the RAM.
    pub(crate) fn region(&self) -> MemoryRegion {
        region(&self.options)
    }

    /// Returns the size of the disk in sectors.
    pub(crate) fn capacity_sectors(&self) -> u64 {
        self.capacity_sectors
    }

    /// Returns the negotiated virtio features.
    pub(crate) fn features(&self) -> Features {
        self.features
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        hang_up(&self.frontend);
    }
}

fn stride(options: &ClientOptions) -> u64 {
    options.queue_ram_bytes.checked_next_multiple_of(PAGE).unwrap_or(u64::MAX)
}

fn region(options: &ClientOptions) -> MemoryRegion {
    let size = u64::from(options.queues).saturating_mul(stride(options));
    MemoryRegion { guest_addr: 0, size, user_addr: USER_BASE, mmap_offset: 0 }
}

//! The transport between a guest and a device in one process. It has the state that a VMM's
//! virtio-mmio or virtio-pci device would have.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use aio::{AioContext, EventNotifier, Reset};

use crate::blk::backend::Backend;
use crate::blk::device::{BlockDevice, Features};
use crate::blk::{Attached, BlkQueue, Disk};
use crate::memory::{GuestAddress, GuestMemoryMmap, GuestRam};
use crate::queue::{Interrupt, Irqfd, Kick, QueueParts, Stopped};
use crate::virtqueue::{DeviceQueue, QueueConfig, QueueError};

/// A device with one queue, in the state in which a driver leaves it: features are negotiated, the
/// rings are in guest RAM, ioeventfd and irqfd exist. It can be sent to the device's thread and
/// shared with the guest's thread.
#[derive(Debug)]
pub struct SimTransport {
    ram: GuestRam,
    device: Arc<BlockDevice>,
    queue: QueueConfig,
    kick: Kick,
    irq: Irqfd,
    /// The interrupt for configuration changes, for a guest that can handle more than one
    /// interrupt.
    config: EventNotifier,
    needs_reset: Arc<AtomicBool>,
}

/// The guest's side of a transport.
#[derive(Debug, Clone)]
pub struct GuestPorts {
    /// The guest's own mapping of its RAM.
    pub memory: Arc<GuestMemoryMmap>,
    /// The location of the queue.
    pub queue: QueueConfig,
    /// The negotiated features.
    pub features: Features,
    /// Size of the disk in sectors.
    pub capacity_sectors: u64,
    /// The ioeventfd.
    pub kick: Kick,
    /// The irqfd.
    pub irq: Irqfd,
    pub(crate) needs_reset: Arc<AtomicBool>,
}

impl GuestPorts {
    /// Creates the ports of a device whose transport has no status register.
    /// [`needs_reset`](Self::needs_reset) then never returns true.
    pub fn without_status(
        memory: Arc<GuestMemoryMmap>,
        queue: QueueConfig,
        features: Features,
        capacity_sectors: u64,
        kick: EventNotifier,
        irq: Irqfd,
    ) -> Self {
        let kick = kick.into();
        Self { memory, queue, features, capacity_sectors, kick, irq, needs_reset: Arc::default() }
    }

    /// Returns DEVICE_NEEDS_RESET of the device status register.
    pub fn needs_reset(&self) -> bool {
        self.needs_reset.load(Ordering::Acquire)
    }

    /// Called when the driver has reset the device.
    #[cfg(all(feature = "kvm", target_arch = "x86_64"))]
    pub(crate) fn reset(&self) {
        self.needs_reset.store(false, Ordering::Release);
    }
}

impl SimTransport {
    /// Sets up a device. Negotiates those of `features` that the device offers, and VERSION_1 in
    /// any case. Puts a queue of `queue_size` entries at the start of a new guest RAM of
    /// `ram_bytes`. `reset` is the reset mode of the ioeventfd.
    ///
    /// # Errors
    /// `InvalidInput` if the queue does not fit into the RAM or the driver's features are refused;
    /// errors of memfd_create(2), mmap(2) and eventfd(2).
    pub fn new(
        device: BlockDevice,
        features: Features,
        queue_size: u16,
        ram_bytes: usize,
        reset: Reset,
    ) -> io::Result<Self> {
        Self::with_queue_at(GuestAddress(0), device, features, queue_size, ram_bytes, reset)
    }

    /// Same as [`new`](Self::new), with the queue at `base` in guest RAM: a guest with its own
    /// processor needs RAM for other things too. `base` must be aligned to 16.
    ///
    /// # Errors
    /// Same as [`new`](Self::new).
    pub fn with_queue_at(
        base: GuestAddress,
        device: BlockDevice,
        features: Features,
        queue_size: u16,
        ram_bytes: usize,
        reset: Reset,
    ) -> io::Result<Self> {
        let invalid = |e: &dyn std::fmt::Display| io::Error::new(io::ErrorKind::InvalidInput, e.to_string());
        let unknown = features.without(device.offered());
        let features = features.without(unknown) | Features::VERSION_1;
        device.negotiate(features).map_err(|e| invalid(&e))?;
        let queue = QueueConfig {
            event_idx: features.contains(Features::EVENT_IDX),
            indirect: features.contains(Features::INDIRECT_DESC),
            ..QueueConfig::at(base, queue_size)
        };
        Ok(Self {
            ram: GuestRam::new(ram_bytes)?,
            device: Arc::new(device),
            queue,
            kick: EventNotifier::new(reset)?.into(),
            irq: Irqfd::new()?,
            config: EventNotifier::new(Reset::Classic)?,
            needs_reset: Arc::default(),
        })
    }

    /// Replaces the doorbell, typically with a [bounded](Kick::Bounded) one. Must be called before
    /// either side is created.
    #[must_use]
    pub fn with_kick(mut self, kick: impl Into<Kick>) -> Self {
        self.kick = kick.into();
        self
    }

    /// The irqfd for configuration changes: DEVICE_NEEDS_RESET (virtio 1.2, section 2.1.2).
    #[cfg(all(feature = "kvm", target_arch = "x86_64"))]
    pub(crate) fn config(&self) -> &EventNotifier {
        &self.config
    }

    /// Returns the guest's side.
    ///
    /// # Errors
    /// Errors of mmap(2).
    pub fn guest(&self) -> io::Result<GuestPorts> {
        Ok(GuestPorts {
            memory: self.ram.map()?,
            queue: self.queue,
            features: self.device.negotiated(),
            capacity_sectors: self.device.capacity_sectors(),
            kick: self.kick.clone(),
            irq: self.irq.clone(),
            needs_reset: Arc::clone(&self.needs_reset),
        })
    }

    /// Starts the device's side on an event loop. Must be called on the loop's home thread, after
    /// the driver has initialised its rings.
    ///
    /// # Errors
    /// `InvalidInput` if the rings are not usable; otherwise same as [`BlkQueue::attach`].
    pub fn attach(&self, context: &AioContext, backend: Backend) -> io::Result<Attached> {
        self.start(context, backend, self.new_queue(), self.kick.clone())
    }

    /// Same as [`attach`](Self::attach), with the device's end of the doorbell passed in: another
    /// handle to the file that the guest writes.
    ///
    /// # Errors
    /// Same as [`attach`](Self::attach).
    pub fn attach_on(&self, context: &AioContext, backend: Backend, kick: Kick) -> io::Result<Attached> {
        self.start(context, backend, self.new_queue(), kick)
    }

    fn new_queue(&self) -> Result<DeviceQueue, QueueError> {
        DeviceQueue::new(Arc::clone(self.ram.memory()), self.queue)
    }

    /// Continues a queue that was [stopped](Attached::stop), on this or another loop, while the
    /// guest runs. Requests that the guest made available in the meantime are found, and the first
    /// answer always interrupts.
    ///
    /// # Errors
    /// Same as [`attach`](Self::attach).
    pub fn attach_again(
        &self,
        context: &AioContext,
        backend: Backend,
        stopped: Stopped,
    ) -> io::Result<Attached> {
        let (memory, Stopped { next_avail, next_used, .. }) = (Arc::clone(self.ram.memory()), stopped);
        self.start(
            context,
            backend,
            DeviceQueue::resume(memory, self.queue, next_avail, next_used),
            self.kick.clone(),
        )
    }

    fn start(
        &self,
        context: &AioContext,
        backend: Backend,
        queue: Result<DeviceQueue, QueueError>,
        kick: Kick,
    ) -> io::Result<Attached> {
        let queue = queue.map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))?;
        let (needs_reset, config) = (Arc::clone(&self.needs_reset), self.config.clone());
        let disk = Disk::shared(Arc::clone(&self.device), backend);
        let parts = QueueParts {
            queue,
            kick,
            interrupt: Interrupt::Irqfd(self.irq.clone()),
            on_broken: Box::new(move |_| {
                needs_reset.store(true, Ordering::Release);
                // The write cannot fail: the eventfd is our own.
                let _ = config.notify();
            }),
            limit: None,
            in_flight: None,
            memory_lost: None,
        };
        BlkQueue::attach(context, parts, |queue| disk.worker(context, queue))
    }
}

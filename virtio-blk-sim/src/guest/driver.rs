//! The guest's block driver: requests in guest RAM, descriptor chains, kicks and interrupts.

use std::io;

use vm_memory::{Bytes, GuestAddress};

use crate::blk::device::{Features, SECTOR_SIZE};
use crate::guest::sim::GuestPorts;
use crate::queue::Irqfd;
use crate::virtqueue::{Chain, DriverQueue, QueueConfig, QueueError, Segments};

use virtio_bindings::virtio_blk::{VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT};

/// Size of a slot's control area in guest RAM. The driver writes one cache line and the device
/// writes another (the status), so that no line is written by both sides and moves between CPUs
/// more often than needed.
const CONTROL_BYTES: u64 = 128;
const TABLE_OFFSET: u64 = 0;
const HEADER_OFFSET: u64 = 48;
const STATUS_OFFSET: u64 = 64;
/// Data buffers are page aligned, like those of a kernel.
pub(super) const PAGE: u64 = 4096;
/// Value of the status byte before the device writes it.
pub(super) const NO_STATUS: u8 = 0xff;

/// Why a driver cannot continue.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DriverError {
    /// The rings are invalid, or the device put something invalid on them.
    #[error("the virtqueue is unusable: {0}")]
    Queue(#[from] QueueError),
    /// An address in guest RAM is not accessible.
    #[error("guest RAM cannot be accessed: {0}")]
    Memory(#[from] vm_memory::GuestMemoryError),
    /// An eventfd failed.
    #[error("kick or interrupt failed: {0}")]
    Signal(#[from] io::Error),
    /// A slot was used again before its request completed, or does not exist.
    #[error("slot {0} does not exist or has a request in flight, or the queue has no free descriptors")]
    SlotInUse(u16),
    /// The device set DEVICE_NEEDS_RESET.
    #[error("the device needs a reset because of a protocol error, or it disconnected")]
    NeedsReset,
}

/// How a driver waits for completions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Waiting {
    /// Sleep in read(2) on the irqfd, like a vCPU that halts because it is idle.
    #[default]
    Sleeping,
    /// Poll the used ring with interrupts suppressed (SPDK, `io_poll`).
    Spinning,
}

/// When a driver kicks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Kicking {
    /// When the device asks for a kick.
    #[default]
    AsWanted,
    /// For every request, even if the device does not ask for it, like a driver that ignores
    /// notification suppression. This makes a kick storm.
    Always,
}

/// A completed request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Completion {
    /// The slot that the request was submitted in.
    pub slot: u16,
    /// VIRTIO_BLK_S_OK (0), _IOERR (1) or _UNSUPP (2); 0xff if the device did not write a status.
    pub status: u8,
    /// The used length.
    pub written: u32,
}

/// A driver with a fixed number of request slots. Belongs to one thread at a time.
#[derive(Debug)]
pub struct BlkDriver {
    ports: GuestPorts,
    queue: DriverQueue,
    slots: u16,
    block_bytes: u32,
    /// Guest address of the first control area. The data buffers follow the last one.
    control_base: u64,
    data_base: u64,
    /// All control areas as one buffer. Its place in guest RAM is looked up once, because a kernel
    /// has its RAM mapped and does not pay for a lookup per request.
    controls: Chain,
    /// Maps the head of a chain to its slot.
    slot_of_head: Vec<u16>,
    waiting: Waiting,
    kicking: Kicking,
    /// Requests were submitted since the last kick.
    unshown: bool,
    kicks: u64,
    kicks_held: u64,
    interrupts: u64,
}

impl BlkDriver {
    /// Returns the bytes of guest RAM that a driver needs, counted from the start of its descriptor
    /// table.
    pub fn ram_bytes(queue_size: u16, slots: u16, block_bytes: u32) -> u64 {
        data_base(queue_size, slots) + u64::from(slots) * u64::from(block_bytes).next_multiple_of(PAGE)
    }

    /// Returns the size of the smallest queue for `slots` requests in flight. A request has three
    /// descriptors. Even an indirect chain may not have more descriptors than the queue has
    /// entries, so the minimum is 4.
    pub fn queue_size_for(slots: u16, features: Features) -> u16 {
        let each = if features.contains(Features::INDIRECT_DESC) { 1 } else { 3 };
        slots.saturating_mul(each).max(4).checked_next_power_of_two().unwrap_or(1 << 15)
    }

    /// Sets up the rings and, after them, the slots. Must be called before the device is attached.
    /// The queue has the layout of [`QueueConfig::at`], starting at a page boundary.
    ///
    /// # Errors
    /// If guest RAM is smaller than [`ram_bytes`](Self::ram_bytes), or the queue is invalid.
    pub fn new(ports: GuestPorts, slots: u16, block_bytes: u32) -> Result<Self, DriverError> {
        let queue = DriverQueue::new(ports.memory.clone(), ports.queue)?;
        let (base, size) = (ports.queue.desc_table.0, ports.queue.size);
        let control_base = base.saturating_add(control_base(size));
        let control_bytes = u32::from(slots.max(1)) * CONTROL_BYTES as u32;
        let controls = [(GuestAddress(control_base), control_bytes)];
        let driver = Self {
            queue,
            slots,
            block_bytes,
            controls: Chain::from_buffers(ports.memory.clone(), 0, &[], &controls)?,
            control_base,
            data_base: base.saturating_add(data_base(size, slots)),
            slot_of_head: vec![0; usize::from(size)],
            ports,
            waiting: Waiting::default(),
            kicking: Kicking::default(),
            unshown: false,
            kicks: 0,
            kicks_held: 0,
            interrupts: 0,
        };
        // Check that the last byte that will be used exists.
        let end = base.saturating_add(Self::ram_bytes(size, slots, block_bytes)).saturating_sub(1);
        driver.ports.memory.write_obj(0u8, GuestAddress(end))?;
        Ok(driver)
    }

    /// Returns the guest address of a slot's control area, and its offset from the first one.
    fn control(&self, slot: u16) -> (GuestAddress, u64) {
        let offset = u64::from(slot) * CONTROL_BYTES;
        (GuestAddress(self.control_base + offset), offset)
    }

    fn controls(&self) -> &Segments {
        self.controls.writable()
    }

    /// Returns the guest address of a slot's data.
    pub fn data(&self, slot: u16) -> GuestAddress {
        GuestAddress(self.data_base + u64::from(slot) * u64::from(self.block_bytes).next_multiple_of(PAGE))
    }

    /// Returns the guest side of the transport.
    pub fn ports(&self) -> &GuestPorts {
        &self.ports
    }

    /// Replaces the interrupt eventfd, after another session has taken over the rings.
    pub fn set_irq(&mut self, irq: Irqfd) {
        self.ports.irq = irq;
    }

    /// Returns the maximum number of requests in flight.
    pub fn slots(&self) -> u16 {
        self.slots
    }

    /// Returns the bytes per transfer.
    pub fn block_bytes(&self) -> u32 {
        self.block_bytes
    }

    /// Returns the number of kicks written to the ioeventfd.
    pub fn kicks(&self) -> u64 {
        self.kicks
    }

    /// Returns the number of kicks that blocked because a bounded doorbell was full.
    pub fn kicks_held(&self) -> u64 {
        self.kicks_held
    }

    /// Returns the number of interrupts waited for.
    pub fn interrupts(&self) -> u64 {
        self.interrupts
    }

    /// Submits a read of one block into the slot's buffer. The device sees it after
    /// [`kick`](Self::kick).
    ///
    /// # Errors
    /// If the slot is in use (no descriptor is free) or guest RAM cannot be accessed.
    pub fn read(&mut self, slot: u16, sector: u64) -> Result<(), DriverError> {
        self.submit(slot, VIRTIO_BLK_T_IN, sector)
    }

    /// Submits a write of one block from the slot's buffer.
    ///
    /// # Errors
    /// As for [`read`](Self::read).
    pub fn write(&mut self, slot: u16, sector: u64) -> Result<(), DriverError> {
        self.submit(slot, VIRTIO_BLK_T_OUT, sector)
    }

    /// Submits a flush.
    ///
    /// # Errors
    /// As for [`read`](Self::read).
    pub fn flush(&mut self, slot: u16) -> Result<(), DriverError> {
        self.submit(slot, VIRTIO_BLK_T_FLUSH, 0)
    }

    fn submit(&mut self, slot: u16, kind: u32, sector: u64) -> Result<(), DriverError> {
        if slot >= self.slots {
            return Err(DriverError::SlotInUse(slot));
        }
        let (control, offset) = self.control(slot);
        let mut header = [0; 16];
        header[..4].copy_from_slice(&kind.to_le_bytes());
        header[8..].copy_from_slice(&sector.to_le_bytes());
        self.controls().copy_from(offset + HEADER_OFFSET, &header);
        self.controls().copy_from(offset + STATUS_OFFSET, &[NO_STATUS]);

        let at = |offset| GuestAddress(control.0 + offset);
        let (header, status) = (at(HEADER_OFFSET), at(STATUS_OFFSET));
        let (header, data, status) = ((header, 16), (self.data(slot), self.block_bytes), (status, 1));
        let (readable, writable): (&[_], &[_]) = match kind {
            VIRTIO_BLK_T_IN => (&[header], &[data, status]),
            VIRTIO_BLK_T_OUT => (&[header, data], &[status]),
            _ => (&[header], &[status]),
        };
        let added = if self.ports.queue.indirect {
            self.queue.add_indirect(at(TABLE_OFFSET), readable, writable)?
        } else {
            self.queue.add(readable, writable)?
        };
        let head = added.ok_or(DriverError::SlotInUse(slot))?;
        if let Some(place) = self.slot_of_head.get_mut(usize::from(head)) {
            *place = slot;
        }
        self.unshown = true;
        Ok(())
    }

    /// Makes all submitted requests visible to the device without kicking. The device may be
    /// asleep, so call [`kick`](Self::kick) before waiting.
    pub fn show(&mut self) {
        self.queue.show();
    }

    /// Makes all submitted requests visible to the device. Kicks if the device asks for it, or in
    /// any case with [`Kicking::Always`]. Sleeps only if a bounded doorbell is full.
    ///
    /// # Errors
    /// Errors of write(2) to the ioeventfd.
    pub fn kick(&mut self) -> Result<(), DriverError> {
        let wanted = self.queue.publish();
        let unshown = std::mem::take(&mut self.unshown);
        if wanted || unshown && self.kicking == Kicking::Always {
            self.kicks += 1;
            self.kicks_held += u64::from(self.ports.kick.notify()?);
        }
        Ok(())
    }

    /// Returns when [`kick`](Self::kick) kicks.
    pub fn kicking(&self) -> Kicking {
        self.kicking
    }

    /// Sets when [`kick`](Self::kick) kicks.
    pub fn set_kicking(&mut self, kicking: Kicking) {
        self.kicking = kicking;
    }

    /// Returns how [`wait`](Self::wait) waits.
    pub fn waiting(&self) -> Waiting {
        self.waiting
    }

    /// Sets how [`wait`](Self::wait) waits. May only be called while no request is in flight.
    pub fn set_waiting(&mut self, waiting: Waiting) {
        self.waiting = waiting;
        match waiting {
            // No request is in flight, so no completion can be missed.
            Waiting::Sleeping => {
                let _ = self.queue.enable_interrupts();
            }
            Waiting::Spinning => self.queue.disable_interrupts(),
        }
    }

    /// Waits until something may have completed. When sleeping: until the next interrupt, with one
    /// read(2) that also consumes it. When spinning: until the used ring has an entry, without
    /// system calls.
    ///
    /// # Errors
    /// [`DriverError::NeedsReset`] if the device has stopped serving this driver; errors of read(2)
    /// on the irqfd.
    pub fn wait(&mut self) -> Result<(), DriverError> {
        match self.waiting {
            Waiting::Sleeping => {
                self.interrupts += 1;
                self.ports.irq.wait()?;
            }
            Waiting::Spinning => {
                while !self.queue.has_used() && !self.ports.needs_reset() {
                    std::hint::spin_loop();
                }
            }
        }
        if self.ports.needs_reset() { Err(DriverError::NeedsReset) } else { Ok(()) }
    }

    /// The interrupt handler: takes every completed request off the used ring. Interrupts are
    /// disabled meanwhile and enabled again before it returns, so a later completion causes an
    /// interrupt. Interrupts stay enabled while requests are submitted, as in Linux. A spinning
    /// driver leaves them disabled.
    ///
    /// # Errors
    /// If the device put something invalid on the ring.
    pub fn reap(&mut self, finished: &mut Vec<Completion>) -> Result<(), DriverError> {
        loop {
            self.queue.disable_interrupts();
            while let Some((head, written)) = self.queue.pop_used()? {
                let slot = self.slot_of_head.get(usize::from(head)).copied().unwrap_or_default();
                let mut status = [NO_STATUS];
                self.controls().copy_to(self.control(slot).1 + STATUS_OFFSET, &mut status);
                finished.push(Completion { slot, status: status[0], written });
            }
            if self.waiting == Waiting::Spinning || !self.queue.enable_interrupts() {
                return Ok(());
            }
        }
    }

    /// Returns the queue, for tests that play a misbehaving driver.
    pub fn queue_mut(&mut self) -> &mut DriverQueue {
        &mut self.queue
    }
}

fn control_base(queue_size: u16) -> u64 {
    QueueConfig::bytes(queue_size).next_multiple_of(CONTROL_BYTES)
}

fn data_base(queue_size: u16, slots: u16) -> u64 {
    (control_base(queue_size) + u64::from(slots) * CONTROL_BYTES).next_multiple_of(PAGE)
}

/// Returns the number of sectors in a block of `bytes` bytes.
pub(super) fn sectors(bytes: u32) -> u64 {
    u64::from(bytes) / SECTOR_SIZE
}

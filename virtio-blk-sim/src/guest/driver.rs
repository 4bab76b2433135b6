//! The guest's block driver: requests in guest RAM, chains, kicks and interrupts.

use std::io;

use vm_memory::{Bytes, GuestAddress};

use crate::blk::device::{Features, SECTOR_SIZE};
use crate::guest::sim::GuestPorts;
use crate::queue::Irqfd;
use crate::virtqueue::{Chain, DriverQueue, QueueConfig, QueueError, Segments};

use virtio_bindings::virtio_blk::{VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT};

/// Room in guest RAM for a request's small parts. What the driver writes shares a cache line; the status, which the device
/// writes, has another: a line that both write would travel twice as often.
const CONTROL_BYTES: u64 = 128;
const TABLE_OFFSET: u64 = 0;
const HEADER_OFFSET: u64 = 48;
const STATUS_OFFSET: u64 = 64;
/// Data buffers start on pages, as a kernel's do.
pub(super) const PAGE: u64 = 4096;
/// What a status byte holds before the device has written it.
pub(super) const NO_STATUS: u8 = 0xff;

/// A driver that cannot go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DriverError {
    /// The rings, or what the device put on them, are not as they should be.
    #[error("the virtqueue is unusable: {0}")]
    Queue(#[from] QueueError),
    /// A request's place in guest RAM could not be reached.
    #[error("guest RAM cannot be reached: {0}")]
    Memory(#[from] vm_memory::GuestMemoryError),
    /// The eventfds failed.
    #[error("kick or interrupt failed: {0}")]
    Signal(#[from] io::Error),
    /// A slot was used again before its request had finished.
    #[error("slot {0} is none, or has a request in flight, or the queue is too small for its slots")]
    SlotInUse(u16),
    /// DEVICE_NEEDS_RESET.
    #[error("the device says that this driver broke the rules and needs a reset")]
    NeedsReset,
}

/// How a driver waits for its requests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Waiting {
    /// In read(2) of the irqfd, as a vCPU that has nothing else to do halts.
    #[default]
    Sleeping,
    /// Looking at the used ring again and again, with interrupts suppressed: a driver that polls (SPDK, `io_poll`).
    Spinning,
}

/// When a driver kicks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Kicking {
    /// When the device asks for it.
    #[default]
    AsWanted,
    /// For every request, whether or not the device asks for it, as a driver without suppression: a kick storm.
    Always,
}

/// One finished request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Completion {
    /// The slot it was submitted in.
    pub slot: u16,
    /// VIRTIO_BLK_S_OK (0), _IOERR (1) or _UNSUPP (2); 0xff if the device wrote none.
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
    /// Guest address of the first control area; the data buffers follow the last.
    control_base: u64,
    data_base: u64,
    /// All control areas, as one buffer: looked up in guest RAM once, so that a request costs a driver what it costs in a
    /// kernel, whose RAM is mapped.
    controls: Chain,
    /// The slot of the chain with this head.
    slot_of_head: Vec<u16>,
    waiting: Waiting,
    kicking: Kicking,
    /// Submitted since the last kick.
    unshown: bool,
    kicks: u64,
    kicks_held: u64,
    interrupts: u64,
}

impl BlkDriver {
    /// Guest RAM that a driver needs, from the beginning of its descriptor table on.
    pub fn ram_bytes(queue_size: u16, slots: u16, block_bytes: u32) -> u64 {
        data_base(queue_size, slots) + u64::from(slots) * u64::from(block_bytes).next_multiple_of(PAGE)
    }

    /// Entries of the smallest queue for `slots` requests in flight. Even an indirect chain may not have more descriptors
    /// than the queue has entries, and a request has three.
    pub fn queue_size_for(slots: u16, features: Features) -> u16 {
        let each = if features.contains(Features::INDIRECT_DESC) { 1 } else { 3 };
        slots.saturating_mul(each).max(4).checked_next_power_of_two().unwrap_or(1 << 15)
    }

    /// Lays out the rings and, behind them, the slots. Do this before the device is attached. The queue is as
    /// [`QueueConfig::at`] makes it, from a page boundary on.
    ///
    /// # Errors
    /// If guest RAM has not [`ram_bytes`](Self::ram_bytes) or the queue is unusable.
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
        // Touches the last byte that will be used.
        let end = base.saturating_add(Self::ram_bytes(size, slots, block_bytes)).saturating_sub(1);
        driver.ports.memory.write_obj(0u8, GuestAddress(end))?;
        Ok(driver)
    }

    /// Where the control area of a slot is, and how far into all of them.
    fn control(&self, slot: u16) -> (GuestAddress, u64) {
        let offset = u64::from(slot) * CONTROL_BYTES;
        (GuestAddress(self.control_base + offset), offset)
    }

    fn controls(&self) -> &Segments {
        self.controls.writable()
    }

    /// Where the data of a slot is in guest RAM.
    pub fn data(&self, slot: u16) -> GuestAddress {
        GuestAddress(self.data_base + u64::from(slot) * u64::from(self.block_bytes).next_multiple_of(PAGE))
    }

    /// The transport's guest side.
    pub fn ports(&self) -> &GuestPorts {
        &self.ports
    }

    /// Listens to another interrupt line: of the session that took over from the one that these rings began with.
    pub fn set_irq(&mut self, irq: Irqfd) {
        self.ports.irq = irq;
    }

    /// How many requests may be in flight.
    pub fn slots(&self) -> u16 {
        self.slots
    }

    /// Bytes of a transfer.
    pub fn block_bytes(&self) -> u32 {
        self.block_bytes
    }

    /// Kicks written to the ioeventfd.
    pub fn kicks(&self) -> u64 {
        self.kicks
    }

    /// Those among them that a bounded doorbell made wait.
    pub fn kicks_held(&self) -> u64 {
        self.kicks_held
    }

    /// Interrupts waited for.
    pub fn interrupts(&self) -> u64 {
        self.interrupts
    }

    /// Makes a read of one block into the slot's buffer. Shown to the device by [`kick`](Self::kick).
    ///
    /// # Errors
    /// If the slot is in use (no descriptor is free) or guest RAM cannot be reached.
    pub fn read(&mut self, slot: u16, sector: u64) -> Result<(), DriverError> {
        self.submit(slot, VIRTIO_BLK_T_IN, sector)
    }

    /// Makes a write of one block from the slot's buffer.
    ///
    /// # Errors
    /// As for [`read`](Self::read).
    pub fn write(&mut self, slot: u16, sector: u64) -> Result<(), DriverError> {
        self.submit(slot, VIRTIO_BLK_T_OUT, sector)
    }

    /// Makes a flush.
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

    /// Shows everything submitted to the device, which may be asleep: [`kick`](Self::kick) before waiting.
    pub fn show(&mut self) {
        self.queue.show();
    }

    /// Shows everything submitted to the device, and kicks if the device wants to be, or if this driver
    /// [always](Kicking::Always) does. Sleeps only in a bounded doorbell, while it is full.
    ///
    /// # Errors
    /// What write(2) to the ioeventfd says.
    pub fn kick(&mut self) -> Result<(), DriverError> {
        let wanted = self.queue.publish();
        let unshown = std::mem::take(&mut self.unshown);
        if wanted || unshown && self.kicking == Kicking::Always {
            self.kicks += 1;
            self.kicks_held += u64::from(self.ports.kick.notify()?);
        }
        Ok(())
    }

    /// When [`kick`](Self::kick) kicks.
    pub fn kicking(&self) -> Kicking {
        self.kicking
    }

    /// Chooses when [`kick`](Self::kick) kicks.
    pub fn set_kicking(&mut self, kicking: Kicking) {
        self.kicking = kicking;
    }

    /// How [`wait`](Self::wait) waits.
    pub fn waiting(&self) -> Waiting {
        self.waiting
    }

    /// Chooses how [`wait`](Self::wait) waits. While nothing is in flight.
    pub fn set_waiting(&mut self, waiting: Waiting) {
        self.waiting = waiting;
        match waiting {
            // Nothing is in flight, so nothing can have finished unseen.
            Waiting::Sleeping => {
                let _ = self.queue.enable_interrupts();
            }
            Waiting::Spinning => self.queue.disable_interrupts(),
        }
    }

    /// Waits until something may have finished. Sleeping: until the next interrupt; one read(2), which also takes it.
    /// Spinning: until the used ring has an entry; no system call.
    ///
    /// # Errors
    /// [`DriverError::NeedsReset`] if the device has given up on this driver; what read(2) of the irqfd says.
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

    /// The interrupt handler: takes every finished request off the used ring. Interrupts are off meanwhile and on again
    /// when it returns, so whatever finishes later interrupts; as in Linux, they are on while requests are submitted. A
    /// spinning driver leaves them off.
    ///
    /// # Errors
    /// If the device put nonsense on the ring.
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

    /// The queue itself, for tests that play a driver that breaks the rules.
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

/// Sectors in a block of `bytes`.
pub(super) fn sectors(bytes: u32) -> u64 {
    u64::from(bytes) / SECTOR_SIZE
}

//! The layout of the driver's data in guest RAM.

use std::io;
use std::sync::Arc;

use aio::Reset;
use vm_memory::Bytes;

use super::batch::Table;
use super::error::KvmError;
use super::machine::{DRIVER, RAM_END};
use super::program::{self, Control, Entry, NOBODY};
use crate::blk::device::{BlockDevice, Features};
use crate::guest::driver::{BlkDriver, PAGE};
use crate::guest::sim::{GuestPorts, SimTransport};
use crate::memory::{GuestAddress, GuestMemoryMmap};
use crate::virtqueue::{Descriptor, QueueConfig};

/// Requests per batch: many for each request in flight, so that the queue rarely runs empty, and at
/// least FEWEST.
const EACH: u32 = 16;
const FEWEST: u32 = 256;
/// Data bytes per batch, unless the requests in flight alone need more.
const DATA: u64 = 64 << 20;

/// The parameters of a guest that determine the layout of its RAM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvmShape {
    /// Features that the driver negotiates, if the device offers them. INDIRECT_DESC is always
    /// added.
    pub features: Features,
    /// Maximum number of requests in flight.
    pub slots: u16,
    /// Bytes per transfer.
    pub block_bytes: u32,
}

/// Guest addresses.
struct Places {
    entry_of_head: u64,
    heads: u64,
    rings: u64,
    data: u64,
    end: u64,
}

impl KvmShape {
    /// Creates a transport whose guest RAM has this shape. The RAM is still empty.
    ///
    /// # Errors
    /// `InvalidInput` if the RAM would reach the addresses of devices; otherwise as for
    /// [`SimTransport::new`].
    pub fn transport(&self, device: BlockDevice, reset: Reset) -> io::Result<SimTransport> {
        let places = self.places();
        if places.end > RAM_END {
            let why = format!(
                "{} requests of {} bytes in flight do not fit below 3 GiB of guest RAM",
                self.slots, self.block_bytes
            );
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        let (base, features) = (GuestAddress(places.rings), self.features());
        SimTransport::with_queue_at(base, device, features, self.queue_size(), places.end as usize, reset)
    }

    fn features(&self) -> Features {
        self.features | Features::INDIRECT_DESC
    }

    fn queue_size(&self) -> u16 {
        BlkDriver::queue_size_for(self.slots, self.features())
    }

    fn stride(&self) -> u64 {
        u64::from(self.block_bytes).next_multiple_of(PAGE)
    }

    /// Returns the number of requests per batch.
    fn room(&self) -> u32 {
        let affordable = DATA.checked_div(self.stride()).unwrap_or(0);
        let wanted = u64::from((u32::from(self.slots) * EACH).max(FEWEST));
        wanted.min(affordable).max(self.slots.into()) as u32
    }

    fn places(&self) -> Places {
        let (room, queue_size) = (u64::from(self.room()), u64::from(self.queue_size()));
        let entry_of_head = DRIVER + room * size_of::<Entry>() as u64;
        let heads = entry_of_head + queue_size * 4;
        let rings = (heads + queue_size * 2).next_multiple_of(PAGE);
        let data = (rings + QueueConfig::bytes(self.queue_size())).next_multiple_of(PAGE);
        Places { entry_of_head, heads, rings, data, end: data + room * self.stride() }
    }

    /// Checks that the transport was made with this shape.
    pub(super) fn check(&self, ports: &GuestPorts) -> Result<(), KvmError> {
        let places = self.places();
        let last = GuestAddress(places.end.saturating_sub(1));
        if ports.memory.read_obj::<u8>(last).is_err() {
            return Err(KvmError::Shape("guest RAM"));
        }
        let queue = ports.queue;
        if !queue.indirect || queue.desc_table.0 != places.rings || queue.size != self.queue_size() {
            return Err(KvmError::Shape("queue"));
        }
        Ok(())
    }

    pub(super) fn table(&self, memory: &Arc<GuestMemoryMmap>) -> Table {
        Table {
            memory: Arc::clone(memory),
            entries: DRIVER,
            data: self.places().data,
            stride: self.stride(),
            block_bytes: self.block_bytes,
            room: self.room(),
        }
    }

    /// Initializes the data of a driver that has just found its device: every head is free, and its
    /// descriptor points to an indirect table of three. Returns the initial control block.
    pub(super) fn lay_out(&self, ports: &GuestPorts) -> Result<Control, KvmError> {
        let (places, queue) = (self.places(), ports.queue);
        for head in 0..queue.size {
            let index = u64::from(head);
            let table = Descriptor { addr: 0, len: 3 * 16, flags: Descriptor::INDIRECT, next: 0 };
            let at = GuestAddress(queue.desc_table.0 + index * Descriptor::BYTES as u64);
            ports.memory.write_slice(&table.to_bytes(), at)?;
            ports.memory.write_obj(NOBODY, GuestAddress(places.entry_of_head + index * 4))?;
            // The first head is at the top of the stack.
            let free = (queue.size - 1 - head).to_le();
            ports.memory.write_obj(free, GuestAddress(places.heads + index * 2))?;
        }
        Ok(Control {
            entries: DRIVER,
            desc_table: queue.desc_table.0,
            avail_ring: queue.avail_ring.0,
            used_ring: queue.used_ring.0,
            entry_of_head: places.entry_of_head,
            free_end: places.heads + u64::from(queue.size) * 2,
            queue_mask: u32::from(queue.size - 1),
            flags: if queue.event_idx { program::EVENT_IDX } else { 0 },
            ..Control::default()
        })
    }
}

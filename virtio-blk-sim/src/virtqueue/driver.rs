//! The driver half of a split virtqueue.

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use vm_memory::{GuestAddress, GuestMemoryBackend};

use super::error::QueueError;
use super::layout::{Descriptor, QueueConfig, Rings};
use super::segment::Segments;
use super::suppression::{Request, wanted};
use super::translate::Translator;
use crate::memory::GuestMemoryMmap;

/// A guest buffer: its address and its length in bytes.
type Buffer = (GuestAddress, u32);

/// The driver half: makes chains available and takes them off the used ring, like a guest's virtio
/// driver.
///
/// It records which descriptors belong to which chain in its own memory and never reads this back
/// from guest memory. Invalid answers of the device cause an error, never a panic or a descriptor
/// freed twice.
///
/// No method blocks or makes a syscall. The queue is used by one thread at a time and may move
/// between threads if `M` is `Send + Sync`. The guest memory `M` is as for
/// [`DeviceQueue`](super::DeviceQueue#guest-memory).
///
/// The last group of methods writes the rings directly, without any bookkeeping, to simulate a
/// driver that violates the protocol.
#[derive(Debug)]
pub struct DriverQueue<M = GuestMemoryMmap> {
    rings: Rings<M>,
    tables: Translator<M>,
    /// The indirect table being written. It lies in the memory that `tables` holds.
    table: Segments,
    /// For each descriptor the next one in the free list or in the chain it belongs to.
    links: Box<[u16]>,
    /// The first descriptor of the free list, if `free` is not 0.
    free_head: u16,
    free: u16,
    /// The chain of each head; `None` if the descriptor is not the head of a chain in flight.
    chains: Box<[Option<InFlight>]>,
    in_flight: u16,
    /// Index of the next avail entry to write.
    next_avail: u16,
    /// avail.idx at the last decision whether to kick.
    published: u16,
    /// used.idx as last read.
    used_idx: u16,
    /// Index of the next used entry to read.
    next_used: u16,
    interrupts: Request,
    event_idx: bool,
    indirect: bool,
}

#[derive(Clone, Copy, Debug)]
struct InFlight {
    descriptors: u16,
    writable_bytes: u64,
}

impl<M: GuestMemoryBackend + 'static> DriverQueue<M> {
    /// Creates the rings in guest memory, zeroed, with all descriptors free. Call this before the
    /// device half is created.
    ///
    /// # Errors
    /// As [`DeviceQueue::new`](super::DeviceQueue::new): a bad size, a misaligned part, a part
    /// outside guest memory.
    pub fn new(mem: Arc<M>, config: QueueConfig) -> Result<Self, QueueError> {
        Self::starting_at(mem, config, 0)
    }

    /// Like [`DriverQueue::new`], but the indices start at `index`, as if that many chains had
    /// already been completed. Used with [`DeviceQueue::resume`](super::DeviceQueue::resume), and
    /// to test where the 16-bit indices wrap.
    pub fn starting_at(mem: Arc<M>, config: QueueConfig, index: u16) -> Result<Self, QueueError> {
        let rings = Rings::new(&mem, &config)?;
        let size = rings.size();
        for at in 0..size {
            rings.set_descriptor(at, Descriptor::default());
            rings.avail_entry(at).store(0, Ordering::Relaxed);
            rings.set_used_entry(at, 0, 0);
        }
        for event_idx in [false, true] {
            let request = if event_idx { index } else { 0 };
            rings.interrupt_request(event_idx).store(request, Ordering::Relaxed);
            rings.kick_request(event_idx).store(request, Ordering::Relaxed);
        }
        rings.used_idx().store(index, Ordering::Relaxed);
        rings.avail_idx().store(index, Ordering::Release);
        Ok(Self {
            rings,
            tables: Translator::new(mem),
            table: Segments::default(),
            links: (0..size).map(|at| at.wrapping_add(1)).collect(),
            free_head: 0,
            free: size,
            chains: vec![None; usize::from(size)].into_boxed_slice(),
            in_flight: 0,
            next_avail: index,
            published: index,
            used_idx: index,
            next_used: index,
            interrupts: Request::new(config.event_idx),
            event_idx: config.event_idx,
            indirect: config.indirect,
        })
    }

    /// Adds a chain with one descriptor per buffer, the device-readable ones first. Returns its
    /// head, or `None` if there are not enough free descriptors now.
    ///
    /// The device sees the chain after [`DriverQueue::publish`]. Addresses and lengths are written
    /// without checks; the device must check them.
    ///
    /// # Errors
    /// [`QueueError::EmptyChain`] without buffers, [`QueueError::ChainTooLong`] with more buffers
    /// than the queue has entries.
    pub fn add(&mut self, readable: &[Buffer], writable: &[Buffer]) -> Result<Option<u16>, QueueError> {
        self.put(None, readable, writable)
    }

    /// Adds a chain whose descriptors are in an indirect table at `table`. The table takes 16 bytes
    /// per buffer and must not be reused before the chain is completed. One descriptor of the queue
    /// is used.
    ///
    /// # Errors
    /// As [`DriverQueue::add`], and [`QueueError::IndirectNotNegotiated`], and
    /// [`QueueError::IndirectUnmapped`] if the table is outside guest memory.
    pub fn add_indirect(
        &mut self,
        table: GuestAddress,
        readable: &[Buffer],
        writable: &[Buffer],
    ) -> Result<Option<u16>, QueueError> {
        self.put(Some((0, table)), readable, writable)
    }

    /// Adds a chain whose first `direct` buffers have descriptors in the queue and whose other
    /// buffers are in an indirect table at `table`. Drivers rarely do this, but a device must
    /// accept it (virtio 1.2, section 2.7.5.3.2).
    ///
    /// # Errors
    /// As [`DriverQueue::add_indirect`], and [`QueueError::EmptyChain`] if no buffer is left for
    /// the table.
    pub fn add_mixed(
        &mut self,
        direct: u16,
        table: GuestAddress,
        readable: &[Buffer],
        writable: &[Buffer],
    ) -> Result<Option<u16>, QueueError> {
        self.put(Some((direct, table)), readable, writable)
    }

    /// `table`: the number of buffers before the indirect table, and the address of the table.
    fn put(
        &mut self,
        table: Option<(u16, GuestAddress)>,
        readable: &[Buffer],
        writable: &[Buffer],
    ) -> Result<Option<u16>, QueueError> {
        if table.is_some() && !self.indirect {
            return Err(QueueError::IndirectNotNegotiated);
        }
        let limit = self.rings.size();
        let total = match u16::try_from(readable.len().saturating_add(writable.len())) {
            Ok(total) if total <= limit => total,
            _ => return Err(QueueError::ChainTooLong { limit }),
        };
        let direct = table.map_or(total, |(direct, _)| direct);
        let in_table = match total.checked_sub(direct) {
            Some(0) if table.is_some() => return Err(QueueError::EmptyChain),
            Some(rest) if total > 0 => rest,
            _ => return Err(QueueError::EmptyChain),
        };
        let needed = direct + u16::from(in_table > 0);
        if needed > self.free {
            return Ok(None);
        }

        let pieces = readable
            .iter()
            .map(|&(addr, len)| Descriptor { addr: addr.0, len, flags: 0, next: 0 })
            .chain(writable.iter().map(|&(addr, len)| Descriptor {
                addr: addr.0,
                len,
                flags: Descriptor::WRITE,
                next: 0,
            }));
        let table = match table {
            None => None,
            Some((_, at)) => {
                Some(self.write_table(at, in_table, pieces.clone().skip(usize::from(direct)))?)
            }
        };

        let head = self.free_head;
        let mut at = head;
        for (position, mut descriptor) in (1..=needed).zip(pieces.take(usize::from(direct)).chain(table)) {
            let index = at;
            at = self.links[usize::from(index)];
            if position < needed {
                descriptor.flags |= Descriptor::NEXT;
                descriptor.next = at;
            }
            self.rings.set_descriptor(index, descriptor);
        }
        self.free_head = at;
        self.free -= needed;
        let writable_bytes = writable.iter().map(|&(_, len)| u64::from(len)).sum();
        self.chains[usize::from(head)] = Some(InFlight { descriptors: needed, writable_bytes });
        self.in_flight += 1;

        self.rings.avail_entry(self.next_avail).store(head, Ordering::Relaxed);
        self.next_avail = self.next_avail.wrapping_add(1);
        Ok(Some(head))
    }

    /// Writes an indirect table of `entries` descriptors and returns the descriptor that refers to
    /// it.
    fn write_table(
        &mut self,
        table: GuestAddress,
        entries: u16,
        pieces: impl Iterator<Item = Descriptor>,
    ) -> Result<Descriptor, QueueError> {
        let bytes = u32::from(entries) * Descriptor::BYTES as u32;
        self.table.clear();
        self.tables
            .translate(table.0, bytes, |segment| self.table.push(segment))
            .map_err(|_| QueueError::IndirectUnmapped { addr: table.0, len: bytes })?;
        for (next, mut descriptor) in (1..=entries).zip(pieces) {
            if next < entries {
                descriptor.flags |= Descriptor::NEXT;
                descriptor.next = next;
            }
            self.table.copy_from(u64::from(next - 1) * Descriptor::BYTES as u64, &descriptor.to_bytes());
        }
        Ok(Descriptor { addr: table.0, len: bytes, flags: Descriptor::INDIRECT, next: 0 })
    }

    /// Makes all chains added so far visible to a device that polls. It does not check whether the
    /// device wants a kick; the next [`DriverQueue::publish`] does, so that its full fence is paid
    /// once for several.
    #[inline]
    pub fn show(&mut self) {
        // Release pairs with the Acquire load of avail.idx in `DeviceQueue::pop`: avail entries,
        // descriptors and request bytes become visible before the index.
        self.rings.avail_idx().store(self.next_avail, Ordering::Release);
    }

    /// Makes all chains added so far visible to the device. Returns true if the device wants a kick
    /// for the chains added since the last call: the caller must then signal the ioeventfd.
    #[inline]
    #[must_use = "true means that the device waits for a kick"]
    pub fn publish(&mut self) -> bool {
        let old = self.published;
        let new = self.next_avail;
        if old == new {
            return false;
        }
        self.show();
        self.published = new;
        // Pairs with the fence in `DeviceQueue::enable_kicks`, which explains the cases.
        fence(Ordering::SeqCst);
        wanted(self.event_idx, self.rings.kick_request(self.event_idx), old, new)
    }

    /// Takes the next completed chain off the used ring. Returns its head and the number of bytes
    /// that the device reports as written, or `None` if there is no completed chain.
    ///
    /// # Errors
    /// [`QueueError::UsedIndex`], [`QueueError::UsedHead`] or [`QueueError::UsedLength`] if the
    /// device violated the protocol. The queue is not changed, so the next call returns the same
    /// error.
    #[inline]
    pub fn pop_used(&mut self) -> Result<Option<(u16, u32)>, QueueError> {
        if self.used_idx == self.next_used {
            // Acquire pairs with the Release store of used.idx in `DeviceQueue::publish`.
            let to = self.rings.used_idx().load(Ordering::Acquire);
            let (from, in_flight) = (self.next_used, self.in_flight);
            if to == from {
                return Ok(None);
            }
            if to.wrapping_sub(from) > in_flight {
                return Err(QueueError::UsedIndex { from, to, in_flight });
            }
            self.used_idx = to;
        }
        let (id, written) = self.rings.used_entry(self.next_used);
        let unknown = QueueError::UsedHead { head: id };
        let head = u16::try_from(id).map_err(|_| unknown)?;
        let slot = self.chains.get_mut(usize::from(head)).ok_or(unknown)?;
        let InFlight { descriptors, writable_bytes } = (*slot).ok_or(unknown)?;
        if u64::from(written) > writable_bytes {
            return Err(QueueError::UsedLength { head, written, writable: writable_bytes });
        }
        *slot = None;
        self.in_flight -= 1;
        self.release(head, descriptors);
        self.next_used = self.next_used.wrapping_add(1);
        Ok(Some((head, written)))
    }

    /// Returns the descriptors of a chain to the free list.
    #[inline]
    fn release(&mut self, head: u16, descriptors: u16) {
        let mut last = head;
        for _ in 1..descriptors {
            last = self.links[usize::from(last)];
        }
        self.links[usize::from(last)] = self.free_head;
        self.free_head = head;
        self.free += descriptors;
    }

    /// Returns true if [`DriverQueue::pop_used`] would find an entry. Costs at most one load; for
    /// polling.
    #[inline]
    pub fn has_used(&self) -> bool {
        self.used_idx != self.next_used || self.rings.used_idx().load(Ordering::Relaxed) != self.next_used
    }

    /// Asks the device not to interrupt. A hint: interrupts may still come.
    #[inline]
    pub fn disable_interrupts(&mut self) {
        self.interrupts.disable(self.rings.used_idx(), self.rings.interrupt_request(self.event_idx));
    }

    /// Asks the device to interrupt for the next chain it completes. Returns true if used entries
    /// have already arrived for which no interrupt may come: take them before sleeping.
    #[inline]
    #[must_use = "true means that there are used entries for which no interrupt will come"]
    pub fn enable_interrupts(&mut self) -> bool {
        self.interrupts.enable(self.next_used, self.rings.interrupt_request(self.event_idx));
        // Pairs with the fence in `DeviceQueue::publish`, which explains the cases.
        fence(Ordering::SeqCst);
        self.has_used()
    }

    /// Returns the number of chains added and not taken off the used ring yet.
    pub fn in_flight(&self) -> u16 {
        self.in_flight
    }

    /// Returns the number of free descriptors.
    pub fn free_descriptors(&self) -> u16 {
        self.free
    }

    /// Returns the number of entries of the queue.
    pub fn size(&self) -> u16 {
        self.rings.size()
    }

    /// Writes entry `index` of the descriptor table without checks. Does nothing if there is no
    /// such entry.
    pub fn write_desc(&mut self, index: u16, descriptor: Descriptor) {
        self.rings.set_descriptor(index, descriptor);
    }

    /// Copies entry `index` of the descriptor table. Returns `None` if there is no such entry.
    pub fn read_desc(&self, index: u16) -> Option<Descriptor> {
        self.rings.descriptor(index)
    }

    /// Writes any number as `head` into the avail entry of index `at` (taken modulo the queue
    /// size).
    pub fn write_avail(&mut self, at: u16, head: u16) {
        self.rings.avail_entry(at).store(head, Ordering::Relaxed);
    }

    /// Sets avail.idx to `index`.
    pub fn set_avail_idx(&mut self, index: u16) {
        self.rings.avail_idx().store(index, Ordering::Release);
    }

    /// Writes any values to avail.flags and used_event.
    pub fn write_interrupt_requests(&mut self, flags: u16, used_event: u16) {
        self.rings.interrupt_request(false).store(flags, Ordering::Relaxed);
        self.rings.interrupt_request(true).store(used_event, Ordering::Relaxed);
    }

    /// Overwrites used.idx and the entry of index `at` in the used ring, which only the device may
    /// write.
    pub fn overwrite_used(&mut self, used_idx: u16, at: u16, id: u32, len: u32) {
        self.rings.set_used_entry(at, id, len);
        self.rings.used_idx().store(used_idx, Ordering::Release);
    }

    /// Reads used.idx.
    pub fn used_idx(&self) -> u16 {
        self.rings.used_idx().load(Ordering::Acquire)
    }

    /// Reads the used entry of index `at`: id and len.
    pub fn used_entry(&self, at: u16) -> (u32, u32) {
        self.rings.used_entry(at)
    }
}

//! Which requests are in flight, noted where a kill does not reach: the region of GET_INFLIGHT_FD
//! and SET_INFLIGHT_FD.
//!
//! The backend makes a memfd, the frontend keeps it and gives it to whoever serves the device next
//! (specification, "Inflight I/O tracking"). For each queue it holds
//!
//! ```text
//! features u64 = 0, version u16 = 1, desc_num u16, last_batch_head u16, used_idx u16,
//! desc_num x { inflight u8, padding u8 x 5, next u16, counter u64 }
//! ```
//!
//! in native byte order, the regions of the queues one after another at multiples of 64 bytes.
//! Beside the virtqueue it is kept so:
//!
//! ```text
//! DeviceQueue::pop      then  InflightQueue::pop         counter = the next number; inflight = 1
//! DeviceQueue::push     then  InflightQueue::push        next = last_batch_head; last_batch_head = the head
//! DeviceQueue::publish  then  InflightQueue::published   inflight = 0 for each of the batch; used_idx = used.idx
//! ```
//!
//! A head with inflight = 1 has been taken and not been answered, but for those of a batch whose
//! used.idx is stored already: then the used_idx here is behind the ring's, by the size of the
//! batch, and the batch is the first so many heads of the list from `last_batch_head`. (Further on
//! the list goes through older batches and means nothing.) [`InflightRegion::open`] tells the two
//! apart. A kill before `inflight = 1` leaves the head to be popped again, for the next index to
//! pop is *derived*: used.idx plus the number of heads in flight.
//!
//! # Order of the stores
//!
//! It is the process that dies, not the machine. What a thread has stored in shared memory stays
//! stored, and another process finds it as far as the thread had come, in the order in which the
//! *instructions* stood. So no fence is needed, but the compiler must not reorder. Every store to
//! the region is a Release store, as that of used.idx in
//! [`DeviceQueue::publish`](crate::virtqueue::DeviceQueue::publish) is: none of them moves before a
//! store that is written above it. On x86 that is an ordinary store.
#![expect(
    unsafe_code,
    reason = "the region is memory shared with the frontend, reached through a checked pointer"
)]

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU64, Ordering};

use super::mapping::{Mapping, MappingError};
use super::{Inflight, sigbus};
use crate::memory::sealed_memfd;

/// The version that is written here, and the only one there is.
const VERSION: u16 = 1;

/// The largest split virtqueue (virtio 1.2, section 2.7).
const MAX_QUEUE_SIZE: u16 = 32768;

/// What the region of each queue starts at a multiple of, as in libvhost-user and DPDK.
const QUEUE_ALIGN: u64 = 64;

/// Why an in-flight region was not made, refused, or not recovered from.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InflightError {
    /// Too many queues, or none.
    #[error("an in-flight region for {asked} queues: the device has 1 to {max}")]
    Queues {
        /// How many were announced.
        asked: u16,
        /// How many the device has.
        max: u16,
    },
    /// A size that no split virtqueue has.
    #[error("an in-flight region for queues of {size} entries: they have 1 to 32768")]
    QueueSize {
        /// The size that was announced.
        size: u16,
    },
    /// The announced size is less than the announced queues need.
    #[error("an in-flight region of {have} bytes: its queues need {need}")]
    TooSmall {
        /// Bytes announced.
        have: u64,
        /// Bytes that the queues need.
        need: u64,
    },
    /// The fields would lie across their natural boundaries.
    #[error("an in-flight region at offset {offset:#x}, which is not a multiple of 8")]
    Misaligned {
        /// Where the region begins in the file, in bytes.
        offset: u64,
    },
    /// The file cannot be mapped.
    #[error("cannot map the in-flight region: {0}")]
    Mapping(#[from] MappingError),
    /// The file cannot be made.
    #[error("cannot make an in-flight region: {0}")]
    Create(#[source] io::Error),
    /// A queue that the region has no place for.
    #[error("queue {queue} of {size} entries: the in-flight region has {queues} queues of {queue_size}")]
    NoPlace {
        /// The queue.
        queue: u16,
        /// Its size in entries.
        size: u16,
        /// Queues of the region.
        queues: u16,
        /// Entries for each.
        queue_size: u16,
    },
    /// Somebody else wrote the region, or overwrote it.
    #[error(
        "the in-flight region of queue {queue} has version {version}, features {features:#x} and {desc_num} entries: expected version 1, no features and {queue_size} entries"
    )]
    Layout {
        /// The queue.
        queue: u16,
        /// Its version field.
        version: u16,
        /// Its features field.
        features: u64,
        /// Its desc_num field.
        desc_num: u16,
        /// What desc_num has to be.
        queue_size: u16,
    },
    /// The region and the used ring do not belong together.
    #[error(
        "queue {queue}: used.idx is {in_ring}, the in-flight region says {in_region}, and no batch explains it"
    )]
    Batch {
        /// The queue.
        queue: u16,
        /// used.idx of the ring.
        in_ring: u16,
        /// used_idx of the region.
        in_region: u16,
    },
}

/// The in-flight region of a device. Keeps the memory mapped, as each of its queues does.
#[derive(Debug, Clone)]
pub struct InflightRegion {
    /// Invariant: mapped from a multiple of 8 on, and as large as `queues` times
    /// `queue_bytes(queue_size)`.
    mapping: Arc<Mapping>,
    queues: u16,
    queue_size: u16,
}

/// A queue as its last backend left it, by [`InflightRegion::open`].
#[derive(Debug)]
pub struct Recovered {
    /// Where to note what is in flight from now on. The heads below are noted already.
    pub queue: InflightQueue,
    /// The heads that were taken and not answered, in the order in which they were taken.
    pub heads: Vec<u16>,
    /// Index of the next chain to pop.
    pub next_avail: u16,
}

/// The notes of one running queue. Belongs to whoever has the
/// [`DeviceQueue`](crate::virtqueue::DeviceQueue).
///
/// No method blocks, allocates or makes a system call, and each stores as often as it is written
/// above.
#[derive(Debug)]
pub struct InflightQueue {
    region: QueueRegion,
    /// Number of the next request.
    counter: u64,
    /// last_batch_head. Never read back from the region while the queue runs.
    last: u16,
    /// used_idx, likewise.
    used_idx: u16,
    /// Heads pushed since the last `published`.
    batch: u16,
}

impl InflightRegion {
    /// Makes a region that no queue has been noted in yet: the answer to GET_INFLIGHT_FD, which
    /// asks for `num_queues` and `queue_size` of `request`. The file is sealed: who holds it can
    /// write it and cannot resize it.
    ///
    /// The backend keeps nothing of it. The frontend sends it back by SET_INFLIGHT_FD before it
    /// starts the queues.
    ///
    /// # Errors
    /// [`InflightError::Queues`] for more than `max_queues`, [`InflightError::QueueSize`],
    /// [`InflightError::Create`].
    pub fn create(request: &Inflight, max_queues: u16) -> Result<(Inflight, OwnedFd), InflightError> {
        let size = needed(request, max_queues)?;
        let file = sealed_memfd(c"vhost-user-inflight", size).map_err(InflightError::Create)?;
        let made = Inflight { mmap_size: size, mmap_offset: 0, ..*request };
        Ok((made, file.into()))
    }

    /// Maps the region of a SET_INFLIGHT_FD: one that [`InflightRegion::create`] made, in this
    /// process or in one that is no more, if the frontend is honest. The descriptor is closed, in
    /// every case.
    ///
    /// # Errors
    /// Any but those of creating and of [`InflightRegion::open`].
    pub fn adopt(description: &Inflight, fd: OwnedFd, max_queues: u16) -> Result<Self, InflightError> {
        let &Inflight { mmap_size, mmap_offset, num_queues, queue_size } = description;
        let need = needed(description, max_queues)?;
        if mmap_size < need {
            return Err(InflightError::TooSmall { have: mmap_size, need });
        }
        if !mmap_offset.is_multiple_of(align_of::<Header>() as u64) {
            return Err(InflightError::Misaligned { offset: mmap_offset });
        }
        Ok(Self {
            mapping: Arc::new(Mapping::new(fd, mmap_offset, mmap_size)?),
            queues: num_queues,
            queue_size,
        })
    }

    /// Takes queue `index`, of `size` entries and with `used_idx` in its used ring
    /// ([`DeviceQueue::used_idx_in_ring`](crate::virtqueue::DeviceQueue::used_idx_in_ring)), over
    /// from whoever served it before. If that was nobody, nothing is in flight.
    ///
    /// Next comes [`DeviceQueue::resume`](crate::virtqueue::DeviceQueue::resume) with the two
    /// indices, then [`DeviceQueue::resubmit`](crate::virtqueue::DeviceQueue::resubmit) for each
    /// head in turn, then the first pop. What the frontend says by SET_VRING_BASE means nothing
    /// then. The last backend may have been killed between used.idx and the interrupt for it, so
    /// interrupt the driver once, whatever there is to do. One backend at a time opens a queue.
    /// This may be killed and done again, like everything else here.
    ///
    /// # Errors
    /// [`InflightError::NoPlace`], [`InflightError::Layout`], [`InflightError::Batch`].
    pub fn open(&self, index: u16, size: u16, used_idx: u16) -> Result<Recovered, InflightError> {
        let (queues, queue_size) = (self.queues, self.queue_size);
        if index >= queues || size > queue_size {
            return Err(InflightError::NoPlace { queue: index, size, queues, queue_size });
        }
        let region = self.queue_region(index);
        let header = region.header();
        match header.version.load(Ordering::Acquire) {
            0 => region.initialise(),
            version => {
                let features = header.features.load(Ordering::Relaxed);
                let desc_num = header.desc_num.load(Ordering::Relaxed);
                if (version, features, desc_num) != (VERSION, 0, queue_size) {
                    return Err(InflightError::Layout {
                        queue: index,
                        version,
                        features,
                        desc_num,
                        queue_size,
                    });
                }
            }
        }
        let in_region = header.used_idx.load(Ordering::Relaxed);
        region.clear_published(in_region, used_idx).ok_or(InflightError::Batch {
            queue: index,
            in_ring: used_idx,
            in_region,
        })?;

        let mut in_flight = region.in_flight();
        in_flight.sort_unstable();
        let heads: Vec<u16> = in_flight.iter().map(|&(_, head)| head).collect();
        Ok(Recovered {
            next_avail: used_idx.wrapping_add(heads.len() as u16),
            heads,
            queue: InflightQueue {
                counter: in_flight.last().map_or(0, |&(counter, _)| counter.wrapping_add(1)),
                last: header.last_batch_head.load(Ordering::Relaxed),
                used_idx,
                batch: 0,
                region,
            },
        })
    }

    /// Whether the frontend has taken pages of the region away; see
    /// [`MemoryTable::is_broken`](super::MemoryTable::is_broken).
    #[inline]
    pub fn is_broken(&self) -> bool {
        sigbus::faults() > 0 && self.mapping.is_broken()
    }

    /// `index` is less than `queues`.
    fn queue_region(&self, index: u16) -> QueueRegion {
        let offset = u64::from(index) * queue_bytes(self.queue_size);
        QueueRegion {
            header: self.mapping.as_ptr().wrapping_add(offset as usize).cast(),
            entries: self.queue_size,
            _mapping: Arc::clone(&self.mapping),
        }
    }
}

impl InflightQueue {
    /// The chain `head` has been popped and is about to be carried out.
    #[inline]
    pub fn pop(&mut self, head: u16) {
        let Some(entry) = self.region.entry(head) else {
            debug_assert!(false, "a queue of the size that was opened popped head {head}");
            return;
        };
        step(|| entry.counter.store(self.counter, Ordering::Release));
        step(|| entry.inflight.store(1, Ordering::Release));
        self.counter = self.counter.wrapping_add(1);
    }

    /// The chain `head` has been pushed, and will be published with all others that are. Not for a
    /// queue that is broken: it pushes nothing.
    #[inline]
    pub fn push(&mut self, head: u16) {
        let Some(entry) = self.region.entry(head) else {
            debug_assert!(false, "a queue of the size that was opened pushed head {head}");
            return;
        };
        step(|| entry.next.store(self.last, Ordering::Release));
        step(|| self.region.header().last_batch_head.store(head, Ordering::Release));
        self.last = head;
        self.batch = self.batch.wrapping_add(1);
    }

    /// used.idx has been moved past everything that was pushed. Before the next push, and before
    /// the next pop; not for a queue that is broken, nor for guest memory that is, whose used.idx
    /// nobody will see.
    #[inline]
    pub fn published(&mut self) {
        if self.batch == 0 {
            return;
        }
        let mut head = self.last;
        for _ in 0..self.batch {
            // A head that the frontend wrote in between leads to where the frontend wants, in its
            // own region.
            let Some(entry) = self.region.entry(head) else {
                break;
            };
            head = entry.next.load(Ordering::Relaxed);
            step(|| entry.inflight.store(0, Ordering::Release));
        }
        self.used_idx = self.used_idx.wrapping_add(std::mem::take(&mut self.batch));
        step(|| self.region.header().used_idx.store(self.used_idx, Ordering::Release));
    }
}

/// What stands before the entries of a queue (specification, `QueueRegionSplit`).
#[derive(Debug)]
#[repr(C)]
struct Header {
    features: AtomicU64,
    version: AtomicU16,
    desc_num: AtomicU16,
    last_batch_head: AtomicU16,
    used_idx: AtomicU16,
}

/// What is noted of one head (specification, `DescStateSplit`).
#[derive(Debug)]
#[repr(C)]
struct Entry {
    inflight: AtomicU8,
    padding: [AtomicU8; 5],
    next: AtomicU16,
    counter: AtomicU64,
}

const _: () = assert!(size_of::<Header>() == 16 && size_of::<Entry>() == 16);
const _: () = assert!(std::mem::offset_of!(Entry, next) == 6 && std::mem::offset_of!(Entry, counter) == 8);

/// Bytes of a queue's region, a multiple of [`QUEUE_ALIGN`].
fn queue_bytes(queue_size: u16) -> u64 {
    (size_of::<Header>() as u64 + size_of::<Entry>() as u64 * u64::from(queue_size))
        .next_multiple_of(QUEUE_ALIGN)
}

/// Bytes of the region that is described, if it can be.
fn needed(description: &Inflight, max_queues: u16) -> Result<u64, InflightError> {
    let &Inflight { num_queues, queue_size, .. } = description;
    if !(1..=max_queues).contains(&num_queues) {
        return Err(InflightError::Queues { asked: num_queues, max: max_queues });
    }
    if !(1..=MAX_QUEUE_SIZE).contains(&queue_size) {
        return Err(InflightError::QueueSize { size: queue_size });
    }
    Ok(u64::from(num_queues) * queue_bytes(queue_size))
}

/// One queue's part of the region. The frontend can write it at any time, so everything in it is
/// atomic and nothing in it is an index before it has been compared.
#[derive(Debug)]
struct QueueRegion {
    /// Invariant: aligned, and followed by `entries` entries, all mapped while `_mapping` lives.
    header: *const Header,
    entries: u16,
    _mapping: Arc<Mapping>,
}

// SAFETY: the pointer goes to memory that `_mapping` keeps mapped wherever this value is, and every
// access is atomic.
unsafe impl Send for QueueRegion {}

impl QueueRegion {
    #[inline]
    fn header(&self) -> &Header {
        // SAFETY: mapped and aligned (the invariant), and all of it is atomics, which the frontend
        // may change.
        unsafe { &*self.header }
    }

    #[inline]
    fn entries(&self) -> &[Entry] {
        // The header's size is a multiple of the entries' alignment.
        let first = self.header.wrapping_add(1).cast::<Entry>();
        // SAFETY: as for `header`.
        unsafe { std::slice::from_raw_parts(first, usize::from(self.entries)) }
    }

    #[inline]
    fn entry(&self, head: u16) -> Option<&Entry> {
        self.entries().get(usize::from(head))
    }

    /// Nothing is in flight. The version comes last: without it, this is done again.
    fn initialise(&self) {
        let header = self.header();
        for entry in self.entries() {
            step(|| entry.inflight.store(0, Ordering::Release));
        }
        step(|| header.features.store(0, Ordering::Release));
        step(|| header.desc_num.store(self.entries, Ordering::Release));
        step(|| header.last_batch_head.store(0, Ordering::Release));
        step(|| header.version.store(VERSION, Ordering::Release));
    }

    /// Finishes what `InflightQueue::published` was killed in, if it was. `None` if the two indices
    /// are of different stories.
    fn clear_published(&self, in_region: u16, in_ring: u16) -> Option<()> {
        let batch = in_ring.wrapping_sub(in_region);
        if batch == 0 {
            return Some(());
        }
        let header = self.header();
        if self.in_flight().is_empty() {
            // A new region; or all that was missing is the index; or the ring was drained and set
            // up anew by the driver.
            step(|| header.used_idx.store(in_ring, Ordering::Release));
            return Some(());
        }
        if batch > self.entries {
            return None;
        }
        let mut head = header.last_batch_head.load(Ordering::Relaxed);
        for _ in 0..batch {
            let entry = self.entry(head)?;
            head = entry.next.load(Ordering::Relaxed);
            step(|| entry.inflight.store(0, Ordering::Release));
        }
        step(|| header.used_idx.store(in_ring, Ordering::Release));
        Some(())
    }

    /// Counter and head of each chain in flight.
    fn in_flight(&self) -> Vec<(u64, u16)> {
        (0..)
            .zip(self.entries())
            .filter(|(_, entry)| entry.inflight.load(Ordering::Relaxed) != 0)
            .map(|(head, entry)| (entry.counter.load(Ordering::Relaxed), head))
            .collect()
    }
}

/// Makes one store to the region. The process may be killed before each, and so tests do.
#[inline(always)]
fn step(store: impl FnOnce()) {
    #[cfg(test)]
    tests::kill_point();
    store();
}

#[cfg(test)]
mod tests;

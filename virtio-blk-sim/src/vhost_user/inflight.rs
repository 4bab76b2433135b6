//! Records which requests are in flight, in memory that survives when this process is killed: the
//! region of GET_INFLIGHT_FD and SET_INFLIGHT_FD.
//!
//! The backend creates a memfd. The frontend keeps it and passes it to the next backend that serves
//! the device (specification, "Inflight I/O tracking"). For each queue it contains
//!
//! ```text
//! features u64 = 0, version u16 = 1, desc_num u16, last_batch_head u16, used_idx u16,
//! desc_num x { inflight u8, padding u8 x 5, next u16, counter u64 }
//! ```
//!
//! in native byte order. The regions of the queues follow each other, each starting at a multiple
//! of 64 bytes.
//!
//! A frontend asks for a region before the driver has chosen the sizes of its rings. QEMU 10.0 asks
//! for rings of 128 entries and then starts rings of up to 1024. So behind the regions that were
//! asked for there is a second one for each queue, with 1024 entries, which only such a ring uses.
//! A backend that knows nothing of them finds the region that it expects.
//!
//! The region is updated together with the virtqueue:
//!
//! ```text
//! DeviceQueue::pop      then  InflightQueue::popped     counter = the next number; inflight = 1
//! DeviceQueue::push     then  InflightQueue::pushed     next = last_batch_head;
//!                                                       last_batch_head = the head
//! DeviceQueue::publish  then  InflightQueue::published  inflight = 0 for the whole batch;
//!                                                       used_idx = used.idx
//! ```
//!
//! A head with inflight = 1 was popped and not yet answered. The exception is a batch whose
//! used.idx is already stored when the process is killed: then used_idx in the region is behind
//! used.idx of the ring by the size of the batch, and the heads of the batch are the first entries
//! of the list that starts at `last_batch_head`. (The rest of the list leads through older batches
//! and is meaningless.) [`InflightRegion::open`] distinguishes the two cases. After a kill before
//! `inflight = 1` the head is popped again, because the next index to pop is *derived*: used.idx
//! plus the number of heads in flight.
//!
//! # Order of the stores
//!
//! The process dies, not the machine. Everything that a thread stored in shared memory before it
//! was killed stays there for the next process, in the order of the *instructions*. So no fence is
//! needed, but the compiler must not reorder the stores. Every store to the region is a Release
//! store, as is the store of used.idx in
//! [`DeviceQueue::publish`](crate::virtqueue::DeviceQueue::publish), so that none of them moves
//! before a store that precedes it in the source. On x86 a Release store is an ordinary store.
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
use crate::queue::InFlightLog;

/// The version of the format, the only one that exists.
const VERSION: u16 = 1;

/// The largest split virtqueue (virtio 1.2, section 2.7).
const MAX_QUEUE_SIZE: u16 = 32768;

/// Entries of the second region of a queue: the largest ring that QEMU has (`VIRTQUEUE_MAX_SIZE`).
const ROOM: u16 = 1024;

/// The alignment of each queue's region, as in libvhost-user and DPDK.
const QUEUE_ALIGN: u64 = 64;

/// Why an in-flight region could not be created, mapped, or recovered from.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InflightError {
    /// Too many queues, or none.
    #[error("an in-flight region for {asked} queues: the number must be 1 to {max}")]
    Queues {
        /// Number of queues in the message.
        asked: u16,
        /// Number of queues of the device, which is the maximum.
        max: u16,
    },
    /// A queue size that no split virtqueue can have.
    #[error("an in-flight region for queues of {size} entries: the size must be 1 to 32768")]
    QueueSize {
        /// Queue size in the message.
        size: u16,
    },
    /// The announced size is too small for the announced queues.
    #[error("an in-flight region of {have} bytes: its queues need {need}")]
    TooSmall {
        /// Announced size in bytes.
        have: u64,
        /// Size that the queues need, in bytes.
        need: u64,
    },
    /// The fields would not be naturally aligned.
    #[error("an in-flight region at offset {offset:#x}, which is not a multiple of 8")]
    Misaligned {
        /// Offset of the region in the file, in bytes.
        offset: u64,
    },
    /// The file could not be mapped.
    #[error("cannot map the in-flight region: {0}")]
    Mapping(#[from] MappingError),
    /// The file could not be created.
    #[error("cannot create an in-flight region: {0}")]
    Create(#[source] io::Error),
    /// The region has no entry for this queue, or its entry is too small.
    #[error("queue {queue} of {size} entries: the in-flight region has {queues} queues of {queue_size}")]
    NoPlace {
        /// The queue index.
        queue: u16,
        /// Size of the queue in entries.
        size: u16,
        /// Number of queues in the region.
        queues: u16,
        /// Number of entries per queue in the region.
        queue_size: u16,
    },
    /// The region was written by other software, or overwritten.
    #[error(
        "the in-flight region of queue {queue} has version {version}, features {features:#x} and {desc_num} entries; expected version 1, no features and {queue_size} entries"
    )]
    Layout {
        /// The queue index.
        queue: u16,
        /// The version field.
        version: u16,
        /// The features field.
        features: u64,
        /// The desc_num field.
        desc_num: u16,
        /// The expected value of desc_num.
        queue_size: u16,
    },
    /// The region and the used ring are inconsistent.
    #[error(
        "queue {queue}: used.idx is {in_ring}, the in-flight region says {in_region}, which no unfinished batch can explain"
    )]
    Batch {
        /// The queue index.
        queue: u16,
        /// used.idx in the ring.
        in_ring: u16,
        /// used_idx in the region.
        in_region: u16,
    },
}

/// The in-flight region of a device. It keeps the memory mapped, and so does each of its queues.
#[derive(Debug, Clone)]
pub struct InflightRegion {
    /// Invariant: the mapping starts at a multiple of 8 and has at least `queues` times
    /// `queue_bytes(queue_size)` bytes, and `queues` times `queue_bytes(ROOM)` more if there is
    /// room.
    mapping: Arc<Mapping>,
    queues: u16,
    queue_size: u16,
    has_room: bool,
}

/// The state in which the previous backend left a queue; returned by [`InflightRegion::open`].
#[derive(Debug)]
pub struct Recovered {
    /// Records what is in flight from now on. The heads below are already recorded.
    pub queue: InflightQueue,
    /// The heads that were popped and not answered, in the order in which they were popped.
    pub heads: Vec<u16>,
    /// Index of the next avail entry to pop.
    pub next_avail: u16,
}

/// Records the requests in flight of one running queue. Belongs to the owner of the
/// [`DeviceQueue`](crate::virtqueue::DeviceQueue).
///
/// No method blocks, allocates or makes a system call. Each makes only the stores listed above.
#[derive(Debug)]
pub struct InflightQueue {
    region: QueueRegion,
    /// The number (counter) of the next request.
    counter: u64,
    /// last_batch_head. Not read back from the region while the queue runs.
    last: u16,
    /// used_idx. Also not read back.
    used_idx: u16,
    /// Number of heads pushed since the last call of `published`.
    batch: u16,
}

impl InflightRegion {
    /// Creates a new, empty region: the answer to GET_INFLIGHT_FD, which asks for `num_queues` and
    /// `queue_size` of `request`. The file is sealed: its holder can write it but not resize it.
    ///
    /// The backend does not keep it. The frontend sends it back in SET_INFLIGHT_FD before it starts
    /// the queues.
    ///
    /// # Errors
    /// [`InflightError::Queues`] if there are more than `max_queues`, [`InflightError::QueueSize`],
    /// [`InflightError::Create`].
    pub fn create(request: &Inflight, max_queues: u16) -> Result<(Inflight, OwnedFd), InflightError> {
        let size = needed(request, max_queues)? + room(request);
        let file = sealed_memfd(c"vhost-user-inflight", size).map_err(InflightError::Create)?;
        let made = Inflight { mmap_size: size, mmap_offset: 0, ..*request };
        Ok((made, file.into()))
    }

    /// Maps the region of a SET_INFLIGHT_FD. If the frontend is honest, [`InflightRegion::create`]
    /// made it, in this process or in a previous one. The descriptor is always closed.
    ///
    /// # Errors
    /// Any, except [`InflightError::Create`] and those of [`InflightRegion::open`].
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
            has_room: mmap_size - need >= room(description),
        })
    }

    /// Takes over queue `index` from the backend that served it before. The queue has `size`
    /// entries, and `used_idx` is the value in its used ring
    /// ([`DeviceQueue::used_idx_in_ring`](crate::virtqueue::DeviceQueue::used_idx_in_ring)). If
    /// there was no backend before, nothing is in flight.
    ///
    /// The caller must then call [`DeviceQueue::resume`](crate::virtqueue::DeviceQueue::resume)
    /// with the two indices, [`DeviceQueue::resubmit`](crate::virtqueue::DeviceQueue::resubmit) for
    /// each head in order, and only then pop. The index that the frontend sends in SET_VRING_BASE
    /// must be ignored. The previous backend may have been killed after it stored used.idx and
    /// before it interrupted the driver, so the caller must interrupt the driver once in any case.
    /// Only one backend at a time may open a queue. Like everything else here, this call may be
    /// killed and repeated.
    ///
    /// # Errors
    /// Returns [`InflightError::NoPlace`], [`InflightError::Layout`], or [`InflightError::Batch`].
    pub fn open(&self, index: u16, size: u16, used_idx: u16) -> Result<Recovered, InflightError> {
        let (queues, queue_size) = (self.queues, self.queue_size);
        let fits = size <= queue_size || (self.has_room && size <= ROOM);
        if index >= queues || !fits {
            return Err(InflightError::NoPlace { queue: index, size, queues, queue_size });
        }
        let region = self.queue_region(index, size);
        let queue_size = region.entries;
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

    /// Returns true if the frontend has taken pages of the region away; see
    /// [`MemoryTable::is_broken`](super::MemoryTable::is_broken).
    #[inline]
    pub fn is_broken(&self) -> bool {
        sigbus::faults() > 0 && self.mapping.is_broken()
    }

    /// `index` must be less than `queues`, and `size` must fit.
    fn queue_region(&self, index: u16, size: u16) -> QueueRegion {
        let asked = queue_bytes(self.queue_size);
        let (start, entries) = match size <= self.queue_size {
            true => (u64::from(index) * asked, self.queue_size),
            false => (u64::from(self.queues) * asked + u64::from(index) * queue_bytes(ROOM), ROOM),
        };
        QueueRegion {
            header: self.mapping.as_ptr().wrapping_add(start as usize).cast(),
            entries,
            _mapping: Arc::clone(&self.mapping),
        }
    }
}

impl InFlightLog for InflightQueue {
    #[inline]
    fn popped(&mut self, head: u16) {
        let Some(entry) = self.region.entry(head) else {
            debug_assert!(false, "a queue of the size that was opened popped head {head}");
            return;
        };
        step(|| entry.counter.store(self.counter, Ordering::Release));
        step(|| entry.inflight.store(1, Ordering::Release));
        self.counter = self.counter.wrapping_add(1);
    }

    #[inline]
    fn pushed(&mut self, head: u16) {
        let Some(entry) = self.region.entry(head) else {
            debug_assert!(false, "a queue of the size that was opened pushed head {head}");
            return;
        };
        step(|| entry.next.store(self.last, Ordering::Release));
        step(|| self.region.header().last_batch_head.store(head, Ordering::Release));
        self.last = head;
        self.batch = self.batch.wrapping_add(1);
    }

    #[inline]
    fn published(&mut self) {
        if self.batch == 0 {
            return;
        }
        let mut head = self.last;
        for _ in 0..self.batch {
            // The frontend may have overwritten this head. Then it leads to another entry of the
            // frontend's own region, or out of bounds.
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

/// The header before the entries of a queue (specification, `QueueRegionSplit`).
#[derive(Debug)]
#[repr(C)]
struct Header {
    features: AtomicU64,
    version: AtomicU16,
    desc_num: AtomicU16,
    last_batch_head: AtomicU16,
    used_idx: AtomicU16,
}

/// The entry of one head (specification, `DescStateSplit`).
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

/// Returns the size of a queue's region in bytes, a multiple of [`QUEUE_ALIGN`].
fn queue_bytes(queue_size: u16) -> u64 {
    (size_of::<Header>() as u64 + size_of::<Entry>() as u64 * u64::from(queue_size))
        .next_multiple_of(QUEUE_ALIGN)
}

/// Returns the size in bytes that the described region needs, after checking the description.
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

/// Returns the size in bytes of the second regions of a description that has been checked.
fn room(description: &Inflight) -> u64 {
    let larger = description.queue_size < ROOM;
    if larger { u64::from(description.num_queues) * queue_bytes(ROOM) } else { 0 }
}

/// One queue's part of the region. The frontend can write to it at any time, so all fields are
/// atomic, and a value read from it is bounds-checked before it is used as an index.
#[derive(Debug)]
struct QueueRegion {
    /// Invariant: aligned and followed by `entries` entries. All of it is mapped while `_mapping`
    /// lives.
    header: *const Header,
    entries: u16,
    _mapping: Arc<Mapping>,
}

// SAFETY: the pointer refers to memory that `_mapping` keeps mapped in any thread, and all accesses
// are atomic.
unsafe impl Send for QueueRegion {}

impl QueueRegion {
    #[inline]
    fn header(&self) -> &Header {
        // SAFETY: mapped and aligned (the invariant). All fields are atomics, so the frontend may
        // change them.
        unsafe { &*self.header }
    }

    #[inline]
    fn entries(&self) -> &[Entry] {
        // The size of the header is a multiple of the alignment of the entries.
        let first = self.header.wrapping_add(1).cast::<Entry>();
        // SAFETY: same as for `header`.
        unsafe { std::slice::from_raw_parts(first, usize::from(self.entries)) }
    }

    #[inline]
    fn entry(&self, head: u16) -> Option<&Entry> {
        self.entries().get(usize::from(head))
    }

    /// Initialises an empty region. The version is stored last: without it, initialisation is
    /// repeated.
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

    /// If `InflightQueue::published` was killed before it finished, finishes it. Returns `None` if
    /// the two indices are inconsistent.
    fn clear_published(&self, in_region: u16, in_ring: u16) -> Option<()> {
        let batch = in_ring.wrapping_sub(in_region);
        if batch == 0 {
            return Some(());
        }
        let header = self.header();
        if self.in_flight().is_empty() {
            // One of: a new region; only the index was missing; the driver drained the ring and set
            // it up again.
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

    /// Returns the counter and head of each chain in flight.
    fn in_flight(&self) -> Vec<(u64, u16)> {
        (0..)
            .zip(self.entries())
            .filter(|(_, entry)| entry.inflight.load(Ordering::Relaxed) != 0)
            .map(|(head, entry)| (entry.counter.load(Ordering::Relaxed), head))
            .collect()
    }
}

/// Makes one store to the region. The process may be killed before each store; the tests simulate
/// that here.
#[inline(always)]
fn step(store: impl FnOnce()) {
    #[cfg(test)]
    tests::kill_point();
    store();
}

#[cfg(test)]
mod tests;

//! The record of requests in flight, which survives a crash of the backend: the shared region of
//! GET_INFLIGHT_FD and SET_INFLIGHT_FD.
//!
//! The backend creates a memfd. The frontend keeps it and passes it to the next backend that serves
//! the device (specification, "Inflight I/O tracking"). For each queue the region contains
//!
//! ```text
//! features u64 = 0, version u16 = 1, desc_num u16, last_batch_head u16, used_idx u16,
//! desc_num x { inflight u8, padding u8 x 5, next u16, counter u64 }
//! ```
//!
//! in native byte order. The parts of the queues follow each other at multiples of 64 bytes. The
//! record is updated along with the virtqueue as follows:
//!
//! ```text
//! DeviceQueue::pop      then  InflightQueue::pop        counter = the next number; inflight = 1
//! DeviceQueue::push     then  InflightQueue::push       next = last_batch_head;
//!                                                       last_batch_head = the head
//! DeviceQueue::publish  then  InflightQueue::published  inflight = 0 for each head of the batch;
//!                                                       used_idx = used.idx
//! ```
//!
//! A head with inflight = 1 was popped and has not been answered. The only exception is a batch
//! whose used.idx was stored just before the crash: then the used_idx in the region is behind that
//! of the ring by the size of the batch, and the batch consists of that many heads from the start
//! of the list at `last_batch_head`. (The rest of the list belongs to older batches and is
//! ignored.) [`InflightRegion::open`] handles both cases. After a crash before `inflight = 1`, the
//! head is popped again, because the next index to pop is *derived*: used.idx plus the number of
//! heads in flight.
//!
//! # Order of the stores
//!
//! Only the process crashes, not the machine. What a thread has stored in shared memory stays
//! there, and another process sees all stores up to the point of the crash, in the order of the
//! *instructions*. So no fence is needed, but the compiler must not reorder the stores. Every store
//! to the region is a Release store, as is the store of used.idx in
//! [`DeviceQueue::publish`](crate::virtqueue::DeviceQueue::publish), so none of them moves before
//! an earlier store. On x86 a Release store is an ordinary store.
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

/// The version of the layout. No other version is defined.
const VERSION: u16 = 1;

/// The largest split virtqueue (virtio 1.2, section 2.7).
const MAX_QUEUE_SIZE: u16 = 32768;

/// Alignment of each queue's part of the region, as in libvhost-user and DPDK.
const QUEUE_ALIGN: u64 = 64;

/// Why an in-flight region could not be created, used, or recovered from.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InflightError {
    /// Too many queues, or none.
    #[error("the in-flight region is for {asked} queues; it must be for 1 to {max}")]
    Queues {
        /// Number of queues in the message.
        asked: u16,
        /// Number of queues of the device.
        max: u16,
    },
    /// A size that a split virtqueue cannot have.
    #[error("the in-flight region is for queues of {size} entries; they must have 1 to 32768")]
    QueueSize {
        /// The size in the message, in entries.
        size: u16,
    },
    /// The region is too small for its queues.
    #[error("the in-flight region has {have} bytes, but its queues need {need}")]
    TooSmall {
        /// Size of the region in the message, in bytes.
        have: u64,
        /// Bytes that the queues need.
        need: u64,
    },
    /// The fields would not be naturally aligned.
    #[error("the in-flight region is at offset {offset:#x}, which is not a multiple of 8")]
    Misaligned {
        /// Offset of the region in the file, in bytes.
        offset: u64,
    },
    /// The file cannot be mapped.
    #[error("cannot map the in-flight region: {0}")]
    Mapping(#[from] MappingError),
    /// The file cannot be created.
    #[error("cannot create an in-flight region: {0}")]
    Create(#[source] io::Error),
    /// The region has no room for a queue.
    #[error(
        "the in-flight region has {queues} queues of {queue_size} entries; queue {queue} of {size} entries does not fit"
    )]
    NoPlace {
        /// The queue index.
        queue: u16,
        /// Its size in entries.
        size: u16,
        /// Number of queues of the region.
        queues: u16,
        /// Entries of each queue.
        queue_size: u16,
    },
    /// The region has another layout, or was overwritten.
    #[error(
        "the in-flight region of queue {queue} has version {version}, features {features:#x} and {desc_num} entries; expected version 1, no features and {queue_size} entries"
    )]
    Layout {
        /// The queue index.
        queue: u16,
        /// Its version field.
        version: u16,
        /// Its features field.
        features: u64,
        /// Its desc_num field.
        desc_num: u16,
        /// The expected desc_num.
        queue_size: u16,
    },
    /// The region and the used ring do not belong together.
    #[error(
        "queue {queue}: used.idx is {in_ring}, but the in-flight region has {in_region}; they do not belong together"
    )]
    Batch {
        /// The queue index.
        queue: u16,
        /// used.idx of the ring.
        in_ring: u16,
        /// used_idx of the region.
        in_region: u16,
    },
}

/// The in-flight region of a device. The memory stays mapped while this object or one of its queues
/// exists.
#[derive(Debug, Clone)]
pub struct InflightRegion {
    /// Invariant: the mapping starts at a multiple of 8 and has at least `queues` times
    /// `queue_bytes(queue_size)` bytes.
    mapping: Arc<Mapping>,
    queues: u16,
    queue_size: u16,
}

/// The state of a queue as its last backend left it, from [`InflightRegion::open`].
#[derive(Debug)]
pub struct Recovered {
    /// The record to use from now on. It already contains the heads below.
    pub queue: InflightQueue,
    /// The heads that were popped and not answered, in the order in which they were popped.
    pub heads: Vec<u16>,
    /// Index of the next avail entry to pop.
    pub next_avail: u16,
}

/// The record of one running queue. Belongs to the owner of the
/// [`DeviceQueue`](crate::virtqueue::DeviceQueue).
///
/// No method blocks, allocates, or makes a system call. The stores are those listed at the top of
/// this file.
#[derive(Debug)]
pub struct InflightQueue {
    region: QueueRegion,
    /// The counter for the next request.
    counter: u64,
    /// last_batch_head. Not read from the region again while the queue runs.
    last: u16,
    /// used_idx. Not read from the region again either.
    used_idx: u16,
    /// Heads pushed since the last `published`.
    batch: u16,
}

impl InflightRegion {
    /// Creates an empty region, as the reply to GET_INFLIGHT_FD. The `num_queues` and `queue_size`
    /// of `request` determine its size. The file is sealed: it can be written but not resized.
    ///
    /// The backend does not keep the region. The frontend sends it back with SET_INFLIGHT_FD before
    /// it starts the queues.
    ///
    /// # Errors Returns [`InflightError::Queues`] for more than `max_queues`,
    /// [`InflightError::QueueSize`], or [`InflightError::Create`].
    pub fn create(request: &Inflight, max_queues: u16) -> Result<(Inflight, OwnedFd), InflightError> {
        let size = needed(request, max_queues)?;
        let file = sealed_memfd(c"vhost-user-inflight", size).map_err(InflightError::Create)?;
        let made = Inflight { mmap_size: size, mmap_offset: 0, ..*request };
        Ok((made, file.into()))
    }

    /// Maps the region of a SET_INFLIGHT_FD. It should come from [`InflightRegion::create`], in
    /// this process or in an earlier one, but this is not trusted. The descriptor is closed, also
    /// on error.
    ///
    /// # Errors Returns [`InflightError::Queues`], [`InflightError::QueueSize`],
    /// [`InflightError::TooSmall`], [`InflightError::Misaligned`], or [`InflightError::Mapping`].
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

    /// Takes over queue `index` of `size` entries from the previous backend. `used_idx` is the
    /// index in its used ring
    /// ([`DeviceQueue::used_idx_in_ring`](crate::virtqueue::DeviceQueue::used_idx_in_ring)). If
    /// there was no previous backend, nothing is in flight.
    ///
    /// Afterwards call [`DeviceQueue::resume`](crate::virtqueue::DeviceQueue::resume) with the two
    /// indices, then [`DeviceQueue::resubmit`](crate::virtqueue::DeviceQueue::resubmit) for each
    /// head in order, and only then pop. The base from SET_VRING_BASE is ignored. The previous
    /// backend may have crashed after storing used.idx but before sending the interrupt, so
    /// interrupt the driver once in any case. Only one backend at a time may open a queue. If the
    /// process crashes in this function, it can simply be called again.
    ///
    /// # Errors Returns [`InflightError::NoPlace`], [`InflightError::Layout`], or
    /// [`InflightError::Batch`].
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

    /// Returns true if a page of the region was missing when it was accessed; see
    /// [`MemoryTable::is_broken`](super::MemoryTable::is_broken).
    #[inline]
    pub fn is_broken(&self) -> bool {
        sigbus::faults() > 0 && self.mapping.is_broken()
    }

    /// Returns the part of one queue. The caller makes sure that `index` is less than `queues`.
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
    /// Records that the chain `head` was popped. Call it before the request is started.
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

    /// Records that the chain `head` was pushed and will be published with the other pushed chains.
    /// Do not call it for a broken queue, which pushes nothing.
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

    /// Records that used.idx was stored and covers everything pushed so far. Call it before the
    /// next push and the next pop. Do not call it if the queue or the guest memory is broken: the
    /// driver would not see used.idx.
    #[inline]
    pub fn published(&mut self) {
        if self.batch == 0 {
            return;
        }
        let mut head = self.last;
        for _ in 0..self.batch {
            // The frontend may have overwritten `next`. The walk then clears wrong heads, but only
            // in the frontend's own region.
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

/// The record of one head (specification, `DescStateSplit`).
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

/// Size of a queue's part of the region in bytes, a multiple of [`QUEUE_ALIGN`].
fn queue_bytes(queue_size: u16) -> u64 {
    (size_of::<Header>() as u64 + size_of::<Entry>() as u64 * u64::from(queue_size))
        .next_multiple_of(QUEUE_ALIGN)
}

/// Returns the size in bytes of the described region, if the description is valid.
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

/// One queue's part of the region. The frontend can write it at any time. All fields are therefore
/// atomic, and values read from it are checked before they are used as an index.
#[derive(Debug)]
struct QueueRegion {
    /// Invariant: aligned, and followed by `entries` entries. All of it stays mapped while
    /// `_mapping` lives.
    header: *const Header,
    entries: u16,
    _mapping: Arc<Mapping>,
}

// SAFETY: the pointer refers to memory that `_mapping` keeps mapped, on whatever thread this value
// is, and every access is atomic.
unsafe impl Send for QueueRegion {}

impl QueueRegion {
    #[inline]
    fn header(&self) -> &Header {
        // SAFETY: mapped and aligned (the invariant), and all fields are atomic, so the frontend
        // may change them.
        unsafe { &*self.header }
    }

    #[inline]
    fn entries(&self) -> &[Entry] {
        // The size of the header is a multiple of the alignment of the entries.
        let first = self.header.wrapping_add(1).cast::<Entry>();
        // SAFETY: as for `header`.
        unsafe { std::slice::from_raw_parts(first, usize::from(self.entries)) }
    }

    #[inline]
    fn entry(&self, head: u16) -> Option<&Entry> {
        self.entries().get(usize::from(head))
    }

    /// Marks all entries as not in flight. The version is stored last: if it is missing, the next
    /// backend initialises again.
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

    /// Finishes an `InflightQueue::published` that was interrupted by a crash, if any. Returns
    /// `None` if the two indices cannot belong together.
    fn clear_published(&self, in_region: u16, in_ring: u16) -> Option<()> {
        let batch = in_ring.wrapping_sub(in_region);
        if batch == 0 {
            return Some(());
        }
        let header = self.header();
        if self.in_flight().is_empty() {
            // Either the region is new, or only the store of used_idx was missing, or the driver
            // has drained the ring and set it up again.
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

    /// Returns counter and head of each chain in flight.
    fn in_flight(&self) -> Vec<(u64, u16)> {
        (0..)
            .zip(self.entries())
            .filter(|(_, entry)| entry.inflight.load(Ordering::Relaxed) != 0)
            .map(|(head, entry)| (entry.counter.load(Ordering::Relaxed), head))
            .collect()
    }
}

/// Makes one store to the region. The process may be killed before any of them; tests simulate
/// that.
#[inline(always)]
fn step(store: impl FnOnce()) {
    #[cfg(test)]
    tests::kill_point();
    store();
}

#[cfg(test)]
mod tests;

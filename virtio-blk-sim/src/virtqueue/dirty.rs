//! Records the guest pages that a queue writes, for live migration.
//!
//! What is written, and when it is marked:
//!
//! | write | marked |
//! |---|---|
//! | the buffers of a chain, also by the kernel or another thread | when the chain is pushed, so before used.idx shows it |
//! | an entry of the used ring | at once |
//! | used.idx | at once, so before the interrupt |
//! | avail_event, used.flags | at once |
//!
//! All device-writable buffers of a chain are marked, because it is not known which of them the
//! device has written: a read that fails half-way has written some, and its used length does not
//! say which.

use std::sync::Arc;

use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

use super::error::QueueError;
use super::segment::{Segment, Segments};
use crate::memory::DirtyLog;

/// Which writes of a queue are recorded, and where.
#[derive(Debug, Clone)]
pub struct DirtyPages {
    /// The log.
    pub log: Arc<DirtyLog>,
    /// Whether the buffers of chains are recorded (`VHOST_F_LOG_ALL`).
    pub buffers: bool,
    /// The guest address at which the used ring is recorded, if it is (`VHOST_VRING_F_LOG`). It may
    /// be outside guest memory.
    pub used_ring: Option<GuestAddress>,
}

/// The log of a queue, and what is needed to mark pages in it.
#[derive(Debug)]
pub(super) struct Marker {
    pages: DirtyPages,
    regions: Vec<Region>,
    /// The index of the region that was found last.
    last: usize,
    /// Why a page could not be marked, the first time.
    failure: Option<QueueError>,
}

/// A region of guest memory.
#[derive(Debug)]
struct Region {
    /// The address in this process.
    host: usize,
    len: usize,
    /// The guest address.
    guest: u64,
}

impl Region {
    fn guest_addr(&self, segment: &Segment) -> Option<u64> {
        let offset = segment.ptr().addr().checked_sub(self.host)?;
        let left = self.len.checked_sub(offset)?;
        (segment.len() <= left).then(|| self.guest + offset as u64)
    }
}

impl Marker {
    /// Prepares to mark what is written to `memory`.
    pub(super) fn new<M: GuestMemoryBackend + 'static>(pages: DirtyPages, memory: &M) -> Self {
        let region = |region: &M::R| {
            // A region that gives out no slice is in no chain.
            let slice = region.as_volatile_slice().ok()?;
            let host = slice.ptr_guard_mut().as_ptr().addr();
            Some(Region { host, len: slice.len(), guest: region.start_addr().0 })
        };
        let regions = memory.iter().filter_map(region).collect();
        Self { pages, regions, last: 0, failure: None }
    }

    /// Why a page could not be marked, if that happened.
    pub(super) fn failure(&self) -> Option<QueueError> {
        self.failure.or_else(|| self.pages.log.is_lost().then_some(QueueError::MemoryLost))
    }

    /// Marks buffers that may have been written.
    pub(super) fn buffers(&mut self, writable: &Segments) {
        if !self.pages.buffers {
            return;
        }
        for segment in writable.iter() {
            match self.guest_addr(segment) {
                Some(addr) => self.mark(addr, segment.len() as u64),
                // A chain of other guest memory than the queue's: a wrong call.
                None => self.failure = self.failure.or(Some(QueueError::MemoryLost)),
            }
        }
    }

    /// Marks the `len` bytes at `offset` of the used ring, which have been written.
    pub(super) fn used_ring(&mut self, offset: usize, len: u64) {
        if let Some(start) = self.pages.used_ring {
            self.mark(start.0.saturating_add(offset as u64), len);
        }
    }

    fn mark(&mut self, addr: u64, len: u64) {
        if !self.pages.log.mark(addr, len) {
            let log_bytes = self.pages.log.len_bytes();
            self.failure = self.failure.or(Some(QueueError::BeyondDirtyLog { addr, log_bytes }));
        }
    }

    fn guest_addr(&mut self, segment: &Segment) -> Option<u64> {
        if let Some(addr) = self.regions.get(self.last)?.guest_addr(segment) {
            return Some(addr);
        }
        let found = |(index, region): (usize, &Region)| Some((index, region.guest_addr(segment)?));
        let (index, addr) = self.regions.iter().enumerate().find_map(found)?;
        self.last = index;
        Some(addr)
    }
}

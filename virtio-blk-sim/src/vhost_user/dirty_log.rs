//! The log of dirty pages that a frontend shares while it migrates the guest: SET_LOG_BASE,
//! `VHOST_F_LOG_ALL` of SET_FEATURES, `VHOST_VRING_F_LOG` of SET_VRING_ADDR (specification,
//! "Migration").
//!
//! ```text
//! the device writes ─► a bit of the log ─► the frontend takes the bit ─► it sends the page again
//! ```
//!
//! [`DirtyLog`] says in which order, and [`virtqueue`](crate::virtqueue) when each bit is set. What
//! the session adds:
//!
//! - Rings keep running when the log is switched on, off or to another one. Once a request that
//!   switches the log is answered, no ring uses the old one any more, so the frontend can collect
//!   its last bits.
//! - Once GET_VRING_BASE is answered, all bits of that ring are set.
//! - As long as there is no log, nothing is recorded, whatever is negotiated.
//! - A log that is too small is refused. QEMU does not look at the answer to SET_LOG_BASE, but at
//!   that to SET_FEATURES; so after a refused log, `VHOST_F_LOG_ALL` is refused as well, and the
//!   migration fails and not the guest. If it is negotiated already, the connection is closed:
//!   otherwise the frontend would migrate pages that nobody has marked.
//!
//! The log is memory of the frontend, so it can be truncated; that ends the session, as for guest
//! memory.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::mapping::{Mapping, MappingError};
use super::memory::MemoryTable;
use super::payload::{LogArea, VringAddr};
use crate::memory::{DirtyLog, GuestAddress};
use crate::virtqueue::{DirtyPages, QueueConfig};

/// Why a log of dirty pages was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// The offset is not aligned for atomic accesses.
    #[error("the log of dirty pages is at offset {offset:#x}, which must be a multiple of 8")]
    Misaligned {
        /// Offset in the file, in bytes.
        offset: u64,
    },
    /// The log could not be mapped.
    #[error("cannot map the log of dirty pages: {0}")]
    Mapping(#[from] MappingError),
    /// The log has no bit for a page of guest memory or of a used ring.
    #[error(
        "the log of dirty pages has {have} bytes, and no bit for the page before address {end:#x}; the frontend must make it larger"
    )]
    TooSmall {
        /// Size in bytes.
        have: u64,
        /// The end of the memory that it must cover.
        end: u64,
    },
    /// The last log was refused.
    #[error("pages cannot be logged: the last SET_LOG_BASE was refused")]
    Refused,
}

/// What a session knows about the log.
#[derive(Debug, Default)]
pub(super) struct Logging {
    log: Option<Arc<DirtyLog>>,
    /// The last log was refused.
    refused: bool,
    /// `VHOST_F_LOG_ALL` is negotiated.
    all: bool,
}

impl Logging {
    /// Takes the log of a SET_LOG_BASE, for this memory and these rings, each with its size. A
    /// refused log leaves none. The descriptor is always closed.
    pub(super) fn set_log<'a>(
        &mut self,
        area: &LogArea,
        fd: OwnedFd,
        memory: &MemoryTable,
        rings: impl Iterator<Item = (&'a VringAddr, u16)>,
    ) -> Result<(), LogError> {
        let checked = adopt(area, fd).and_then(|log| {
            let have = log.len_bytes();
            let ends = rings.filter_map(|(addr, size)| used_ring_end(addr, size));
            match ends.chain(memory.end()).find(|&end| !log.covers(end)) {
                Some(end) => Err(LogError::TooSmall { have, end }),
                None => Ok(Arc::new(log)),
            }
        });
        self.refused = checked.is_err();
        self.log = None;
        self.log = Some(checked?);
        Ok(())
    }

    /// Checks whether `VHOST_F_LOG_ALL` can be switched to `all`.
    pub(super) fn check_all(&self, all: bool) -> Result<(), LogError> {
        if all && self.refused { Err(LogError::Refused) } else { Ok(()) }
    }

    /// Takes `VHOST_F_LOG_ALL`.
    pub(super) fn set_all(&mut self, all: bool) {
        self.all = all;
    }

    /// Whether `VHOST_F_LOG_ALL` is negotiated.
    pub(super) fn all(&self) -> bool {
        self.all
    }

    /// Checks the place where the used ring of a ring of `size` entries is logged.
    pub(super) fn check_ring(&self, addr: &VringAddr, size: u16) -> Result<(), LogError> {
        match (&self.log, used_ring_end(addr, size)) {
            (Some(log), Some(end)) if !log.covers(end) => {
                Err(LogError::TooSmall { have: log.len_bytes(), end })
            }
            _ => Ok(()),
        }
    }

    /// Returns what a ring at `addr` records.
    pub(super) fn of_ring(&self, addr: &VringAddr) -> Option<DirtyPages> {
        let log = self.log.as_ref().filter(|_| self.all || addr.is_logged())?;
        let used_ring = addr.is_logged().then_some(GuestAddress(addr.log));
        Some(DirtyPages { log: Arc::clone(log), buffers: self.all, used_ring })
    }
}

/// Maps a log.
fn adopt(area: &LogArea, fd: OwnedFd) -> Result<DirtyLog, LogError> {
    let &LogArea { mmap_size, mmap_offset } = area;
    let mapping = Arc::new(Mapping::new(fd, mmap_offset, mmap_size)?);
    mapping.dirty_log().ok_or(LogError::Misaligned { offset: mmap_offset })
}

/// Returns the end of the used ring in the log, if it is logged.
fn used_ring_end(addr: &VringAddr, size: u16) -> Option<u64> {
    let (_, _, used_bytes) = QueueConfig::part_bytes(size);
    addr.is_logged().then(|| addr.log.saturating_add(used_bytes))
}

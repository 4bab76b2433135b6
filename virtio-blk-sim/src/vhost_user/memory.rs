//! The guest memory that a frontend shares: a table of mapped regions.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::mapping::{Mapping, MappingError};
use super::{MAX_REGIONS, MemoryRegion, sigbus};
use crate::memory::{GuestAddress, GuestMemoryMmap};

/// Maximum number of regions in a table, returned by GET_MAX_MEM_SLOTS. QEMU uses one region for
/// each piece of RAM and each memory device.
pub const MAX_MEM_SLOTS: usize = 32;

/// Why a change of the memory table was refused, or an address is not in the table. The table stays
/// unchanged.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MemoryError {
    /// SET_MEM_TABLE with no region or with too many regions.
    #[error("a memory table has {count} regions: send 1 to {MAX_REGIONS}")]
    Count {
        /// Number of regions in the message.
        count: usize,
    },
    /// ADD_MEM_REG when the table is full.
    #[error("the memory table is full ({MAX_MEM_SLOTS} regions); remove a region first")]
    Full,
    /// A region of size 0.
    #[error("the region at guest address {guest_addr:#x} has size 0")]
    Empty {
        /// Guest address of the region.
        guest_addr: u64,
    },
    /// A region that extends past the end of the address space.
    #[error(
        "the region of {size:#x} bytes at {space} address {addr:#x} goes past the end of the address space"
    )]
    Overflow {
        /// The address space in which the region overflows.
        space: Space,
        /// Address of the region.
        addr: u64,
        /// Size of the region in bytes.
        size: u64,
    },
    /// Two regions overlap.
    #[error("the regions at {space} addresses {first:#x} and {second:#x} overlap")]
    Overlap {
        /// The address space in which the regions overlap.
        space: Space,
        /// Start of the existing region.
        first: u64,
        /// Start of the new region.
        second: u64,
    },
    /// The file of a region could not be mapped.
    #[error("cannot map the region of {size:#x} bytes at guest address {guest_addr:#x}: {error}")]
    Mapping {
        /// Guest address of the region.
        guest_addr: u64,
        /// Size of the region in bytes.
        size: u64,
        /// The reason.
        #[source]
        error: MappingError,
    },
    /// REM_MEM_REG of a region that is not in the table.
    #[error(
        "there is no region of {size:#x} bytes at guest address {guest_addr:#x} and user address {user_addr:#x} to remove"
    )]
    NoSuchRegion {
        /// Requested guest address.
        guest_addr: u64,
        /// Requested user address.
        user_addr: u64,
        /// Requested size in bytes.
        size: u64,
    },
    /// A user address of SET_VRING_ADDR that is not inside one region.
    #[error("the {len:#x} bytes at user address {addr:#x} are not in one region of the memory table")]
    NotMapped {
        /// The user address.
        addr: u64,
        /// Number of bytes.
        len: u64,
    },
}

/// The two address spaces of a region, in addition to this process's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Space {
    /// The guest's physical addresses, used in descriptors.
    Guest,
    /// The frontend's virtual addresses, used in SET_VRING_ADDR.
    User,
}

impl std::fmt::Display for Space {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Guest => "guest",
            Self::User => "user",
        })
    }
}

/// The regions that a frontend shares, and the guest memory that they form.
///
/// A table is immutable: adding or removing a region creates a new table, in which the other
/// regions are the same mappings at the same host addresses. A region is unmapped when the last
/// table, [`Chain`](crate::virtqueue::Chain) or queue that holds a [`MemoryTable::memory`] with it
/// is dropped. So a request in flight, also one in the kernel, keeps the memory that it started
/// with, whatever the frontend sends in the meantime.
///
/// May be sent between threads. Dropping a table may call munmap(2).
#[derive(Debug, Clone, Default)]
pub struct MemoryTable {
    slots: Vec<Slot>,
    memory: Arc<GuestMemoryMmap>,
}

#[derive(Debug, Clone)]
struct Slot {
    region: MemoryRegion,
    mapping: Arc<Mapping>,
}

impl MemoryTable {
    /// Creates the table of a SET_MEM_TABLE. The descriptors are always closed.
    ///
    /// # Errors
    /// Any [`MemoryError`] except those of removing a region and of address translation. On error
    /// nothing stays mapped.
    pub fn new(regions: Vec<(MemoryRegion, OwnedFd)>) -> Result<Self, MemoryError> {
        let count = regions.len();
        if !(1..=MAX_REGIONS).contains(&count) {
            return Err(MemoryError::Count { count });
        }
        regions.into_iter().try_fold(Self::default(), |table, (region, fd)| table.with(region, fd))
    }

    /// Returns a table with an additional region (ADD_MEM_REG). The descriptor is always closed.
    ///
    /// # Errors
    /// Same as [`MemoryTable::new`], and [`MemoryError::Full`].
    pub fn with(&self, region: MemoryRegion, fd: OwnedFd) -> Result<Self, MemoryError> {
        if self.slots.len() >= MAX_MEM_SLOTS {
            return Err(MemoryError::Full);
        }
        let MemoryRegion { guest_addr, size, mmap_offset, .. } = region;
        if size == 0 {
            return Err(MemoryError::Empty { guest_addr });
        }
        self.check_place(Space::Guest, &region)?;
        self.check_place(Space::User, &region)?;
        let refused = |error| MemoryError::Mapping { guest_addr, size, error };
        let mapping = Mapping::new(fd, mmap_offset, size).map(Arc::new).map_err(refused)?;
        // The two errors below cannot happen after the checks above, but vm-memory checks again.
        let guest = mapping.guest_region(GuestAddress(guest_addr)).ok_or(Space::Guest.overflow(&region))?;
        let memory =
            self.memory.insert_region(Arc::new(guest)).map_err(|_| Space::Guest.overlap(&region, &region))?;
        let mut slots = self.slots.clone();
        slots.push(Slot { region, mapping });
        Ok(Self { slots, memory: Arc::new(memory) })
    }

    /// Returns a table without the region that has the guest address, user address and size of
    /// `region` (REM_MEM_REG). The offset of `region` is ignored (specification,
    /// "VHOST_USER_REM_MEM_REG").
    ///
    /// If a running queue uses the removed region, the caller must create the queue again: the
    /// queue continues to use the memory that it was created with.
    ///
    /// # Errors
    /// Returns [`MemoryError::NoSuchRegion`] if the table has no such region.
    pub fn without(&self, region: &MemoryRegion) -> Result<Self, MemoryError> {
        let &MemoryRegion { guest_addr, size, user_addr, .. } = region;
        let key = |region: &MemoryRegion| (region.guest_addr, region.user_addr, region.size);
        let missing = MemoryError::NoSuchRegion { guest_addr, user_addr, size };
        let mut slots = self.slots.clone();
        let Some(at) = slots.iter().position(|slot| key(&slot.region) == key(region)) else {
            return Err(missing);
        };
        slots.remove(at);
        let (memory, _removed) =
            self.memory.remove_region(GuestAddress(guest_addr), size).map_err(|_| missing)?;
        Ok(Self { slots, memory: Arc::new(memory) })
    }

    /// The guest's memory, for queues. Empty until the frontend has shared memory.
    pub fn memory(&self) -> &Arc<GuestMemoryMmap> {
        &self.memory
    }

    /// Returns the number of regions.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Returns true if there are no regions.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Returns the guest address after the last byte, or `None` if there are no regions.
    pub fn end(&self) -> Option<u64> {
        // Cannot overflow: this was checked when the region was added.
        self.slots.iter().map(|Slot { region, .. }| region.guest_addr + region.size).max()
    }

    /// Translates the `len` bytes at the frontend's virtual address `addr` to a guest address.
    ///
    /// # Errors
    /// [`MemoryError::NotMapped`] unless all bytes are inside one region.
    pub fn user_to_guest(&self, addr: u64, len: u64) -> Result<GuestAddress, MemoryError> {
        self.slots
            .iter()
            .find_map(|Slot { region, .. }| {
                let offset = addr.checked_sub(region.user_addr)?;
                // An address at the end of the region leaves 0 bytes, so an empty range must also
                // be inside.
                let left = region.size.checked_sub(offset).filter(|&left| left > 0)?;
                (len <= left).then(|| GuestAddress(region.guest_addr + offset))
            })
            .ok_or(MemoryError::NotMapped { addr, len })
    }

    /// Returns true if the frontend has taken pages away and one of them was accessed since
    /// ([`sigbus`]). Later writes to this memory may have been lost: stop the queues without
    /// completing anything else, and close the connection.
    ///
    /// Call it after each batch. It costs one load as long as no page was ever missing in this
    /// process.
    #[inline]
    pub fn is_broken(&self) -> bool {
        sigbus::faults() > 0 && self.slots.iter().any(|slot| slot.mapping.is_broken())
    }

    /// Checks that the region ends inside the address space and does not overlap another region.
    fn check_place(&self, space: Space, region: &MemoryRegion) -> Result<(), MemoryError> {
        let start = space.start(region);
        let end = start.checked_add(region.size).ok_or(space.overflow(region))?;
        for Slot { region: there, .. } in &self.slots {
            // Cannot overflow: this was checked when that region was added.
            if start < space.start(there) + there.size && space.start(there) < end {
                return Err(space.overlap(there, region));
            }
        }
        Ok(())
    }
}

impl Space {
    fn start(self, region: &MemoryRegion) -> u64 {
        match self {
            Self::Guest => region.guest_addr,
            Self::User => region.user_addr,
        }
    }

    fn overflow(self, region: &MemoryRegion) -> MemoryError {
        MemoryError::Overflow { space: self, addr: self.start(region), size: region.size }
    }

    fn overlap(self, there: &MemoryRegion, new: &MemoryRegion) -> MemoryError {
        MemoryError::Overlap { space: self, first: self.start(there), second: self.start(new) }
    }
}

#[cfg(test)]
mod tests;

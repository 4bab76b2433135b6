//! The guest's memory as a frontend shares it: a table of regions, mapped.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::mapping::{Mapping, MappingError};
use super::{MAX_REGIONS, MemoryRegion, sigbus};
use crate::memory::{GuestAddress, GuestMemoryMmap};

/// Most regions that a table has, for GET_MAX_MEM_SLOTS. QEMU takes one for each piece of RAM and
/// each memory device.
pub const MAX_MEM_SLOTS: usize = 32;

/// Why a frontend's memory was refused, or an address is not in it. The table stays as it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MemoryError {
    /// SET_MEM_TABLE with no region or with too many.
    #[error("a memory table has {count} regions: send 1 to {MAX_REGIONS}")]
    Count {
        /// How many.
        count: usize,
    },
    /// ADD_MEM_REG on a full table.
    #[error("the memory table has all its {MAX_MEM_SLOTS} regions: remove one first")]
    Full,
    /// A region of no bytes.
    #[error("the region at guest address {guest_addr:#x} has size 0")]
    Empty {
        /// Where the guest would see it.
        guest_addr: u64,
    },
    /// A region that does not end below 2^64.
    #[error(
        "the region of {size:#x} bytes at {space} address {addr:#x} goes past the end of the address space"
    )]
    Overflow {
        /// Which of its two addresses.
        space: Space,
        /// The address.
        addr: u64,
        /// Its bytes.
        size: u64,
    },
    /// Two regions have an address in common.
    #[error("the regions at {space} addresses {first:#x} and {second:#x} overlap")]
    Overlap {
        /// In which address space.
        space: Space,
        /// Where the one that is there begins.
        first: u64,
        /// Where the new one begins.
        second: u64,
    },
    /// The file that came with a region cannot be mapped.
    #[error("cannot map the region of {size:#x} bytes at guest address {guest_addr:#x}: {error}")]
    Mapping {
        /// Where the guest would see it.
        guest_addr: u64,
        /// Its bytes.
        size: u64,
        /// Why.
        #[source]
        error: MappingError,
    },
    /// REM_MEM_REG of something else than was added.
    #[error(
        "there is no region of {size:#x} bytes at guest address {guest_addr:#x} and user address {user_addr:#x} to remove"
    )]
    NoSuchRegion {
        /// Guest address asked for.
        guest_addr: u64,
        /// User address asked for.
        user_addr: u64,
        /// Size asked for, in bytes.
        size: u64,
    },
    /// A user address, of SET_VRING_ADDR, that is in no region.
    #[error("the {len:#x} bytes at user address {addr:#x} are not in one region of the memory table")]
    NotMapped {
        /// The user address.
        addr: u64,
        /// How many bytes.
        len: u64,
    },
}

/// The two address spaces that a region is in, besides this process's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Space {
    /// The guest's physical addresses: what descriptors hold.
    Guest,
    /// The frontend's virtual addresses: what SET_VRING_ADDR holds.
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

/// The regions that a frontend shares, and the guest memory that they make.
///
/// A table never changes: adding or removing a region makes a new one, and the regions that stay
/// are the same mappings at the same host addresses. A region is unmapped when the last table,
/// [`Chain`](crate::virtqueue::Chain) or queue that holds a [`MemoryTable::memory`] with it is
/// gone; so a request that is in flight, in the kernel too, keeps the memory that it began with,
/// whatever the frontend sends meanwhile.
///
/// May be sent between threads. Dropping one may call munmap(2).
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
    /// The table of a SET_MEM_TABLE. The descriptors are closed, in every case.
    ///
    /// # Errors
    /// Any [`MemoryError`] but those of removing and of translation; nothing stays mapped then.
    pub fn new(regions: Vec<(MemoryRegion, OwnedFd)>) -> Result<Self, MemoryError> {
        let count = regions.len();
        if !(1..=MAX_REGIONS).contains(&count) {
            return Err(MemoryError::Count { count });
        }
        regions.into_iter().try_fold(Self::default(), |table, (region, fd)| table.with(region, fd))
    }

    /// This table with one region more (ADD_MEM_REG). The descriptor is closed, in every case.
    ///
    /// # Errors
    /// As [`MemoryTable::new`], and [`MemoryError::Full`].
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
        // The two errors below are what has been checked above, in vm-memory's words.
        let guest = mapping.guest_region(GuestAddress(guest_addr)).ok_or(Space::Guest.overflow(&region))?;
        let memory =
            self.memory.insert_region(Arc::new(guest)).map_err(|_| Space::Guest.overlap(&region, &region))?;
        let mut slots = self.slots.clone();
        slots.push(Slot { region, mapping });
        Ok(Self { slots, memory: Arc::new(memory) })
    }

    /// This table with one region less (REM_MEM_REG): the one with the guest address, user address
    /// and size of `region`, whose offset means nothing (specification, "VHOST_USER_REM_MEM_REG").
    ///
    /// Who removes a region that a running queue uses makes that queue anew: it goes on with the
    /// memory it began with.
    ///
    /// # Errors
    /// [`MemoryError::NoSuchRegion`].
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

    /// The guest's memory, for queues. Empty before the frontend has shared any.
    pub fn memory(&self) -> &Arc<GuestMemoryMmap> {
        &self.memory
    }

    /// How many regions there are.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there is no region.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// The guest address of the `len` bytes at the frontend's virtual address `addr`.
    ///
    /// # Errors
    /// [`MemoryError::NotMapped`] unless one region has them all.
    pub fn user_to_guest(&self, addr: u64, len: u64) -> Result<GuestAddress, MemoryError> {
        self.slots
            .iter()
            .find_map(|Slot { region, .. }| {
                let offset = addr.checked_sub(region.user_addr)?;
                // An address behind the region leaves nothing, so an empty range has to be in it
                // too.
                let left = region.size.checked_sub(offset).filter(|&left| left > 0)?;
                (len <= left).then(|| GuestAddress(region.guest_addr + offset))
            })
            .ok_or(MemoryError::NotMapped { addr, len })
    }

    /// Whether the frontend has taken pages away that were accessed since ([`sigbus`]). What has
    /// been done in this memory since may have reached nobody: stop the queues without completing
    /// anything more, and hang up.
    ///
    /// For after each batch: one load while nothing of the kind has happened in this process.
    #[inline]
    pub fn is_broken(&self) -> bool {
        sigbus::faults() > 0 && self.slots.iter().any(|slot| slot.mapping.is_broken())
    }

    /// Whether the region ends in the address space, and where no other region is.
    fn check_place(&self, space: Space, region: &MemoryRegion) -> Result<(), MemoryError> {
        let start = space.start(region);
        let end = start.checked_add(region.size).ok_or(space.overflow(region))?;
        for Slot { region: there, .. } in &self.slots {
            // No overflow: it has been checked when that region was added.
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

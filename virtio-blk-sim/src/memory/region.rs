//! One region of guest memory, and what keeps it mapped.
#![expect(unsafe_code, reason = "a region is raw host memory that a guest shares")]

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use vm_memory::volatile_memory::VolatileSlice;
use vm_memory::{
    GuestAddress, GuestMemoryError, GuestMemoryRegion, GuestMemoryRegionBytes, GuestUsize,
    MemoryRegionAddress, MmapRegion,
};

/// Bytes that a guest has at consecutive addresses and this process at consecutive others.
///
/// vm-memory's own `GuestRegionMmap` is one whole mapping and begins at a page boundary. A region that a vhost-user frontend
/// announces is a *part* of a mapping, from any byte of a file on, and more than munmap(2) hangs on its end; so a region
/// here keeps an owner, of whatever type, and dropping the last hold on that owner unmaps.
pub struct GuestRegion {
    start: GuestAddress,
    /// Invariant: `size` bytes from here on are mapped, with the access that `prot` says, while `owner` lives.
    host: *mut u8,
    size: usize,
    prot: i32,
    owner: Arc<dyn Any + Send + Sync>,
}

// SAFETY: the pointer goes to memory that `owner`, itself Send, keeps mapped wherever this value is. The safe interface
// reaches it only through volatile slices, which are meant for memory that others change at the same time.
unsafe impl Send for GuestRegion {}
// SAFETY: as for Send; `owner` is Sync.
unsafe impl Sync for GuestRegion {}

impl GuestRegion {
    /// The guest has all of `mapping` from `start` on. `None` if it would end past the last guest address.
    pub fn from_mmap(start: GuestAddress, mapping: MmapRegion) -> Option<Self> {
        let (host, size, prot) = (mapping.as_ptr(), mapping.size(), mapping.prot());
        // SAFETY: an `MmapRegion` is `size` bytes at `host`, mapped with `prot` until it is dropped.
        unsafe { Self::from_raw(start, host, size, prot, Arc::new(mapping)) }
    }

    /// The guest has the `size` bytes at `host` from `start` on. `None` if there are none, or if they would end past the
    /// last guest address.
    ///
    /// # Safety
    /// Until `owner` is dropped, the bytes are mapped with the access `prot` (of mmap(2)), and no Rust reference or other
    /// plain access to them exists: the guest changes them at any time.
    pub unsafe fn from_raw(
        start: GuestAddress,
        host: *mut u8,
        size: usize,
        prot: i32,
        owner: Arc<dyn Any + Send + Sync>,
    ) -> Option<Self> {
        start.0.checked_add(size as u64)?;
        (size > 0).then_some(Self { start, host, size, prot, owner })
    }

    /// Where the region begins in this process.
    pub fn as_ptr(&self) -> *mut u8 {
        self.host
    }

    /// Its bytes.
    pub fn size(&self) -> usize {
        self.size
    }

    /// How it is mapped: PROT_READ, PROT_WRITE.
    pub fn prot(&self) -> i32 {
        self.prot
    }

    /// What keeps it mapped.
    pub fn owner(&self) -> &Arc<dyn Any + Send + Sync> {
        &self.owner
    }

    fn offset(&self, addr: MemoryRegionAddress, count: usize) -> Result<usize, GuestMemoryError> {
        usize::try_from(addr.0)
            .ok()
            .filter(|&offset| offset.checked_add(count).is_some_and(|end| end <= self.size))
            .ok_or(GuestMemoryError::InvalidBackendAddress)
    }
}

impl GuestMemoryRegion for GuestRegion {
    type B = ();

    fn len(&self) -> GuestUsize {
        self.size as GuestUsize
    }

    fn start_addr(&self) -> GuestAddress {
        self.start
    }

    fn bitmap(&self) {}

    fn get_host_address(&self, addr: MemoryRegionAddress) -> Result<*mut u8, GuestMemoryError> {
        Ok(self.host.wrapping_add(self.offset(addr, 1)?))
    }

    fn get_slice(
        &self,
        addr: MemoryRegionAddress,
        count: usize,
    ) -> Result<VolatileSlice<'_>, GuestMemoryError> {
        let host = self.host.wrapping_add(self.offset(addr, count)?);
        // SAFETY: `count` bytes from there on are inside the region, which is mapped while this value lives (the invariant
        // of `host`). Like vm-memory's own regions it trusts the caller not to write to a read-only one.
        Ok(unsafe { VolatileSlice::new(host, count) })
    }
}

impl GuestMemoryRegionBytes for GuestRegion {}

impl fmt::Debug for GuestRegion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuestRegion")
            .field("start", &format_args!("{:#x}", self.start.0))
            .field("size", &format_args!("{:#x}", self.size))
            .field("host", &self.host)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use vm_memory::Bytes;

    use super::*;

    fn region(start: u64) -> Option<GuestRegion> {
        GuestRegion::from_mmap(GuestAddress(start), MmapRegion::new(4096).unwrap())
    }

    #[test]
    fn all_of_a_region_is_there_and_not_a_byte_more() {
        let region = region(0x7000).unwrap();
        assert_eq!((region.start_addr().0, region.len(), region.last_addr().0), (0x7000, 4096, 0x7fff));
        region.write_slice(&[7; 4096], MemoryRegionAddress(0)).unwrap();
        assert_eq!(region.read_obj::<u8>(MemoryRegionAddress(4095)).unwrap(), 7);
        for (addr, count) in [(0, 4097), (1, 4096), (4096, 1), (u64::MAX, 1), (1, usize::MAX)] {
            assert!(region.get_slice(MemoryRegionAddress(addr), count).is_err(), "{count} at {addr}");
        }
        assert_eq!(
            region.get_host_address(MemoryRegionAddress(4095)).unwrap(),
            region.as_ptr().wrapping_add(4095)
        );
        assert!(region.get_host_address(MemoryRegionAddress(4096)).is_err());
    }

    #[test]
    fn a_region_ends_before_the_last_guest_address() {
        assert!(region(u64::MAX - 4096).is_some());
        assert!(region(u64::MAX - 4095).is_none());
    }

    #[test]
    fn the_owner_lives_as_long_as_the_region() {
        let mapping = Arc::new(MmapRegion::<()>::new(4096).unwrap());
        let (host, weak) = (mapping.as_ptr(), Arc::downgrade(&mapping));
        // SAFETY: the mapping is the owner.
        let region =
            unsafe { GuestRegion::from_raw(GuestAddress(0), host, 4096, mapping.prot(), mapping) }.unwrap();
        assert!(weak.upgrade().is_some());
        drop(region);
        assert!(weak.upgrade().is_none());
    }
}

//! One region of guest memory and the owner that keeps it mapped.
#![expect(unsafe_code, reason = "a region is raw host memory shared with a guest")]

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use vm_memory::volatile_memory::VolatileSlice;
use vm_memory::{
    GuestAddress, GuestMemoryError, GuestMemoryRegion, GuestMemoryRegionBytes, GuestUsize,
    MemoryRegionAddress, MmapRegion,
};

/// Guest memory made of [`GuestRegion`]s, without a dirty bitmap.
pub type GuestMemoryMmap = vm_memory::GuestRegionCollection<GuestRegion>;

/// A range of consecutive guest addresses that is mapped at consecutive host addresses.
///
/// vm-memory's own `GuestRegionMmap` is one whole mapping and starts at a page boundary. A region
/// that a vhost-user frontend announces can be *part* of a mapping and can start at any byte of a
/// file, and more than munmap(2) may be needed when it goes away. A region here therefore holds an
/// owner of any type; the memory is unmapped when the last reference to the owner is dropped.
///
/// A region that is not mapped both readable and writable gives out no host pointers and no slices:
/// `get_host_address` and `get_slice` return `HostAddressNotAvailable`. A `VolatileSlice` has safe
/// methods that write, and a write to a read-only mapping would raise SIGSEGV.
pub struct GuestRegion {
    start: GuestAddress,
    /// Invariant: `size` bytes from here are mapped with the access in `prot` while `owner` lives.
    host: *mut u8,
    size: usize,
    prot: i32,
    owner: Arc<dyn Any + Send + Sync>,
}

// SAFETY: the pointer refers to memory that `owner` keeps mapped, and `owner` is Send. The safe
// interface reaches the memory only through volatile slices, which allow others to change it at the
// same time.
unsafe impl Send for GuestRegion {}
// SAFETY: as for Send; `owner` is Sync.
unsafe impl Sync for GuestRegion {}

impl GuestRegion {
    /// Places all of `mapping` at guest address `start`. Returns `None` if the region would end
    /// past the last guest address.
    pub fn from_mmap(start: GuestAddress, mapping: MmapRegion) -> Option<Self> {
        let (host, size, prot) = (mapping.as_ptr(), mapping.size(), mapping.prot());
        // SAFETY: an `MmapRegion` is `size` bytes at `host`, mapped with `prot` until it is
        // dropped.
        unsafe { Self::from_raw(start, host, size, prot, Arc::new(mapping)) }
    }

    /// Places the `size` bytes at `host` at guest address `start`. Returns `None` if `size` is 0 or
    /// if the region would end past the last guest address.
    ///
    /// # Safety
    /// Until `owner` is dropped, the bytes must be mapped with the access `prot` (the flags of
    /// mmap(2)). During that time there must be no Rust reference and no other non-volatile access
    /// to them, because the guest may change them at any time.
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

    /// Returns the host address of the first byte.
    pub fn as_ptr(&self) -> *mut u8 {
        self.host
    }

    /// Returns the size in bytes.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Returns the access of the mapping: PROT_READ, PROT_WRITE of mmap(2).
    pub fn prot(&self) -> i32 {
        self.prot
    }

    /// Returns the owner, which keeps the region mapped.
    pub fn owner(&self) -> &Arc<dyn Any + Send + Sync> {
        &self.owner
    }

    /// Checks that `count` bytes at `addr` are inside the region and may be read and written.
    fn offset(&self, addr: MemoryRegionAddress, count: usize) -> Result<usize, GuestMemoryError> {
        const ACCESS: i32 = libc::PROT_READ | libc::PROT_WRITE;
        if self.prot & ACCESS != ACCESS {
            return Err(GuestMemoryError::HostAddressNotAvailable);
        }
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
        // SAFETY: `offset` checked that `count` bytes from there are inside the region and that it
        // is readable and writable. It stays mapped while this value lives (the invariant of
        // `host`).
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
    fn a_region_gives_access_to_its_bytes_and_no_others() {
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
        // SAFETY: `mapping` is the owner and keeps its own bytes mapped.
        let region =
            unsafe { GuestRegion::from_raw(GuestAddress(0), host, 4096, mapping.prot(), mapping) }.unwrap();
        assert!(weak.upgrade().is_some());
        drop(region);
        assert!(weak.upgrade().is_none());
    }

    #[test]
    fn a_read_only_region_gives_out_no_pointer_and_no_slice() {
        let mapping =
            MmapRegion::build(None, 4096, libc::PROT_READ, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS).unwrap();
        let region = GuestRegion::from_mmap(GuestAddress(0), mapping).unwrap();
        let first = MemoryRegionAddress(0);
        assert!(matches!(region.get_host_address(first), Err(GuestMemoryError::HostAddressNotAvailable)));
        assert!(matches!(region.get_slice(first, 1), Err(GuestMemoryError::HostAddressNotAvailable)));
    }
}

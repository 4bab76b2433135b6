//! The RAM of a simulated guest: a memfd that is mapped once for the device and again for other
//! users.
#![expect(unsafe_code, reason = "sysconf is a libc call")]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use vm_memory::{FileOffset, GuestAddress, MmapRegion};

use super::region::{GuestMemoryMmap, GuestRegion};
use super::sealed::sealed_memfd;

/// The RAM of a simulated guest.
///
/// The memory is a memfd, so it can be shared in the way a VMM shares guest RAM: [`GuestRam::map`]
/// adds a second mapping in this process, which plays the guest's view, and the file descriptor can
/// be sent to another process over vhost-user. The memfd is sealed against resizing. A receiver of
/// the descriptor therefore cannot shrink the file, which would make the device's next access raise
/// SIGBUS.
///
/// The mappings are reference-counted separately: dropping this object does not unmap memory that
/// is still in use. All methods may be called from any thread.
#[derive(Debug)]
pub struct GuestRam {
    file: Arc<File>,
    /// Guest address, bytes, offset in the file; sorted by address.
    pub(super) regions: Vec<(GuestAddress, usize, u64)>,
    memory: Arc<GuestMemoryMmap>,
}

impl GuestRam {
    /// Creates `size` bytes of zeroed RAM at guest address 0.
    ///
    /// Pages are allocated when they are first touched.
    ///
    /// # Errors
    /// `InvalidInput` if `size` is 0 or too large for a file, else the error of memfd_create(2),
    /// ftruncate(2), fcntl(2) or mmap(2).
    pub fn new(size: usize) -> io::Result<Self> {
        Self::with_regions(&[(GuestAddress(0), size)])
    }

    /// Creates zeroed RAM with several regions. Each region is a guest address and a size in bytes.
    ///
    /// The regions must be sorted by address and must not overlap. The addresses between them are
    /// holes. Two regions may be adjacent in guest address space; each still gets its own mapping
    /// in this process, as in a VMM.
    ///
    /// # Errors
    /// As [`GuestRam::new`], and if there is no region, or the regions are unsorted or overlap.
    pub fn with_regions(regions: &[(GuestAddress, usize)]) -> io::Result<Self> {
        // SAFETY: sysconf takes an integer and accesses no memory of ours.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as u64;
        let mut placed = Vec::with_capacity(regions.len());
        let mut end = 0_u64;
        for &(addr, size) in regions {
            if size == 0 {
                return Err(invalid("a region of guest RAM has size 0, it needs at least one byte"));
            }
            placed.push((addr, size, end));
            // mmap(2) requires that the file offset of a region is a multiple of the page size.
            end = (size as u64)
                .checked_next_multiple_of(page)
                .and_then(|bytes| end.checked_add(bytes))
                .filter(|&end| i64::try_from(end).is_ok())
                .ok_or_else(|| invalid("guest RAM is larger than the largest possible file"))?;
        }
        let file = Arc::new(sealed_memfd(c"guest-ram", end)?);
        let memory = map(&file, &placed)?;
        Ok(Self { file, regions: placed, memory })
    }

    /// Returns the mapping that the device uses.
    pub fn memory(&self) -> &Arc<GuestMemoryMmap> {
        &self.memory
    }

    /// Maps the same RAM again, at other host addresses. Tests and simulated guests use this as the
    /// guest's own view.
    ///
    /// # Errors
    /// The error of mmap(2).
    pub fn map(&self) -> io::Result<Arc<GuestMemoryMmap>> {
        map(&self.file, &self.regions)
    }

    /// Returns the memfd. Region 0 starts at offset 0; each later region starts at the end of the
    /// one before it, rounded up to a page.
    pub fn file(&self) -> &Arc<File> {
        &self.file
    }
}

impl AsFd for GuestRam {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, what)
}

fn map(file: &Arc<File>, regions: &[(GuestAddress, usize, u64)]) -> io::Result<Arc<GuestMemoryMmap>> {
    let fail = |what: &dyn std::fmt::Display| io::Error::other(format!("cannot map guest RAM: {what}"));
    let mut mapped = Vec::with_capacity(regions.len());
    for &(addr, size, offset) in regions {
        let file = FileOffset::from_arc(Arc::clone(file), offset);
        let mapping = MmapRegion::from_file(file, size).map_err(|error| fail(&error))?;
        mapped.push(
            GuestRegion::from_mmap(addr, mapping)
                .ok_or_else(|| fail(&"a region ends past the last guest address"))?,
        );
    }
    GuestMemoryMmap::from_regions(mapped).map(Arc::new).map_err(|error| fail(&error))
}

#[cfg(test)]
mod tests {
    use vm_memory::{Bytes, GuestMemoryBackend};

    use super::*;

    #[test]
    fn two_mappings_show_the_same_bytes() {
        let ram = GuestRam::new(8192).unwrap();
        let other = ram.map().unwrap();
        assert_ne!(
            ram.memory().get_host_address(GuestAddress(0)).unwrap(),
            other.get_host_address(GuestAddress(0)).unwrap()
        );
        other.write_obj(0x1234_5678_u32, GuestAddress(4096)).unwrap();
        assert_eq!(ram.memory().read_obj::<u32>(GuestAddress(4096)).unwrap(), 0x1234_5678);
    }

    #[test]
    fn a_mapping_outlives_the_ram_object() {
        let memory = GuestRam::new(4096).unwrap().memory().clone();
        memory.write_obj(7_u8, GuestAddress(4095)).unwrap();
        assert_eq!(memory.read_obj::<u8>(GuestAddress(4095)).unwrap(), 7);
    }

    #[test]
    fn regions_are_backed_by_different_parts_of_the_file() {
        // The second size is deliberately not a multiple of the page size.
        let ram = GuestRam::with_regions(&[
            (GuestAddress(0), 4096),
            (GuestAddress(4096), 100),
            (GuestAddress(1 << 32), 4096),
        ])
        .unwrap();
        for (addr, value) in [(4095, 1_u8), (4096, 2), (4195, 3), (1 << 32, 4)] {
            ram.memory().write_obj(value, GuestAddress(addr)).unwrap();
        }
        let other = ram.map().unwrap();
        for (addr, value) in [(4095, 1_u8), (4096, 2), (4195, 3), (1 << 32, 4)] {
            assert_eq!(other.read_obj::<u8>(GuestAddress(addr)).unwrap(), value);
        }
        assert!(other.read_obj::<u8>(GuestAddress(4196)).is_err(), "the hole between regions is not mapped");
    }

    #[test]
    fn the_memfd_cannot_be_resized() {
        let ram = GuestRam::new(8192).unwrap();
        assert_eq!(ram.file().set_len(4096).unwrap_err().raw_os_error(), Some(libc::EPERM));
        assert_eq!(ram.file().set_len(16384).unwrap_err().raw_os_error(), Some(libc::EPERM));
    }

    #[test]
    fn impossible_sizes_are_refused() {
        assert_eq!(GuestRam::new(0).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert_eq!(GuestRam::new(usize::MAX).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert!(GuestRam::with_regions(&[]).is_err());
        assert!(GuestRam::with_regions(&[(GuestAddress(0), 8192), (GuestAddress(4096), 4096)]).is_err());
    }
}

//! Guest RAM: a memfd, mapped for the device and mapped again for whoever else looks at it.
#![expect(unsafe_code, reason = "memfd_create, ftruncate and the seals are libc calls")]

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd};
use std::sync::Arc;

pub use vm_memory::GuestAddress;
use vm_memory::{FileOffset, MmapRegion};

#[cfg(test)]
pub(crate) mod fenced;
mod region;

pub use region::GuestRegion;

/// Guest memory as this crate sees it: regions mapped into the process, no dirty bitmap.
pub type GuestMemoryMmap = vm_memory::GuestRegionCollection<GuestRegion>;

/// The RAM of a simulated guest.
///
/// It lives in a memfd so that it can be shared as a VMM shares it: a second mapping in this process plays
/// the guest's view ([`GuestRam::map`]), and the file descriptor goes to another process by vhost-user. The
/// memfd is sealed against resizing, so nobody who is given it can shrink it and turn the device's next
/// access into a SIGBUS.
///
/// The mappings are reference-counted apart from this object: dropping it unmaps nothing that is in use.
#[derive(Debug)]
pub struct GuestRam {
    file: Arc<File>,
    /// Guest address, bytes, offset in the file; sorted by address.
    regions: Vec<(GuestAddress, usize, u64)>,
    memory: Arc<GuestMemoryMmap>,
}

impl GuestRam {
    /// `size` bytes of zeroed RAM at guest address 0.
    ///
    /// Fails with `InvalidInput` on a size of 0, else with what memfd_create(2), ftruncate(2), fcntl(2) or
    /// mmap(2) said. Pages are allocated when they are first touched.
    pub fn new(size: usize) -> io::Result<Self> {
        Self::with_regions(&[(GuestAddress(0), size)])
    }

    /// Zeroed RAM in several regions, each a guest address and a size in bytes, sorted and not overlapping.
    /// What lies between them is a hole.
    ///
    /// Two regions may touch in guest address space; in this process each is a mapping of its own, as it is
    /// in a VMM.
    pub fn with_regions(regions: &[(GuestAddress, usize)]) -> io::Result<Self> {
        // SAFETY: sysconf reads a number.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as u64;
        let mut placed = Vec::with_capacity(regions.len());
        let mut end = 0_u64;
        for &(addr, size) in regions {
            if size == 0 {
                return Err(invalid("a region of guest RAM has size 0: give it at least one page"));
            }
            placed.push((addr, size, end));
            // mmap(2) wants the offset of each region in the file to be a multiple of the page size.
            end = (size as u64)
                .checked_next_multiple_of(page)
                .and_then(|bytes| end.checked_add(bytes))
                .filter(|&end| i64::try_from(end).is_ok())
                .ok_or_else(|| invalid("guest RAM is larger than a file can be: ask for less"))?;
        }
        let file = Arc::new(sealed_memfd(c"guest-ram", end)?);
        let memory = map(&file, &placed)?;
        Ok(Self { file, regions: placed, memory })
    }

    /// The mapping that belongs to the device.
    pub fn memory(&self) -> &Arc<GuestMemoryMmap> {
        &self.memory
    }

    /// Maps the same RAM once more, at other host addresses: the guest's own view, or another process's.
    pub fn map(&self) -> io::Result<Arc<GuestMemoryMmap>> {
        map(&self.file, &self.regions)
    }

    /// The memfd. Region `n` begins in it where region `n - 1` ends, rounded up to a page.
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

/// A memfd of `size` zero bytes that can neither shrink nor grow (memfd_create(2), "File sealing").
pub(crate) fn sealed_memfd(name: &CStr, size: u64) -> io::Result<File> {
    // SAFETY: the name is a NUL-terminated string, and the call keeps no reference to it.
    let fd = unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: memfd_create has just returned this descriptor, nobody else owns it.
    let file = unsafe { File::from_raw_fd(fd) };
    file.set_len(size)?;
    let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
    // SAFETY: the descriptor is open (`file` owns it), and F_ADD_SEALS takes an int.
    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(file)
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
        // The second size is no multiple of a page on purpose.
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
    fn sizes_that_cannot_be_are_refused() {
        assert_eq!(GuestRam::new(0).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert_eq!(GuestRam::new(usize::MAX).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert!(GuestRam::with_regions(&[]).is_err());
        assert!(GuestRam::with_regions(&[(GuestAddress(0), 8192), (GuestAddress(4096), 4096)]).is_err());
    }
}

//! Maps a peer's file: the common part of guest memory, the in-flight region and the log of dirty
//! pages.
//!
//! The file can be any file. What can be checked is checked before it is mapped;
//! [`sigbus`](super::sigbus) handles what the peer does to the file afterwards.
#![expect(unsafe_code, reason = "mmap(2), and fstatfs(2) for the page size of hugetlbfs, are libc calls")]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr;
use std::sync::Arc;

use super::sigbus::{self, Guard, GuardError};
use crate::memory::{DirtyLog, GuestAddress, GuestRegion, LogOwner};

/// The protection of a mapping. mmap(2) refuses a file that is not open for writing, or sealed
/// against writing.
const ACCESS: i32 = libc::PROT_READ | libc::PROT_WRITE;

/// Why a peer's file could not be mapped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MappingError {
    /// The size is 0.
    #[error("the size is 0: a region has at least one byte")]
    Empty,
    /// Offset plus size exceeds the largest possible file size.
    #[error("offset {offset:#x} and size {size:#x} together are more than a file can have")]
    Overflow {
        /// Offset of the region in the file, in bytes.
        offset: u64,
        /// Size of the region in bytes.
        size: u64,
    },
    /// The descriptor is not a regular file: a pipe, a socket or a device.
    #[error(
        "the file descriptor is not a regular file: share memory through a memfd or a file on tmpfs or hugetlbfs"
    )]
    NotAFile,
    /// The region goes beyond the end of the file. The first access there would cause a SIGBUS.
    #[error("the file has {file_size:#x} bytes, but offset {offset:#x} and size {size:#x} need more")]
    BeyondEnd {
        /// Offset of the region in the file, in bytes.
        offset: u64,
        /// Size of the region in bytes.
        size: u64,
        /// Size of the file according to fstat(2).
        file_size: u64,
    },
    /// A system call failed.
    #[error("{call} failed on the file descriptor: {error}")]
    System {
        /// Name of the system call.
        call: &'static str,
        /// The error that it returned.
        #[source]
        error: io::Error,
    },
    /// The mapping could not be protected against truncation of its file.
    #[error(transparent)]
    Guard(#[from] GuardError),
}

/// A part of a file, mapped shared and writable, and guarded against SIGBUS. Unmapped on drop.
#[derive(Debug)]
pub(super) struct Mapping {
    /// Invariant: the `mapped_len` bytes at `base` are a mapping that belongs to this object, and
    /// `skip + len` is at most `mapped_len`.
    base: *mut u8,
    mapped_len: usize,
    /// Offset of the requested bytes in the mapping. The bytes before them are the start of the
    /// first page.
    skip: usize,
    len: usize,
    /// `None` only inside `drop`.
    guard: Option<Guard>,
}

// SAFETY: the pointer is the address of memory that belongs to this object, independent of the
// thread. No safe method reads or writes through it.
unsafe impl Send for Mapping {}
// SAFETY: same as for Send.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `size` bytes starting at `offset`, which need not be a multiple of a page: the RAM of
    /// an x86 guest has a region that starts at 768 KiB, which is in the middle of a hugetlbfs
    /// page. Closes the descriptor.
    ///
    /// Does not block, unless the file is on a file system where fstat(2) goes over a network.
    pub(super) fn new(fd: OwnedFd, offset: u64, size: u64) -> Result<Self, MappingError> {
        if size == 0 {
            return Err(MappingError::Empty);
        }
        let overflow = || MappingError::Overflow { offset, size };
        // mmap(2) takes an off_t, which is signed.
        let end = offset.checked_add(size).filter(|&end| i64::try_from(end).is_ok()).ok_or_else(overflow)?;
        let file = File::from(fd);
        let metadata = file.metadata().map_err(|error| system("fstat", error))?;
        if !metadata.is_file() {
            return Err(MappingError::NotAFile);
        }
        let file_size = metadata.len();
        if end > file_size {
            return Err(MappingError::BeyondEnd { offset, size, file_size });
        }
        let page = page_size(&file)?;
        // Both ends of a mapping must be multiples of the file's page size: mmap(2) requires it for
        // the offset, and on hugetlbfs munmap(2) requires it for the length (mmap(2), "Huge page
        // mappings").
        let first = offset - offset % page;
        let mapped = end
            .checked_next_multiple_of(page)
            .and_then(|end| usize::try_from(end - first).ok())
            .ok_or_else(overflow)?;
        let (skip, len) = ((offset - first) as usize, size as usize);
        // SAFETY: a new mapping at an address that the kernel chooses. `first` was checked to fit
        // an off_t.
        let base = unsafe {
            libc::mmap(
                ptr::null_mut(),
                mapped,
                ACCESS,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                first as libc::off_t,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(system("mmap", io::Error::last_os_error()));
        }
        let mut mapping = Self { base: base.cast(), mapped_len: mapped, skip, len, guard: None };
        // SAFETY: the mapping was just created, shared and writable, in whole pages of its file.
        // `drop` unmaps it after the guard is dropped; until then it is reachable only through this
        // object. Nothing relies on the content, because the peer can write to it at any time.
        mapping.guard = Some(unsafe { Guard::new(mapping.base, mapped, page as usize) }?);
        Ok(mapping)
    }

    /// Pointer to the first requested byte. Its alignment is that of the offset, up to a page.
    pub(super) fn as_ptr(&self) -> *mut u8 {
        self.base.wrapping_add(self.skip)
    }

    /// Returns the requested bytes as a region of guest memory that keeps the mapping alive. `None`
    /// if the region would end beyond the last guest address.
    pub(super) fn guest_region(self: &Arc<Self>, start: GuestAddress) -> Option<GuestRegion> {
        let owner = Arc::clone(self);
        // SAFETY: the bytes stay mapped with this protection until this object, the owner, is
        // dropped, and nothing here creates a reference to them.
        unsafe { GuestRegion::from_raw(start, self.as_ptr(), self.len, ACCESS, owner) }
    }

    /// Returns the requested bytes as a log of dirty pages that keeps the mapping alive. `None` if
    /// they do not start at a multiple of 8.
    pub(super) fn dirty_log(self: &Arc<Self>) -> Option<DirtyLog> {
        let owner = Arc::clone(self);
        // SAFETY: the bytes stay mapped readable and writable until this object, the owner, is
        // dropped, and nothing else here accesses them.
        unsafe { DirtyLog::from_raw(self.as_ptr(), self.len, owner) }
    }

    /// Returns true if the peer has taken pages away and one of them was accessed since; see
    /// [`Guard::is_broken`].
    #[inline]
    pub(super) fn is_broken(&self) -> bool {
        self.guard.as_ref().is_some_and(Guard::is_broken)
    }
}

impl LogOwner for Mapping {
    fn is_lost(&self) -> bool {
        sigbus::faults() > 0 && self.is_broken()
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // Drop the guard first: after munmap the addresses may be reused by someone else.
        self.guard = None;
        // SAFETY: the mapping belongs to this object, and it is reachable only through it.
        let unmapped = unsafe { libc::munmap(self.base.cast(), self.mapped_len) };
        debug_assert_eq!(unmapped, 0, "munmap of whole pages of our own mapping must succeed");
    }
}

fn system(call: &'static str, error: io::Error) -> MappingError {
    MappingError::System { call, error }
}

/// Returns the page size of a mapping of `file` in bytes: a power of two.
fn page_size(file: &File) -> Result<u64, MappingError> {
    let mut stat = std::mem::MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: the descriptor is open, and `stat` has room for the result.
    if unsafe { libc::fstatfs(file.as_raw_fd(), stat.as_mut_ptr()) } < 0 {
        return Err(system("fstatfs", io::Error::last_os_error()));
    }
    // SAFETY: fstatfs succeeded, so `stat` is initialised.
    let stat = unsafe { stat.assume_init() };
    // On hugetlbfs, f_bsize is the page size, also for a memfd with MFD_HUGETLB. On other file
    // systems it is the block size, not the page size.
    if stat.f_type == libc::HUGETLBFS_MAGIC {
        return Ok(stat.f_bsize as u64);
    }
    // SAFETY: sysconf only returns a number.
    Ok(unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as u64)
}

#[cfg(test)]
mod tests {
    use std::os::fd::FromRawFd;
    use std::os::unix::fs::FileExt;

    use vm_memory::{Bytes, MemoryRegionAddress};

    use super::*;

    #[test]
    fn a_memfd_of_huge_pages_is_mapped_in_whole_huge_pages() {
        // SAFETY: the name is a NUL-terminated string.
        let fd =
            unsafe { libc::memfd_create(c"mapping-huge".as_ptr(), libc::MFD_CLOEXEC | libc::MFD_HUGETLB) };
        if fd < 0 {
            eprintln!("skipped: no huge pages: {}", io::Error::last_os_error());
            return;
        }
        // SAFETY: memfd_create just returned this descriptor, and nothing else owns it.
        let file = unsafe { File::from_raw_fd(fd) };
        let page = page_size(&file).unwrap();
        assert!(page.is_power_of_two() && page > 4096, "{page}");
        file.set_len(2 * page).unwrap();
        // Like the RAM of an x86 guest above the legacy hole: neither end is a multiple of a huge
        // page.
        let (offset, size) = (768 << 10, page);
        let mapping = match Mapping::new(file.try_clone().unwrap().into(), offset, size) {
            Ok(mapping) => Arc::new(mapping),
            Err(MappingError::System { call: "mmap", error })
                if error.raw_os_error() == Some(libc::ENOMEM) =>
            {
                eprintln!("skipped: this machine has no free huge pages (vm.nr_hugepages)");
                return;
            }
            Err(error) => panic!("{error}"),
        };
        assert_eq!((mapping.skip as u64, mapping.mapped_len as u64), (offset, 2 * page));
        let region = mapping.guest_region(GuestAddress(0)).unwrap();
        for at in [0, size - 1] {
            region.write_obj(7_u8, MemoryRegionAddress(at)).unwrap();
            let mut seen = [0];
            file.read_exact_at(&mut seen, offset + at).unwrap();
            assert_eq!(seen, [7]);
        }
        // Remove one of the two pages from the file.
        file.set_len(page).unwrap();
        region.write_obj(8_u8, MemoryRegionAddress(size - 1)).unwrap();
        assert_eq!(region.read_obj::<u8>(MemoryRegionAddress(0)).unwrap(), 7);
        assert!(mapping.is_broken());
    }

    #[test]
    fn the_requested_bytes_start_at_the_offset() {
        let file = crate::memory::sealed_memfd(c"mapping-offset", 0x3000).unwrap();
        for (offset, size, mapped) in
            [(0, 1, 0x1000), (0xfff, 2, 0x2000), (0x1000, 0x2000, 0x2000), (0x1001, 1, 0x1000)]
        {
            let mapping = Mapping::new(file.try_clone().unwrap().into(), offset, size).unwrap();
            assert_eq!((mapping.mapped_len, mapping.len as u64), (mapped, size));
            assert_eq!(mapping.as_ptr().addr() as u64 % 0x1000, offset % 0x1000);
        }
    }
}

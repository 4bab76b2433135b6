//! A peer's file, mapped: what guest memory and the in-flight region have in common.
//!
//! The file is whatever the peer sent. What can be checked is checked before it is mapped; what the
//! peer does to the file afterwards is the business of [`sigbus`](super::sigbus).
#![expect(unsafe_code, reason = "mmap(2), and fstatfs(2) for the page size of hugetlbfs, are libc calls")]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr;
use std::sync::Arc;

use super::sigbus::{Guard, GuardError};
use crate::memory::{GuestAddress, GuestRegion};

/// What a mapping allows. A file that is not open for writing, or sealed against it, is refused by
/// mmap(2).
const ACCESS: i32 = libc::PROT_READ | libc::PROT_WRITE;

/// Why a peer's file was not mapped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MappingError {
    /// Nothing to map.
    #[error("the size is 0: a region has at least one byte")]
    Empty,
    /// The offset and the size are more than a file can have.
    #[error("offset {offset:#x} and size {size:#x} together are more than a file can have")]
    Overflow {
        /// Where the region begins in the file, in bytes.
        offset: u64,
        /// Its bytes.
        size: u64,
    },
    /// The descriptor is a pipe, a socket, a device.
    #[error(
        "the file descriptor is not a regular file: share memory by a memfd, a file of tmpfs or hugetlbfs"
    )]
    NotAFile,
    /// Bytes behind the end of the file would be a SIGBUS at their first access.
    #[error("the file has {file_size:#x} bytes, but offset {offset:#x} and size {size:#x} need more")]
    BeyondEnd {
        /// Where the region begins in the file, in bytes.
        offset: u64,
        /// Its bytes.
        size: u64,
        /// What fstat(2) says.
        file_size: u64,
    },
    /// A system call failed.
    #[error("{call} failed on the file descriptor: {error}")]
    System {
        /// Which.
        call: &'static str,
        /// What it said.
        #[source]
        error: io::Error,
    },
    /// The mapping cannot be protected against its file being truncated.
    #[error(transparent)]
    Guard(#[from] GuardError),
}

/// Some bytes of a file, mapped shared and writable, under guard against SIGBUS. Unmapped when it
/// is dropped.
#[derive(Debug)]
pub(super) struct Mapping {
    /// Invariant: the `mapped_len` bytes at `base` are a mapping of this object's own, and
    /// `skip + len` is at most `mapped_len`.
    base: *mut u8,
    mapped_len: usize,
    /// The bytes that were asked for begin here; those before fill up the first page.
    skip: usize,
    len: usize,
    /// `None` only inside `drop`.
    guard: Option<Guard>,
}

// SAFETY: the pointer is an address of memory that belongs to this object on whatever thread;
// nothing in the safe interface reads or writes through it.
unsafe impl Send for Mapping {}
// SAFETY: as for Send.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `size` bytes from `offset` on, which need not be a multiple of a page: an x86 guest's
    /// RAM has a region that begins at 768 KiB, which is within a page of hugetlbfs. Closes the
    /// descriptor.
    ///
    /// Does not block, unless the file is on a file system that answers fstat(2) from afar.
    pub(super) fn new(fd: OwnedFd, offset: u64, size: u64) -> Result<Self, MappingError> {
        if size == 0 {
            return Err(MappingError::Empty);
        }
        let overflow = || MappingError::Overflow { offset, size };
        // mmap(2) takes an off_t.
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
        // Both ends of a mapping are multiples of the file's page size: mmap(2) demands it of the
        // offset, and on hugetlbfs munmap(2) of the length ("Huge page mappings").
        let first = offset - offset % page;
        let mapped = end
            .checked_next_multiple_of(page)
            .and_then(|end| usize::try_from(end - first).ok())
            .ok_or_else(overflow)?;
        let (skip, len) = ((offset - first) as usize, size as usize);
        // SAFETY: a new mapping at an address of the kernel's choice. `first` was checked to be an
        // off_t.
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
        // SAFETY: the mapping has just been made, shared and writable, in whole pages of its file.
        // `drop` unmaps it after the guard is gone; in between it is reached only through this
        // object. What a peer can write at any time nobody relies on.
        mapping.guard = Some(unsafe { Guard::new(mapping.base, mapped, page as usize) }?);
        Ok(mapping)
    }

    /// The first byte that was asked for. It is a multiple of whatever power of two, up to a page,
    /// the offset is one of.
    pub(super) fn as_ptr(&self) -> *mut u8 {
        self.base.wrapping_add(self.skip)
    }

    /// The bytes that were asked for as a region of guest memory, which keeps the mapping. `None`
    /// if it would end past the last guest address.
    pub(super) fn guest_region(self: &Arc<Self>, start: GuestAddress) -> Option<GuestRegion> {
        let owner = Arc::clone(self);
        // SAFETY: the bytes are mapped so until this object, the owner, is dropped, and nothing
        // here makes a reference to them.
        unsafe { GuestRegion::from_raw(start, self.as_ptr(), self.len, ACCESS, owner) }
    }

    /// Whether the peer has taken pages away that were accessed since; see [`Guard::is_broken`].
    #[inline]
    pub(super) fn is_broken(&self) -> bool {
        self.guard.as_ref().is_some_and(Guard::is_broken)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // First the guard: from munmap on the addresses may be somebody else's.
        self.guard = None;
        // SAFETY: the mapping is this object's, and nobody reaches it without this object.
        let unmapped = unsafe { libc::munmap(self.base.cast(), self.mapped_len) };
        debug_assert_eq!(unmapped, 0, "whole pages of a mapping of our own");
    }
}

fn system(call: &'static str, error: io::Error) -> MappingError {
    MappingError::System { call, error }
}

/// The size of the pages that a mapping of `file` consists of, in bytes: a power of two.
fn page_size(file: &File) -> Result<u64, MappingError> {
    let mut stat = std::mem::MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: the descriptor is open, and `stat` has room for the answer.
    if unsafe { libc::fstatfs(file.as_raw_fd(), stat.as_mut_ptr()) } < 0 {
        return Err(system("fstatfs", io::Error::last_os_error()));
    }
    // SAFETY: fstatfs has succeeded, so `stat` is written.
    let stat = unsafe { stat.assume_init() };
    // f_bsize of hugetlbfs is its page size, of a memfd with MFD_HUGETLB too. Other file systems'
    // blocks are no pages.
    if stat.f_type == libc::HUGETLBFS_MAGIC {
        return Ok(stat.f_bsize as u64);
    }
    // SAFETY: sysconf reads a number.
    Ok(unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as u64)
}

#[cfg(test)]
mod tests {
    use std::os::fd::FromRawFd;
    use std::os::unix::fs::FileExt;

    use vm_memory::{Bytes, MemoryRegionAddress};

    use super::*;

    #[test]
    fn a_memfd_of_huge_pages_is_mapped_by_them() {
        // SAFETY: the name is a NUL-terminated string.
        let fd =
            unsafe { libc::memfd_create(c"mapping-huge".as_ptr(), libc::MFD_CLOEXEC | libc::MFD_HUGETLB) };
        if fd < 0 {
            eprintln!("skipped: no huge pages: {}", io::Error::last_os_error());
            return;
        }
        // SAFETY: memfd_create has just returned this descriptor.
        let file = unsafe { File::from_raw_fd(fd) };
        let page = page_size(&file).unwrap();
        assert!(page.is_power_of_two() && page > 4096, "{page}");
        file.set_len(2 * page).unwrap();
        // As an x86 guest's RAM behind the legacy hole: neither end is a multiple of a huge page.
        let (offset, size) = (768 << 10, page);
        let mapping = match Mapping::new(file.try_clone().unwrap().into(), offset, size) {
            Ok(mapping) => Arc::new(mapping),
            Err(MappingError::System { call: "mmap", error })
                if error.raw_os_error() == Some(libc::ENOMEM) =>
            {
                eprintln!("skipped: this machine has no huge pages to give (vm.nr_hugepages)");
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
        // Of the two pages one goes away.
        file.set_len(page).unwrap();
        region.write_obj(8_u8, MemoryRegionAddress(size - 1)).unwrap();
        assert_eq!(region.read_obj::<u8>(MemoryRegionAddress(0)).unwrap(), 7);
        assert!(mapping.is_broken());
    }

    #[test]
    fn what_is_asked_for_begins_at_the_offset() {
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

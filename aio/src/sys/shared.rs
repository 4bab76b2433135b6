//! A page of memory that several processes map: a sealed memfd.
#![expect(unsafe_code, reason = "memfd_create(2), its seals, and a mapping that lives as long as its owner")]

use super::check;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::{self, NonNull};

/// Size in bytes. No architecture has smaller pages, and the mapping is as long as the file.
const BYTES: usize = 4096;
/// Seals against resizing, so no access to the mapping can raise SIGBUS.
const SEALS: libc::c_int = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW;

/// Zeroed memory of 4096 bytes, shared with every process that has its descriptor.
#[derive(Debug)]
pub(crate) struct SharedPage {
    fd: OwnedFd,
    /// Invariant: `BYTES` bytes, mapped readable and writable until `drop`.
    start: NonNull<u8>,
}

// SAFETY: the mapping belongs to the process, not to a thread; all access goes through `start`, and
// its users are responsible for synchronising it.
unsafe impl Send for SharedPage {}
// SAFETY: as for Send.
unsafe impl Sync for SharedPage {}

impl SharedPage {
    /// Creates a page of zeros.
    pub(crate) fn new() -> io::Result<Self> {
        let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
        // SAFETY: the name is the name is a static C string.
        let fd = check(unsafe { libc::memfd_create(c"aio-bounded".as_ptr(), flags) }.into())?;
        // SAFETY: the kernel has just returned it; nothing else owns it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd as RawFd) };
        // SAFETY: the call takes only integers.
        check(unsafe { libc::ftruncate(fd.as_raw_fd(), BYTES as libc::off_t) }.into())?;
        // SAFETY: the call takes only integers.
        check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_ADD_SEALS, SEALS | libc::F_SEAL_SEAL) }.into())?;
        Self::map(fd)
    }

    /// Maps a page that another process created.
    ///
    /// # Errors
    /// `InvalidInput` if the descriptor is not a memory file of the right size, sealed against
    /// resizing.
    pub(crate) fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        let refuse = |why| Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        // SAFETY: the command takes no argument; it returns EINVAL for a file that cannot be
        // sealed.
        let seals = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GET_SEALS) };
        if seals < 0 || seals & SEALS != SEALS {
            return refuse(
                "this is not a memfd that is sealed against resizing, so its owner could pull it away",
            );
        }
        let size = std::fs::File::from(fd.try_clone()?).metadata()?.len();
        if size != BYTES as u64 {
            return refuse("this memfd does not have the size of a bounded notifier's memory");
        }
        Self::map(fd)
    }

    fn map(fd: OwnedFd) -> io::Result<Self> {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at an address that the kernel chooses does not affect existing
        // memory.
        let start =
            unsafe { libc::mmap(ptr::null_mut(), BYTES, access, libc::MAP_SHARED, fd.as_raw_fd(), 0) };
        match NonNull::new(start.cast::<u8>()) {
            Some(start) if start.as_ptr().cast() != libc::MAP_FAILED => Ok(Self { fd, start }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Returns the page-aligned start of the page.
    pub(crate) fn as_ptr<T>(&self) -> *mut T {
        const { assert!(size_of::<T>() <= BYTES && align_of::<T>() <= BYTES) };
        self.start.as_ptr().cast()
    }
}

impl AsFd for SharedPage {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for SharedPage {
    fn drop(&mut self) {
        // SAFETY: only this object owns the mapping (the invariant of `start`), and no references
        // to it are left.
        unsafe { libc::munmap(self.start.as_ptr().cast(), BYTES) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_mappings_are_one_memory() {
        let first = SharedPage::new().unwrap();
        let second = SharedPage::from_fd(first.as_fd().try_clone_to_owned().unwrap()).unwrap();
        // SAFETY: each pointer is to a byte of a live mapping; no reference to either exists.
        let seen = unsafe {
            first.as_ptr::<u8>().write_volatile(7);
            second.as_ptr::<u8>().read_volatile()
        };
        assert_eq!(seen, 7);
    }

    #[test]
    fn what_could_be_pulled_away_is_refused() {
        let page = SharedPage::new().unwrap();
        let file = std::fs::File::from(page.as_fd().try_clone_to_owned().unwrap());
        assert_eq!(file.set_len(0).unwrap_err().raw_os_error(), Some(libc::EPERM));
        // SAFETY: the name is a static C string.
        let fd = check(unsafe { libc::memfd_create(c"open".as_ptr(), libc::MFD_CLOEXEC) }.into()).unwrap();
        // SAFETY: the kernel has just returned it.
        let open = std::fs::File::from(unsafe { OwnedFd::from_raw_fd(fd as RawFd) });
        open.set_len(BYTES as u64).unwrap();
        let error = SharedPage::from_fd(open.into()).unwrap_err();
        assert!(error.to_string().contains("sealed"), "{error}");
        let (pipe, _other) = std::io::pipe().unwrap();
        assert_eq!(SharedPage::from_fd(pipe.into()).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}

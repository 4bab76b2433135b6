//! Which process this is: how a forked child finds out that an object belongs to its parent.
//!
//! One page is marked with MADV_WIPEONFORK (madvise(2), Linux 4.14), so a child of fork(2) sees
//! zeros in it. Looking costs one load. Without such a page (an older kernel), forks go unnoticed.
#![expect(unsafe_code, reason = "mmap(2) and madvise(2) of one page that is never unmapped")]

use std::io;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// The number of the process, in the page that is wiped in a forked child.
static CURRENT: OnceLock<&'static AtomicU32> = OnceLock::new();
/// Where the number is if there is no such page.
static NOT_WIPED: AtomicU32 = AtomicU32::new(0);
/// The last number that was given. A child inherits it, and gives itself a higher one.
static LAST: AtomicU32 = AtomicU32::new(0);

/// The process that made an object.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Process {
    current: &'static AtomicU32,
    number: u32,
}

/// Has no number.
static NOBODY: AtomicU32 = AtomicU32::new(0);

impl Process {
    /// No process: never the current one.
    pub(crate) const NONE: Self = Self { current: &NOBODY, number: u32::MAX };

    /// The calling process.
    pub(crate) fn current() -> Self {
        let current = *CURRENT.get_or_init(|| wiped_page().unwrap_or(&NOT_WIPED));
        let mut number = current.load(Ordering::Relaxed);
        if number == 0 {
            // The first of this process. Numbers are given out once in a process and its children.
            let next = LAST.fetch_add(1, Ordering::Relaxed) + 1;
            number = match current.compare_exchange(0, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => next,
                Err(other_thread) => other_thread,
            };
        }
        Self { current, number }
    }

    /// Returns false in a child that was forked after `current` was called. One load.
    #[inline]
    pub(crate) fn is_current(self) -> bool {
        self.current.load(Ordering::Relaxed) == self.number
    }
}

fn wiped_page() -> io::Result<&'static AtomicU32> {
    let (size, access) = (4096, libc::PROT_READ | libc::PROT_WRITE);
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a new mapping, wherever the kernel wants it.
    let page = unsafe { libc::mmap(ptr::null_mut(), size, access, flags, -1, 0) };
    if page == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the whole of the new mapping, which nobody else knows.
    if unsafe { libc::madvise(page, size, libc::MADV_WIPEONFORK) } != 0 {
        let error = io::Error::last_os_error();
        // SAFETY: as above; it is not used after this.
        unsafe { libc::munmap(page, size) };
        return Err(error);
    }
    // SAFETY: page-aligned, zeroed, and mapped for ever; only accessed atomically. In a forked
    // child it is mapped, too.
    Ok(unsafe { AtomicU32::from_ptr(page.cast()) })
}

/// The error for using an object of the parent in a forked child.
pub(crate) fn forked() -> io::Error {
    let why = "this event loop belongs to the process that made it, and this is a forked child; make another one here";
    io::Error::new(io::ErrorKind::Unsupported, why)
}

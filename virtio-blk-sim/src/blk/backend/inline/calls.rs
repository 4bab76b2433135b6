//! The system calls of the engine, and its clock. Tests have their own.
#![expect(unsafe_code, reason = "preadv2(2), pwritev2(2), clock_gettime(2) and getrusage(2) are not in std")]

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::gate::Switches;
use crate::blk::backend::file_ops::to_off_t;

pub(in crate::blk::backend) trait Calls {
    /// CLOCK_MONOTONIC.
    fn now_ns(&self) -> u64;

    /// The counters of the calling thread.
    fn switches(&self) -> Switches;

    /// pwritev2(2), with the flags RWF_*.
    ///
    /// # Safety
    /// What the array points to must be mapped.
    unsafe fn write(
        &self,
        file: BorrowedFd<'_>,
        data: &[libc::iovec],
        offset: u64,
        flags: i32,
    ) -> io::Result<usize>;

    /// preadv2(2), with the flags RWF_*.
    ///
    /// # Safety
    /// What the array points to must be mapped, and nobody may have a reference to it.
    unsafe fn read(
        &self,
        file: BorrowedFd<'_>,
        data: &[libc::iovec],
        offset: u64,
        flags: i32,
    ) -> io::Result<usize>;
}

/// The kernel's.
#[derive(Debug, Clone, Copy)]
pub(in crate::blk::backend) struct Kernel;

impl Calls for Kernel {
    #[inline]
    fn now_ns(&self) -> u64 {
        let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: `now` is ours. The call does not fail with this clock.
        unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
        // Neither is negative.
        (now.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(now.tv_nsec as u64)
    }

    fn switches(&self) -> Switches {
        // SAFETY: all-zero is a valid value of this structure of integers.
        let mut usage: libc::rusage = unsafe { mem::zeroed() };
        // SAFETY: `usage` is ours.
        unsafe { libc::getrusage(libc::RUSAGE_THREAD, &mut usage) };
        Switches { voluntary: usage.ru_nvcsw as u64, involuntary: usage.ru_nivcsw as u64 }
    }

    #[inline]
    unsafe fn write(
        &self,
        file: BorrowedFd<'_>,
        data: &[libc::iovec],
        offset: u64,
        flags: i32,
    ) -> io::Result<usize> {
        let (array, count, offset) = (data.as_ptr(), data.len() as i32, to_off_t(offset)?);
        // SAFETY: the caller's promise; the array is borrowed.
        result(unsafe { libc::pwritev2(file.as_raw_fd(), array, count, offset, flags) })
    }

    #[inline]
    unsafe fn read(
        &self,
        file: BorrowedFd<'_>,
        data: &[libc::iovec],
        offset: u64,
        flags: i32,
    ) -> io::Result<usize> {
        let (array, count, offset) = (data.as_ptr(), data.len() as i32, to_off_t(offset)?);
        // SAFETY: the caller's promise; the array is borrowed.
        result(unsafe { libc::preadv2(file.as_raw_fd(), array, count, offset, flags) })
    }
}

#[inline]
fn result(returned: isize) -> io::Result<usize> {
    usize::try_from(returned).map_err(|_| io::Error::last_os_error())
}

/// The first byte that a write may not touch without a SIGXFSZ, which would end a process that does
/// not ignore it (RLIMIT_FSIZE of setrlimit(2)).
pub(super) fn file_size_limit() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is ours. If the call fails, nothing is written inline.
    unsafe { libc::getrlimit(libc::RLIMIT_FSIZE, &mut limit) };
    limit.rlim_cur
}

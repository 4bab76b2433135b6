//! An eventfd and the system calls around it, each counted. Plain libc calls on purpose: event
//! loops are compared with these. Where glibc's function is a cancellation point, the call is made
//! by number: in a process with several threads a cancellation point costs two atomic operations,
//! which are not the kernel's.
#![expect(unsafe_code, reason = "the system calls that are measured here have no safe form")]

use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// System calls by kind, counted where they are made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Calls {
    pub(crate) reads: u64,
    pub(crate) writes: u64,
    /// ppoll, epoll_wait, epoll_pwait2
    pub(crate) waits: u64,
    /// io_uring_enter
    pub(crate) enters: u64,
    /// getppid(2), as a call that does nothing.
    pub(crate) empty: u64,
}

impl Calls {
    pub(crate) fn total(&self) -> u64 {
        self.reads + self.writes + self.waits + self.enters + self.empty
    }
}

/// The result of a system call that reports failure as -1.
pub(crate) fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Repeats the call while a signal interrupts it. With a handler for SIGINT installed, the waits
/// return EINTR.
pub(crate) fn retry(mut call: impl FnMut() -> libc::c_long) -> io::Result<libc::c_long> {
    loop {
        match check(call()) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// An eventfd, closed on drop.
#[derive(Debug)]
pub(crate) struct EventFd(OwnedFd);

impl EventFd {
    /// eventfd2(2) with EFD_CLOEXEC and `flags`.
    pub(crate) fn new(initial: u32, flags: libc::c_int) -> io::Result<Self> {
        // SAFETY: no pointers; the result is checked before use.
        let fd = check(libc::c_long::from(unsafe { libc::eventfd(initial, flags | libc::EFD_CLOEXEC) }))?;
        // SAFETY: the kernel just gave us this descriptor, and nobody else knows it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd as RawFd) }))
    }

    /// Adds `value` to the counter. Blocks or returns EAGAIN only if the counter is near 2^64.
    #[inline]
    pub(crate) fn add(&self, value: u64, calls: &mut Calls) -> io::Result<()> {
        let call = || {
            calls.writes += 1;
            // SAFETY: the buffer is a live u64 of the length given, and is only read.
            unsafe { libc::syscall(libc::SYS_write, self.as_raw_fd(), &raw const value, size_of::<u64>()) }
        };
        retry(call).map(drop)
    }

    /// Adds one to the counter: a kick.
    #[inline]
    pub(crate) fn signal(&self, calls: &mut Calls) -> io::Result<()> {
        self.add(1, calls)
    }

    /// Reads the counter and resets it (or subtracts one, for a semaphore). Returns `None` if it
    /// was zero and the eventfd is non-blocking.
    #[inline]
    pub(crate) fn read(&self, calls: &mut Calls) -> io::Result<Option<u64>> {
        let mut value = 0u64;
        let call = || {
            calls.reads += 1;
            // SAFETY: the buffer is a live u64 of the length given, and is ours to be written.
            unsafe { libc::syscall(libc::SYS_read, self.as_raw_fd(), &raw mut value, size_of::<u64>()) }
        };
        match retry(call) {
            Ok(_) => Ok(Some(value)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl From<EventFd> for OwnedFd {
    fn from(eventfd: EventFd) -> Self {
        eventfd.0
    }
}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for EventFd {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// The cheapest system call that enters the kernel: getppid(2), which glibc never caches.
#[inline]
pub(crate) fn empty_call(calls: &mut Calls) {
    calls.empty += 1;
    // SAFETY: getppid(2) takes nothing and cannot fail.
    unsafe { libc::getppid() };
}

/// Returns `clock` in nanoseconds. For CLOCK_MONOTONIC and CLOCK_THREAD_CPUTIME_ID.
#[inline]
pub(crate) fn clock_ns(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is ours to be written. For the clocks above the call cannot fail.
    unsafe { libc::clock_gettime(clock, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_eventfd_counts_and_empties() {
        let mut calls = Calls::default();
        let eventfd = EventFd::new(2, libc::EFD_NONBLOCK).unwrap();
        eventfd.signal(&mut calls).unwrap();
        eventfd.add(4, &mut calls).unwrap();
        assert_eq!(eventfd.read(&mut calls).unwrap(), Some(7));
        assert_eq!(eventfd.read(&mut calls).unwrap(), None);
        assert_eq!(calls, Calls { reads: 2, writes: 2, ..Calls::default() });
        assert_eq!(calls.total(), 4);
    }

    #[test]
    fn a_semaphore_gives_one_at_a_time() {
        let mut calls = Calls::default();
        let eventfd = EventFd::new(2, libc::EFD_NONBLOCK | libc::EFD_SEMAPHORE).unwrap();
        let values: Vec<_> = (0..3).map(|_| eventfd.read(&mut calls).unwrap()).collect();
        assert_eq!(values, [Some(1), Some(1), None]);
    }

    #[test]
    fn a_full_counter_is_an_error_and_no_hang() {
        let mut calls = Calls::default();
        let eventfd = EventFd::new(0, libc::EFD_NONBLOCK).unwrap();
        eventfd.add(u64::MAX - 1, &mut calls).unwrap();
        assert_eq!(eventfd.signal(&mut calls).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn clocks_go_forward() {
        let before = clock_ns(libc::CLOCK_MONOTONIC);
        assert!(before > 0 && clock_ns(libc::CLOCK_MONOTONIC) >= before);
        let mut calls = Calls::default();
        empty_call(&mut calls);
        assert_eq!(calls.total(), 1);
    }
}

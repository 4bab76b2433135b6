//! eventfd(2), and detection of two proposed kernel extensions: the flag `EFD_AUTORESET` and the
//! ioctls `EFD_IOC_SET_MAXIMUM` and `EFD_IOC_GET_MAXIMUM`.
#![expect(
    unsafe_code,
    reason = "eventfd(2), and read(2), write(2) and ioctl(2) of eight bytes on the caller's stack"
)]

use super::check;
use super::ppoll::is_writable;
use super::signal::{Signal, Unsent};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::OnceLock;

/// The flag of the 2020 proposal, "eventfd: add EFD_AUTORESET flag": the counter is reset when
/// readiness is reported, so that read(2) is not needed. Stock kernels return EINVAL.
const EFD_AUTORESET: libc::c_int = 1 << 6;

/// `_IOW('J', 0, u64)` of the 2026 proposal, "eventfd: add configurable maximum counter value for
/// flow control" (v5). Stock kernels return ENOTTY.
const EFD_IOC_SET_MAXIMUM: libc::Ioctl = libc::_IOW::<u64>(b'J' as u32, 0);

/// `_IOR('J', 1, u64)` of the same proposal.
const EFD_IOC_GET_MAXIMUM: libc::Ioctl = libc::_IOR::<u64>(b'J' as u32, 1);

/// A non-blocking, close-on-exec eventfd counter.
#[derive(Debug)]
pub(crate) struct EventFd {
    fd: OwnedFd,
    /// In place of write(2), if other holders of the file are not trusted. Then reads do not trust
    /// O_NONBLOCK either.
    signal: Option<Box<Signal>>,
}

impl EventFd {
    /// Creates a counter at zero.
    pub(crate) fn new() -> io::Result<Self> {
        Self::with_flags(0)
    }

    /// Creates a counter that the kernel resets when it delivers readiness. EINVAL if the kernel
    /// does not support this.
    pub(crate) fn new_autoreset() -> io::Result<Self> {
        Self::with_flags(EFD_AUTORESET)
    }

    /// Creates a semaphore at zero: each read takes one (EFD_SEMAPHORE).
    pub(crate) fn new_semaphore() -> io::Result<Self> {
        Self::with_flags(libc::EFD_SEMAPHORE)
    }

    /// Takes over a descriptor that the caller has checked to be a non-blocking eventfd.
    pub(crate) fn from_owned(fd: OwnedFd) -> Self {
        Self { fd, signal: None }
    }

    /// The same for a file whose other holders may clear O_NONBLOCK at any time: `ring`, `read` and
    /// `clear` never block all the same. The descriptor comes back with the error.
    ///
    /// # Errors
    /// As for [`Signal::new`].
    pub(crate) fn from_peer(fd: OwnedFd) -> Result<Self, (io::Error, OwnedFd)> {
        match Signal::new(fd.as_fd()) {
            Ok(signal) => Ok(Self { fd, signal: Some(Box::new(signal)) }),
            Err(error) => Err((error, fd)),
        }
    }

    fn with_flags(flags: libc::c_int) -> io::Result<Self> {
        // SAFETY: eventfd(2) takes two integers.
        let fd = unsafe { libc::eventfd(0, flags | libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) };
        let fd = check(fd.into())?;
        // SAFETY: the kernel has just returned this descriptor; nothing else owns it.
        Ok(Self::from_owned(unsafe { OwnedFd::from_raw_fd(fd as RawFd) }))
    }

    /// Adds `n` to the counter and wakes the waiters. One write(2), repeated on EINTR; `WouldBlock`
    /// when the counter is saturated.
    #[inline]
    pub(crate) fn write(&self, n: u64) -> io::Result<()> {
        loop {
            // SAFETY: eight readable bytes, as eventfd(2) requires.
            match transfer(unsafe { libc::syscall(libc::SYS_write, self.as_raw_fd(), &raw const n, 8usize) })
            {
                Ok(()) => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Adds one to the counter. Never blocks: a full counter is drained first. One write(2), three
    /// system calls if the counter was full; or one io_uring_enter(2) for a peer's file, see
    /// `ring_without_signal` if that is refused.
    ///
    /// # Errors
    /// What write(2) returns for a descriptor that is no longer an eventfd, or as for
    /// [`Signal::send`].
    #[inline]
    pub(crate) fn ring(&self) -> io::Result<()> {
        if let Some(signal) = &self.signal {
            return signal.send(self.as_fd()).or_else(|unsent| self.ring_without_signal(unsent));
        }
        let one = 1u64;
        // SAFETY: eight readable bytes, as eventfd(2) requires.
        let written = unsafe { libc::syscall(libc::SYS_write, self.as_raw_fd(), &raw const one, 8usize) };
        if written < 0 { self.ring_again(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// `ring` for a peer's file if its ring cannot be made, or io_uring_enter(2) was refused.
    /// Writes if poll(2) finds room. If there is none, the file is readable already. A peer that
    /// fills the counter in between, with O_NONBLOCK off, can block this.
    #[cold]
    fn ring_without_signal(&self, unsent: Unsent) -> io::Result<()> {
        if let Unsent::Failed(error) = unsent {
            return Err(error);
        }
        if is_writable(self.as_raw_fd())? { self.write(1) } else { Ok(()) }
    }

    /// The slow path of `ring`, after an error.
    #[cold]
    fn ring_again(&self, error: io::Error) -> io::Result<()> {
        let mut result = Err(error);
        loop {
            match result {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    // 2^64 - 2 rings without a read, or a peer filled the counter. The drained
                    // count need not be kept: the write that follows rings for all of them.
                    self.read()?;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
            result = self.write(1);
        }
    }

    /// Takes the count and resets it to zero; `None` if it was zero. One read(2), repeated on
    /// EINTR.
    #[inline]
    pub(crate) fn read(&self) -> io::Result<Option<u64>> {
        if self.signal.is_some() {
            return self.read_nowait();
        }
        let mut count = 0u64;
        loop {
            // SAFETY: eight writable bytes, as eventfd(2) requires.
            match transfer(unsafe { libc::syscall(libc::SYS_read, self.as_raw_fd(), &raw mut count, 8usize) })
            {
                Ok(()) => return Ok(Some(count)),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(e) => return Err(e),
            }
        }
    }

    /// Resets the count to zero. Returns false if it was zero. One read(2), repeated on EINTR.
    #[inline]
    pub(crate) fn clear(&self) -> io::Result<bool> {
        #[cold]
        fn failed(this: &EventFd) -> io::Result<bool> {
            match io::Error::last_os_error() {
                e if e.kind() == io::ErrorKind::Interrupted => this.read().map(|count| count.is_some()),
                e if e.kind() == io::ErrorKind::WouldBlock => Ok(false),
                e => Err(e),
            }
        }
        if self.signal.is_some() {
            return self.read_nowait().map(|count| count.is_some());
        }
        let mut count = 0u64;
        // SAFETY: eight writable bytes, as eventfd(2) requires.
        let read = unsafe { libc::syscall(libc::SYS_read, self.as_raw_fd(), &raw mut count, 8usize) };
        if read < 0 { failed(self) } else { Ok(true) }
    }

    /// `read` for a file that may be blocking: preadv2(2) with RWF_NOWAIT, whatever O_NONBLOCK is.
    #[cold]
    fn read_nowait(&self) -> io::Result<Option<u64>> {
        let mut count = 0u64;
        let buffer = libc::iovec { iov_base: (&raw mut count).cast(), iov_len: 8 };
        loop {
            // SAFETY: one buffer of eight writable bytes; -1 is for files without an offset.
            let read = unsafe { libc::preadv2(self.as_raw_fd(), &raw const buffer, 1, -1, libc::RWF_NOWAIT) };
            match transfer(read as libc::c_long) {
                Ok(()) => return Ok(Some(count)),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(e) => return Err(e),
            }
        }
    }
}

/// What an operation of a ring does to ring an eventfd, without ever blocking. The descriptors are
/// open as long as the eventfd.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ByRing {
    /// A WRITE of 1 with RWF_NOWAIT to the eventfd itself.
    Write(RawFd),
    /// A message to a ring, whose completions signal the eventfd.
    Message(RawFd),
}

impl EventFd {
    /// How a ring can ring it. `None` if it has to be rung otherwise. No system call, except for
    /// the first time for a peer's file.
    #[inline]
    pub(crate) fn by_ring(&self) -> Option<ByRing> {
        match &self.signal {
            None => Some(ByRing::Write(self.as_raw_fd())),
            Some(signal) => signal.target(self.as_fd()).map(ByRing::Message),
        }
    }
}

/// The result of read(2) and write(2), called by number: glibc's functions are cancellation points,
/// which costs each call two locked operations in a process of several threads. A non-blocking
/// eventfd never blocks, so it needs no cancellation point.
#[inline]
fn transfer(result: libc::c_long) -> io::Result<()> {
    check(result).map(drop)
}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for EventFd {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// Bounds the counter of an eventfd: write(2) of `n` is admitted while `maximum > count && maximum
/// - count > n`, so the counter never exceeds `maximum - 1`; otherwise the write returns EAGAIN or
///   sleeps. Never blocks.
///
/// # Errors
/// ENOTTY if the kernel does not implement the proposal; EINVAL if the counter is at `maximum` or
/// above it.
pub(crate) fn set_maximum(fd: BorrowedFd<'_>, maximum: u64) -> io::Result<()> {
    // SAFETY: EFD_IOC_SET_MAXIMUM reads eight bytes, which live across the call. A kernel without
    // it, or another kind of file, rejects the number: 'J' is not used by any other driver.
    let r = unsafe { libc::ioctl(fd.as_raw_fd(), EFD_IOC_SET_MAXIMUM, &raw const maximum) };
    check(r.into()).map(drop)
}

/// Returns the bound of an eventfd's counter; `u64::MAX` if none was set. Never blocks.
///
/// # Errors
/// ENOTTY if the kernel does not implement the proposal.
pub(crate) fn maximum(fd: BorrowedFd<'_>) -> io::Result<u64> {
    let mut maximum = 0u64;
    // SAFETY: EFD_IOC_GET_MAXIMUM writes eight bytes, which live across the call; other kernels
    // reject the number, as above.
    let r = unsafe { libc::ioctl(fd.as_raw_fd(), EFD_IOC_GET_MAXIMUM, &raw mut maximum) };
    check(r.into())?;
    Ok(maximum)
}

/// Returns true if this kernel bounds eventfds as the proposal says. Tested once per process on a
/// private eventfd; true only if the test observes that the bound holds. Never blocks.
pub(crate) fn probe_maximum() -> bool {
    static WORKS: OnceLock<bool> = OnceLock::new();
    let seen = WORKS.get().copied();
    seen.unwrap_or_else(|| match observe_maximum() {
        Ok(works) => *WORKS.get_or_init(|| works),
        // The kernel does not know the ioctl.
        Err(e) if e.raw_os_error() == Some(libc::ENOTTY) => *WORKS.get_or_init(|| false),
        // No descriptor or memory left: tried again next time.
        Err(_) => false,
    })
}

fn observe_maximum() -> io::Result<bool> {
    let fd = EventFd::new()?;
    let fresh = maximum(fd.as_fd())?;
    set_maximum(fd.as_fd(), 3)?;
    fd.write(2)?;
    let refused = fd.write(1).is_err_and(|e| e.kind() == io::ErrorKind::WouldBlock);
    // The counter is 2 now, so a bound that it has already reached must be rejected.
    let kept = set_maximum(fd.as_fd(), 2).is_err_and(|e| e.raw_os_error() == Some(libc::EINVAL));
    set_maximum(fd.as_fd(), 4)?;
    fd.write(1)?;
    Ok(fresh == u64::MAX && refused && kept && maximum(fd.as_fd())? == 4 && fd.read()? == Some(3))
}

/// Returns the count of an eventfd without changing it. It is only available in /proc/self/fdinfo;
/// an error if that is not mounted.
pub(crate) fn count(fd: BorrowedFd<'_>) -> io::Result<u64> {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd()))?;
    let count = info.lines().find_map(|line| line.strip_prefix("eventfd-count:"));
    count
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "this descriptor is not an eventfd"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ioctl_numbers_are_those_of_the_proposal() {
        assert_eq!((EFD_IOC_SET_MAXIMUM, EFD_IOC_GET_MAXIMUM), (0x4008_4a00, 0x8008_4a01));
    }

    #[test]
    fn a_maximum_is_probed_and_never_half_there() {
        let fd = EventFd::new().unwrap();
        if probe_maximum() {
            assert_eq!(maximum(fd.as_fd()).unwrap(), u64::MAX);
        } else {
            assert_eq!(maximum(fd.as_fd()).unwrap_err().raw_os_error(), Some(libc::ENOTTY));
            assert_eq!(set_maximum(fd.as_fd(), 10).unwrap_err().raw_os_error(), Some(libc::ENOTTY));
        }
    }

    #[test]
    fn counts_add_up_and_a_read_resets() {
        let fd = EventFd::new().unwrap();
        assert_eq!(fd.read().unwrap(), None);
        fd.write(2).unwrap();
        fd.write(3).unwrap();
        assert_eq!(fd.read().unwrap(), Some(5));
        assert_eq!(fd.read().unwrap(), None);
    }

    #[test]
    fn the_count_can_be_seen_without_taking_it() {
        let fd = EventFd::new().unwrap();
        fd.write(0x1234).unwrap();
        assert_eq!(count(fd.as_fd()).unwrap(), 0x1234);
        assert_eq!(fd.read().unwrap(), Some(0x1234));
        let (pipe, _other) = std::io::pipe().unwrap();
        assert!(count(pipe.as_fd()).is_err());
    }

    #[test]
    fn a_peers_counter_never_blocks() {
        let fd = EventFd::with_flags(0).unwrap();
        let peer = fd.fd.try_clone().unwrap();
        // SAFETY: integers only; 0 clears O_NONBLOCK.
        assert_eq!(unsafe { libc::fcntl(peer.as_raw_fd(), libc::F_SETFL, 0) }, 0);
        let fd = match EventFd::from_peer(fd.fd) {
            Ok(fd) => fd,
            Err((error, _)) => return println!("skipped: {error}"),
        };
        assert!(fd.read().unwrap().is_none() && !fd.clear().unwrap());
        fd.ring().unwrap();
        fd.ring().unwrap();
        assert_eq!(fd.read().unwrap(), Some(2));
        fd.write(u64::MAX - 1).unwrap();
        (0..100).for_each(|_| fd.ring().unwrap());
        assert!(fd.clear().unwrap() && !fd.clear().unwrap());
    }

    #[test]
    fn a_saturated_counter_would_block() {
        let fd = EventFd::new().unwrap();
        fd.write(u64::MAX - 1).unwrap();
        assert_eq!(fd.write(1).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }
}

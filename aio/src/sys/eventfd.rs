//! eventfd(2), and what this kernel makes of the flag `EFD_AUTORESET` and of the ioctls `EFD_IOC_*_MAXIMUM`.
#![expect(
    unsafe_code,
    reason = "eventfd(2), and read(2), write(2) and ioctl(2) of eight bytes that the caller's stack owns"
)]

use super::{check, epoll::Epoll, ppoll};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::OnceLock;

/// The flag of the 2020 proposal, "eventfd: add EFD_AUTORESET flag": the counter is reset where readiness is
/// reported, so that nobody needs read(2). Stock kernels answer EINVAL.
const EFD_AUTORESET: libc::c_int = 1 << 6;

/// The ioctls of the 2026 proposal, "eventfd: add configurable per-fd counter maximum for flow control" (v5), which take a
/// pointer to a `u64`. Stock kernels answer ENOTTY.
const EFD_IOC_SET_MAXIMUM: libc::Ioctl = libc::_IOW::<u64>(b'J' as u32, 0);
const EFD_IOC_GET_MAXIMUM: libc::Ioctl = libc::_IOR::<u64>(b'J' as u32, 1);

/// A non-blocking, close-on-exec eventfd counter.
#[derive(Debug)]
pub(crate) struct EventFd(OwnedFd);

impl EventFd {
    /// A counter at zero.
    pub(crate) fn new() -> io::Result<Self> {
        Self::with_flags(0)
    }

    /// A counter that the kernel resets when it delivers readiness; EINVAL where it cannot.
    pub(crate) fn new_autoreset() -> io::Result<Self> {
        Self::with_flags(EFD_AUTORESET)
    }

    /// A counter at zero of which each read takes one (EFD_SEMAPHORE).
    pub(crate) fn new_semaphore() -> io::Result<Self> {
        Self::with_flags(libc::EFD_SEMAPHORE)
    }

    /// Takes over a descriptor that the caller has checked to be a non-blocking eventfd.
    pub(crate) fn from_owned(fd: OwnedFd) -> Self {
        Self(fd)
    }

    fn with_flags(flags: libc::c_int) -> io::Result<Self> {
        // SAFETY: eventfd(2) takes two integers.
        let fd = unsafe { libc::eventfd(0, flags | libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) };
        let fd = check(fd.into())?;
        // SAFETY: the kernel has just given us this descriptor; nobody else owns it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd as RawFd) }))
    }

    /// Adds `n` to the counter and wakes whoever waits. One write(2), repeated on EINTR; `WouldBlock` when the
    /// counter is saturated.
    pub(crate) fn write(&self, n: u64) -> io::Result<()> {
        loop {
            // SAFETY: eight readable bytes, as eventfd(2) demands.
            let r = unsafe { libc::write(self.as_raw_fd(), (&raw const n).cast(), 8) };
            match check(r as libc::c_long) {
                Ok(_) => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Takes the count and resets it to zero; `None` if it was zero. One read(2), repeated on EINTR.
    pub(crate) fn read(&self) -> io::Result<Option<u64>> {
        let mut count = 0u64;
        loop {
            // SAFETY: eight writable bytes, as eventfd(2) demands.
            let r = unsafe { libc::read(self.as_raw_fd(), (&raw mut count).cast(), 8) };
            match check(r as libc::c_long) {
                Ok(_) => return Ok(Some(count)),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(e) => return Err(e),
            }
        }
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

/// What `EFD_AUTORESET` does on this kernel, by observation: a flag that is accepted proves nothing (emulated
/// kernels ignore bits that they do not know).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AutoresetFlag {
    /// The kernel refuses the flag, or takes it and does not reset.
    Absent,
    /// Reset inside the file's poll operation, as proposed in 2020: right for ppoll(2), and loses events under
    /// epoll, where ADD and MOD poll the file without delivering anything.
    AtPoll,
    /// Reset when an event is delivered to user space: right for ppoll and epoll.
    AtDelivery,
}

/// Bounds a counter: from now on a write(2) of `n` is admitted if `maximum > count && maximum - count > n`, and otherwise
/// would block. ENOTTY on a stock kernel; EINVAL if the count has reached `maximum` already.
pub(crate) fn set_maximum(fd: BorrowedFd<'_>, maximum: u64) -> io::Result<()> {
    // SAFETY: the kernel reads eight bytes, which live across the call.
    let r = unsafe { libc::ioctl(fd.as_raw_fd(), EFD_IOC_SET_MAXIMUM, &raw const maximum) };
    check(r.into()).map(drop)
}

/// The maximum of a counter; `u64::MAX` if none was set. ENOTTY on a stock kernel.
pub(crate) fn maximum(fd: BorrowedFd<'_>) -> io::Result<u64> {
    let mut maximum = 0u64;
    // SAFETY: the kernel writes eight bytes, which live across the call.
    let r = unsafe { libc::ioctl(fd.as_raw_fd(), EFD_IOC_GET_MAXIMUM, &raw mut maximum) };
    check(r.into()).map(|_| maximum)
}

/// True if this kernel bounds a counter, by observation. Probes once per process, on an eventfd of its own.
pub(crate) fn has_maximum() -> bool {
    static WORKS: OnceLock<bool> = OnceLock::new();
    *WORKS.get_or_init(|| observe_maximum().unwrap_or(false))
}

fn observe_maximum() -> io::Result<bool> {
    let fd = EventFd::new()?;
    if maximum(fd.as_fd())? != u64::MAX {
        return Ok(false);
    }
    set_maximum(fd.as_fd(), 2)?;
    fd.write(1)?;
    let full = fd.write(1).is_err_and(|e| e.kind() == io::ErrorKind::WouldBlock);
    Ok(full && maximum(fd.as_fd())? == 2 && fd.read()? == Some(1) && fd.write(1).is_ok())
}

/// The count of an eventfd, left as it is. It is only shown in /proc/self/fdinfo; an error where that is not mounted.
pub(crate) fn count(fd: BorrowedFd<'_>) -> io::Result<u64> {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd()))?;
    let count = info.lines().find_map(|line| line.strip_prefix("eventfd-count:"));
    count
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "this descriptor is not an eventfd"))
}

/// Probes once per process, on eventfds of its own. Never blocks.
pub(crate) fn autoreset_flag() -> AutoresetFlag {
    static FLAG: OnceLock<AutoresetFlag> = OnceLock::new();
    *FLAG.get_or_init(|| observe_autoreset().unwrap_or(AutoresetFlag::Absent))
}

/// Whether a look by ppoll(2) resets this eventfd. It is left readable, so at worst its handler is called for nothing.
pub(crate) fn resets_itself(fd: BorrowedFd<'_>) -> io::Result<bool> {
    let fd = EventFd(fd.try_clone_to_owned()?);
    fd.write(1)?;
    let (first, second) = (ppoll::is_readable(fd.as_raw_fd())?, ppoll::is_readable(fd.as_raw_fd())?);
    fd.write(1)?;
    Ok(first && !second)
}

fn observe_autoreset() -> io::Result<AutoresetFlag> {
    let fd = EventFd::new_autoreset()?;
    fd.write(1)?;
    let (first, second) = (ppoll::is_readable(fd.as_raw_fd())?, ppoll::is_readable(fd.as_raw_fd())?);
    if !first || second {
        return Ok(AutoresetFlag::Absent);
    }
    // Written before it is added: the proposal's patch consumes the count in EPOLL_CTL_ADD and delivers nothing.
    fd.write(1)?;
    let epoll = Epoll::new()?;
    epoll.add(fd.as_raw_fd(), libc::EPOLLIN as u32, 0)?;
    let mut events = [libc::epoll_event { events: 0, u64: 0 }];
    Ok(match epoll.wait(&mut events, Some(0))? {
        0 => AutoresetFlag::AtPoll,
        _ => AutoresetFlag::AtDelivery,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn the_ioctls_have_the_proposals_numbers() {
        // On every architecture with the generic encoding.
        if cfg!(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")) {
            assert_eq!((EFD_IOC_SET_MAXIMUM as u32, EFD_IOC_GET_MAXIMUM as u32), (0x4008_4a00, 0x8008_4a01));
        }
    }

    #[test]
    fn a_saturated_counter_would_block() {
        let fd = EventFd::new().unwrap();
        fd.write(u64::MAX - 1).unwrap();
        assert_eq!(fd.write(1).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }
}

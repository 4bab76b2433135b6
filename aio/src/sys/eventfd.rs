//! eventfd(2), and what this kernel makes of the flag `EFD_AUTORESET`.
#![expect(
    unsafe_code,
    reason = "eventfd(2), read(2) and write(2) of eight bytes that the caller's stack owns"
)]

use super::{check, epoll::Epoll, ppoll};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::OnceLock;

/// The flag of the 2020 proposal, "eventfd: add EFD_AUTORESET flag": the counter is reset where readiness is
/// reported, so that nobody needs read(2). Stock kernels answer EINVAL.
const EFD_AUTORESET: libc::c_int = 1 << 6;

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
    fn a_saturated_counter_would_block() {
        let fd = EventFd::new().unwrap();
        fd.write(u64::MAX - 1).unwrap();
        assert_eq!(fd.write(1).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }
}

//! epoll(7) without a library.
#![expect(unsafe_code, reason = "the system calls that are measured here have no safe form")]

use super::syscall::check;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// An epoll instance, closed on drop.
#[derive(Debug)]
pub(crate) struct EpollFd(OwnedFd);

impl EpollFd {
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: no pointers; the result is checked before use.
        let fd = check(libc::c_long::from(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) }))?;
        // SAFETY: the kernel just gave us this descriptor, and nobody else knows it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd as RawFd) }))
    }

    /// epoll_ctl(2): `operation` is EPOLL_CTL_ADD or another, `events` are flags such as EPOLLIN,
    /// and `data` comes back with each event.
    pub(crate) fn control(
        &self,
        operation: libc::c_int,
        fd: RawFd,
        events: libc::c_int,
        data: u64,
    ) -> io::Result<()> {
        let mut event = libc::epoll_event { events: events as u32, u64: data };
        // SAFETY: `event` lives across the call, which only reads it. A bad `fd` is an error.
        let result = unsafe { libc::epoll_ctl(self.as_raw_fd(), operation, fd, &raw mut event) };
        check(result.into()).map(drop)
    }

    /// epoll_wait(2) with a timeout in milliseconds, -1 for none. Returns the number of events, or
    /// -1 with errno.
    #[inline]
    pub(crate) fn wait(&self, events: &mut [libc::epoll_event], timeout_ms: libc::c_int) -> libc::c_long {
        let (epoll, room, events) = (self.as_raw_fd(), events.len() as libc::c_int, events.as_mut_ptr());
        // SAFETY: room for as many events as are asked for, in a slice that is borrowed for the
        // call.
        #[cfg(target_arch = "x86_64")]
        let ready = unsafe { libc::syscall(libc::SYS_epoll_wait, epoll, events, room, timeout_ms) };
        // SAFETY: as above. Newer architectures have no such call; libc makes it of epoll_pwait.
        #[cfg(not(target_arch = "x86_64"))]
        let ready = unsafe { libc::epoll_wait(epoll, events, room, timeout_ms) }.into();
        ready
    }
}

impl AsRawFd for EpollFd {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

//! epoll(7) with nanosecond timeouts.
#![expect(unsafe_code, reason = "epoll system calls on event buffers borrowed from the caller")]

use super::{TimeoutNs, check, timespec};
use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

/// An epoll instance.
#[derive(Debug)]
pub(crate) struct Epoll {
    fd: OwnedFd,
    /// Whether epoll_pwait2 (Linux 5.11) exists. Without it, timeouts are rounded up to
    /// milliseconds. Waiting with ppoll on the epoll descriptor itself would keep the precision,
    /// but is not an option: it polls the members, which consumes the event of an auto-reset
    /// eventfd (see the probe in `sys::eventfd`).
    has_pwait2: Cell<bool>,
}

impl Epoll {
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: the call takes one integer.
        let fd = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) }.into())?;
        // SAFETY: the kernel has just returned this descriptor; nothing else owns it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd as RawFd) };
        Ok(Self { fd, has_pwait2: Cell::new(true) })
    }

    /// EPOLL_CTL_ADD, level-triggered unless `events` has EPOLLET. `data` is returned with each
    /// event.
    pub(crate) fn add(&self, fd: RawFd, events: u32, data: u64) -> io::Result<()> {
        self.ctl(libc::EPOLL_CTL_ADD, fd, events, data)
    }

    /// EPOLL_CTL_MOD: new events and new data for a descriptor that is in the set.
    pub(crate) fn modify(&self, fd: RawFd, events: u32, data: u64) -> io::Result<()> {
        self.ctl(libc::EPOLL_CTL_MOD, fd, events, data)
    }

    /// EPOLL_CTL_ADD, or EPOLL_CTL_MOD if the descriptor is in the set already. Returns how many
    /// calls that took.
    pub(crate) fn add_or_modify(&self, fd: RawFd, events: u32, data: u64) -> io::Result<u64> {
        match self.add(fd, events, data) {
            Err(e) if e.raw_os_error() == Some(libc::EEXIST) => self.modify(fd, events, data).map(|()| 2),
            result => result.map(|()| 1),
        }
    }

    /// EPOLL_CTL_DEL.
    pub(crate) fn delete(&self, fd: RawFd) -> io::Result<()> {
        self.ctl(libc::EPOLL_CTL_DEL, fd, 0, 0)
    }

    /// The descriptor of the set itself. poll(2) reports it readable while an event is in the set.
    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    fn ctl(&self, op: libc::c_int, fd: RawFd, events: u32, data: u64) -> io::Result<()> {
        let mut event = libc::epoll_event { events, u64: data };
        // SAFETY: `event` lives across the call, which only reads it.
        let r = unsafe { libc::epoll_ctl(self.fd.as_raw_fd(), op, fd, &raw mut event) };
        check(r.into()).map(drop)
    }

    /// Sleeps until an event or the timeout; returns the number of events filled in. EINTR is
    /// returned as an error.
    #[inline(always)]
    pub(crate) fn wait(&self, events: &mut [libc::epoll_event], timeout: TimeoutNs) -> io::Result<usize> {
        match timeout {
            None => self.wait_ms(events, -1),
            Some(0) => self.wait_ms(events, 0),
            Some(ns) => self.wait_ns(events, ns),
        }
    }

    /// Waits with a timeout that needs nanosecond precision.
    #[inline(never)]
    fn wait_ns(&self, events: &mut [libc::epoll_event], ns: u64) -> io::Result<usize> {
        if self.has_pwait2.get() {
            match self.pwait2(events, ns) {
                // epoll_pwait2 itself never returns EPERM: it comes from seccomp filters that are
                // older than the call.
                Err(e) if matches!(e.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)) => {
                    self.has_pwait2.set(false)
                }
                result => return result,
            }
        }
        // Rounded up: rounding down would wake early and spin until the deadline.
        self.wait_ms(events, i32::try_from(ns.div_ceil(1_000_000)).unwrap_or(i32::MAX))
    }

    /// epoll_wait(2), which costs some nanoseconds less than epoll_pwait2. Called by number on
    /// architectures that have it: the C library's function is a cancellation point, which costs
    /// two locked operations in a multi-threaded process.
    #[inline(always)]
    fn wait_ms(&self, events: &mut [libc::epoll_event], ms: i32) -> io::Result<usize> {
        let (fd, room) = (self.fd.as_raw_fd(), events.len() as i32);
        // SAFETY: the kernel writes at most `events.len()` entries to the slice, which lives across
        // the call.
        #[cfg(target_arch = "x86_64")]
        let n = unsafe { libc::syscall(libc::SYS_epoll_wait, fd, events.as_mut_ptr(), room, ms) };
        // SAFETY: as above.
        #[cfg(not(target_arch = "x86_64"))]
        let n = unsafe { libc::epoll_wait(fd, events.as_mut_ptr(), room, ms) }.into();
        check(n).map(|n| n as usize)
    }

    fn pwait2(&self, events: &mut [libc::epoll_event], ns: u64) -> io::Result<usize> {
        let ts = timespec(ns);
        // SAFETY: the kernel writes at most `events.len()` entries to the slice and reads `ts`,
        // both of which are live; a null signal mask (its size is then ignored) leaves the mask
        // alone.
        let n = unsafe {
            libc::syscall(
                libc::SYS_epoll_pwait2,
                self.fd.as_raw_fd(),
                events.as_mut_ptr(),
                events.len(),
                &raw const ts,
                ptr::null::<libc::sigset_t>(),
                0usize,
            )
        };
        check(n).map(|n| n as usize)
    }
}

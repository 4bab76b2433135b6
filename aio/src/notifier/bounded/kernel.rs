//! The kernel method: the count is an eventfd's, and the kernel enforces the bound
//! (`EFD_IOC_SET_MAXIMUM`).

use super::calls::{Calls, bump};
use super::error::count_too_high;
use super::method::{BoundedMethod, Counting};
use super::wait::{Patience, until};
use crate::reset::unsupported;
use crate::sys::eventfd::{self, EventFd};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

#[derive(Debug)]
pub(crate) struct Kernel {
    count: EventFd,
    /// Written once to stop, and never read.
    stop: EventFd,
    counting: Counting,
}

impl Kernel {
    pub(super) fn new(maximum: u64, counting: Counting) -> io::Result<Self> {
        let count = new_count(counting)?;
        eventfd::set_maximum(count.as_fd(), maximum)?;
        Ok(Self { count, stop: EventFd::new()?, counting })
    }

    pub(super) fn from_fds(counting: Counting, [count, stop]: [OwnedFd; 2]) -> io::Result<Self> {
        if let Some(why) = BoundedMethod::Kernel.obstacle() {
            return Err(unsupported(why));
        }
        Ok(Self { count: adopt(count)?, stop: adopt(stop)?, counting })
    }

    pub(super) fn fds(&self) -> Vec<BorrowedFd<'_>> {
        vec![self.count.as_fd(), self.stop.as_fd()]
    }

    pub(super) fn counting(&self) -> Counting {
        self.counting
    }

    pub(super) fn doorbell(&self) -> BorrowedFd<'_> {
        self.count.as_fd()
    }

    pub(crate) fn room(&self) -> BorrowedFd<'_> {
        self.count.as_fd()
    }

    pub(super) fn try_add(&self, n: u64, calls: &Calls) -> io::Result<bool> {
        write(&self.count, n, calls)
    }

    pub(super) fn add(&self, n: u64, calls: &Calls) -> io::Result<()> {
        // EPOLLOUT only says that there is room for one.
        let patience = || match n {
            0 | 1 => Ok(Patience::level(self.count.as_fd(), libc::POLLOUT)),
            _ => Patience::edge(self.count.as_fd(), libc::POLLOUT, &self.stop),
        };
        until(&self.stop, calls, patience, || Ok(self.try_add(n, calls)?.then_some(())))
    }

    pub(super) fn try_take(&self, calls: &Calls) -> io::Result<Option<u64>> {
        bump(&calls.reads);
        self.count.read()
    }

    pub(super) fn take(&self, calls: &Calls) -> io::Result<u64> {
        let patience = || Ok(Patience::level(self.count.as_fd(), libc::POLLIN));
        until(&self.stop, calls, patience, || self.try_take(calls))
    }

    pub(super) fn set_maximum(&self, maximum: u64, _: &Calls) -> io::Result<()> {
        eventfd::set_maximum(self.count.as_fd(), maximum).map_err(|e| match e.raw_os_error() {
            Some(libc::EINVAL) => count_too_high(maximum),
            _ => e,
        })
    }

    pub(super) fn maximum(&self, _: &Calls) -> io::Result<u64> {
        eventfd::maximum(self.count.as_fd())
    }

    pub(super) fn count(&self) -> io::Result<u64> {
        eventfd::count(self.count.as_fd())
    }

    pub(super) fn stop(&self, calls: &Calls) -> io::Result<()> {
        write(&self.stop, 1, calls).map(drop)
    }
}

pub(super) fn new_count(counting: Counting) -> io::Result<EventFd> {
    match counting {
        Counting::Counter => EventFd::new(),
        Counting::Semaphore => EventFd::new_semaphore(),
    }
}

/// Calls write(2). Returns false if it would block.
pub(super) fn write(fd: &EventFd, n: u64, calls: &Calls) -> io::Result<bool> {
    bump(&calls.writes);
    match fd.write(n) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(false),
        Err(e) => Err(e),
    }
}

/// Takes over a peer's eventfd after checking it. All code here relies on O_NONBLOCK, and a pipe
/// would count bytes.
pub(super) fn adopt(fd: OwnedFd) -> io::Result<EventFd> {
    let refuse = |why| Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    if !crate::sys::fd::is_nonblocking(std::os::fd::AsRawFd::as_raw_fd(&fd))? {
        return refuse("a bounded notifier's eventfds must be non-blocking; this descriptor is blocking");
    }
    // `InvalidInput` means that the descriptor is not an eventfd. Any other error means that /proc
    // is not available; then the peer has to be trusted.
    match eventfd::count(fd.as_fd()) {
        Err(e) if e.kind() == io::ErrorKind::InvalidInput => Err(e),
        _ => Ok(EventFd::from_owned(fd)),
    }
}

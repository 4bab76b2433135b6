//! Sleeping for an eventfd or for the end, whichever comes first.

use super::calls::{Calls, bump};
use super::error::stopped;
use crate::sys::epoll::Epoll;
use crate::sys::eventfd::EventFd;
use crate::sys::ppoll::ppoll;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

/// What to sleep for.
pub(super) enum Patience {
    /// The descriptor's readiness says it all.
    Level { fd: RawFd, events: libc::c_short },
    /// It is ready when there is room for one, and this producer needs more: each change is
    /// reported once.
    Edge(Epoll),
}

impl Patience {
    pub(super) fn level(fd: BorrowedFd<'_>, events: libc::c_short) -> Self {
        Self::Level { fd: fd.as_raw_fd(), events }
    }

    /// Changes from now on count; what was before is reported once, too.
    pub(super) fn edge(fd: BorrowedFd<'_>, events: libc::c_short, stop: &EventFd) -> io::Result<Self> {
        let epoll = Epoll::new()?;
        epoll.add(fd.as_raw_fd(), events as u32 | libc::EPOLLET as u32, 0)?;
        epoll.add(stop.as_raw_fd(), libc::EPOLLIN as u32, 1)?;
        Ok(Self::Edge(epoll))
    }

    /// One sleep. `BrokenPipe` once `stop` has been written. A signal is a wake-up for nothing.
    pub(super) fn wait(&self, stop: &EventFd, calls: &Calls) -> io::Result<()> {
        bump(&calls.polls);
        let woken = match self {
            Self::Level { fd, events } => {
                let poll = |fd, events| libc::pollfd { fd, events, revents: 0 };
                let mut fds = [poll(*fd, *events), poll(stop.as_raw_fd(), libc::POLLIN)];
                ppoll(&mut fds, None).map(|_| fds[1].revents != 0)
            }
            Self::Edge(epoll) => {
                let mut events = [libc::epoll_event { events: 0, u64: 0 }; 2];
                epoll.wait(&mut events, None).map(|n| events.iter().take(n).any(|event| event.u64 == 1))
            }
        };
        match woken {
            Ok(true) => Err(stopped()),
            Ok(false) => Ok(()),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(()),
            Err(e) => Err(e),
        }
    }
}

/// Tries and sleeps in turns until `attempt` succeeds. `patience` is made after the first failure.
pub(super) fn until<R>(
    stop: &EventFd,
    calls: &Calls,
    patience: impl FnOnce() -> io::Result<Patience>,
    mut attempt: impl FnMut() -> io::Result<Option<R>>,
) -> io::Result<R> {
    if let Some(result) = attempt()? {
        return Ok(result);
    }
    let patience = patience()?;
    loop {
        patience.wait(stop, calls)?;
        if let Some(result) = attempt()? {
            return Ok(result);
        }
    }
}

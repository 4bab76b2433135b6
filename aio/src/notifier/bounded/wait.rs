//! Sleeping until an eventfd is ready or the notifier is stopped.

use super::calls::{Calls, bump};
use super::error::stopped;
use crate::sys::epoll::Epoll;
use crate::sys::eventfd::EventFd;
use crate::sys::ppoll::ppoll;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

/// How to wait for readiness.
pub(super) enum Patience {
    /// Level-triggered: when the descriptor is ready, the attempt can succeed.
    Level { fd: RawFd, events: libc::c_short },
    /// Edge-triggered, for a producer that needs more than one: the descriptor is ready as soon as
    /// there is room for one, so only changes are reported, each once.
    Edge(Epoll),
}

impl Patience {
    pub(super) fn level(fd: BorrowedFd<'_>, events: libc::c_short) -> Self {
        Self::Level { fd: fd.as_raw_fd(), events }
    }

    /// Reports changes from now on. A descriptor that is already ready is also reported once.
    pub(super) fn edge(fd: BorrowedFd<'_>, events: libc::c_short, stop: &EventFd) -> io::Result<Self> {
        let epoll = Epoll::new()?;
        epoll.add(fd.as_raw_fd(), events as u32 | libc::EPOLLET as u32, 0)?;
        epoll.add(stop.as_raw_fd(), libc::EPOLLIN as u32, 1)?;
        Ok(Self::Edge(epoll))
    }

    /// Sleeps once. Returns `BrokenPipe` if `stop` has been written. A signal ends the sleep
    /// without an error, as a spurious wake-up.
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

/// Alternates between `attempt` and sleeping until `attempt` succeeds. `patience` is called only
/// after the first failed attempt.
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

//! Waiting for readiness and clearing with a read(2), or not clearing at all: read, ppoll, epoll.
#![expect(unsafe_code, reason = "the system calls that are measured here have no safe form")]

use super::epoll::EpollFd;
use super::syscall::{Calls, EventFd, retry};
use super::waiter::{Patience, Waiter};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::{io, ptr};

const ZERO: libc::timespec = libc::timespec { tv_sec: 0, tv_nsec: 0 };

impl Patience {
    /// The timeout for ppoll and epoll_pwait2: null for no timeout, zero to return at once.
    fn timespec(self) -> *const libc::timespec {
        match self {
            Patience::Forever => ptr::null(),
            Patience::Now => &ZERO,
        }
    }
}

/// One blocking read(2) that waits and resets in one call. An event loop with more than one source
/// cannot use it.
pub(super) struct BlockingRead {
    kick: Arc<EventFd>,
}

impl BlockingRead {
    /// `kick` must be an eventfd that blocks.
    pub(super) fn new(kick: Arc<EventFd>) -> Self {
        Self { kick }
    }
}

impl Waiter for BlockingRead {
    fn wait(&mut self, patience: Patience, calls: &mut Calls) -> io::Result<bool> {
        // Used by the self-test only: do not read if that would block.
        if patience == Patience::Now && !poll(&self.kick, patience, &mut Calls::default())? {
            return Ok(false);
        }
        Ok(self.kick.read(calls)?.is_some())
    }
}

/// ppoll(2), then read(2).
pub(super) struct Ppoll {
    kick: Arc<EventFd>,
}

impl Ppoll {
    pub(super) fn new(kick: Arc<EventFd>) -> Self {
        Self { kick }
    }
}

impl Waiter for Ppoll {
    #[inline]
    fn wait(&mut self, patience: Patience, calls: &mut Calls) -> io::Result<bool> {
        if !poll(&self.kick, patience, calls)? {
            return Ok(false);
        }
        self.kick.read(calls)?;
        Ok(true)
    }
}

#[inline]
fn poll(kick: &EventFd, patience: Patience, calls: &mut Calls) -> io::Result<bool> {
    let mut entry = libc::pollfd { fd: kick.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    let ready = retry(|| {
        calls.waits += 1;
        // SAFETY: one live entry; the timeout is null or a constant; a null mask changes no
        // signals.
        unsafe { libc::c_long::from(libc::ppoll(&mut entry, 1, patience.timespec(), ptr::null())) }
    })?;
    Ok(ready > 0)
}

/// The system call that waits on an epoll instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WaitCall {
    EpollWait,
    /// With a timeout in nanoseconds, which an event loop with timers needs.
    EpollPwait2,
}

/// An epoll instance with one eventfd, level- or edge-triggered, with a read(2) or without.
pub(super) struct Epoll {
    epoll: EpollFd,
    kick: Arc<EventFd>,
    call: WaitCall,
    read: bool,
}

impl Epoll {
    pub(super) fn level(kick: Arc<EventFd>, call: WaitCall) -> io::Result<Self> {
        Self::new(kick, call, libc::EPOLLIN, true)
    }

    /// Every write(2) wakes the waiters of an eventfd, even if its counter was not zero
    /// (eventfd_write in fs/eventfd.c), and each wake-up is an edge for EPOLLET. Without a read(2)
    /// the counter only grows.
    pub(super) fn edge(kick: Arc<EventFd>, read: bool) -> io::Result<Self> {
        Self::new(kick, WaitCall::EpollWait, libc::EPOLLIN | libc::EPOLLET, read)
    }

    fn new(kick: Arc<EventFd>, call: WaitCall, events: libc::c_int, read: bool) -> io::Result<Self> {
        let epoll = EpollFd::new()?;
        epoll.control(libc::EPOLL_CTL_ADD, kick.as_raw_fd(), events, 0)?;
        Ok(Self { epoll, kick, call, read })
    }
}

impl Waiter for Epoll {
    #[inline]
    fn wait(&mut self, patience: Patience, calls: &mut Calls) -> io::Result<bool> {
        let mut event = libc::epoll_event { events: 0, u64: 0 };
        let (epoll, call) = (&self.epoll, self.call);
        let ready = retry(|| {
            calls.waits += 1;
            match call {
                WaitCall::EpollWait => {
                    let timeout = if patience == Patience::Now { 0 } else { -1 };
                    epoll.wait(std::slice::from_mut(&mut event), timeout)
                }
                // By number: glibc has a wrapper only since 2.35, musl has none.
                // SAFETY: there is room for the one event; the timeout is null or a constant; a
                // null mask (of any size) changes no signals.
                WaitCall::EpollPwait2 => unsafe {
                    libc::syscall(
                        libc::SYS_epoll_pwait2,
                        epoll.as_raw_fd(),
                        &raw mut event,
                        1,
                        patience.timespec(),
                        ptr::null::<libc::sigset_t>(),
                        0usize,
                    )
                },
            }
        })?;
        if ready > 0 && self.read {
            self.kick.read(calls)?;
        }
        Ok(ready > 0)
    }
}

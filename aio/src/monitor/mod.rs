//! Monitors: the system call that the loop sleeps in. This page is the contract; one file for each monitor follows it.
//!
//! A monitor watches descriptors under tokens and, in `wait`, collects what is ready into the [`Sink`]. It calls no user
//! code and holds no borrow when it returns, so a callback may add, modify, remove and wait again (nested polls).
//!
//! * `add` watches a descriptor from the next wait on; readiness that exists already counts. A descriptor that is
//!   closed, or cannot be polled, is refused at once, by every monitor.
//! * `Watch::Level` is reported by every wait during which it holds; `Watch::Edge` at least once for each write after
//!   the report before. One report too many is allowed, one too few never.
//! * `remove` ends it: no event that a later wait collects reaches the token. What an earlier wait collected is dropped
//!   by the dispatch, because the token is stale. The kernel's hold on the file ends at the latest with the next wait.
//! * `wait` makes at most one system call that sleeps, honours the timeout to the nanosecond where the kernel can,
//!   and gives false if nothing was collected: the timeout, a signal (EINTR), or a stale event.

mod epoll;
mod io_uring;
mod poll;

use crate::completion::Completions;
use crate::handler::{Handler, Handlers, Watch};
use crate::stats::Counters;
use crate::sys::TimeoutNs;
use crate::sys::fd::{check_pollable, explain};
use crate::sys::uring::Ring;
pub use crate::sys::uring::RingSetup;
use crate::token::Token;
use std::cell::Cell;
use std::fmt;
use std::io;
use std::os::fd::RawFd;

pub(crate) use self::io_uring::UringMonitor;

/// Which system call the loop sleeps in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum MonitorKind {
    /// ppoll(2): everywhere; each wait costs time for every registered descriptor.
    Poll,
    /// epoll_wait(2), and epoll_pwait2(2) to wait for a timer (Linux 5.11; before, to the millisecond).
    Epoll,
    /// io_uring_enter(2): the only one that runs submitted operations. Linux 5.15.
    IoUring,
}

impl MonitorKind {
    /// All monitors, for tables and tests.
    pub const ALL: [Self; 3] = [Self::Poll, Self::Epoll, Self::IoUring];
}

impl fmt::Display for MonitorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Poll => "poll",
            Self::Epoll => "epoll",
            Self::IoUring => "io_uring",
        })
    }
}

/// What was chosen for a context, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MonitorInfo {
    /// The monitor.
    pub kind: MonitorKind,
    /// One sentence for a log: asked for, the best of this kernel, or what stood in the way of a better one.
    pub reason: String,
    /// How the ring was set up, if there is one.
    pub ring: Option<RingInfo>,
}

/// The parts of io_uring that this kernel gave the context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RingInfo {
    /// How completions are delivered.
    pub setup: RingSetup,
    /// Completions that wait in the kernel show in memory (IORING_SETUP_TASKRUN_FLAG), which busy polling wants and others
    /// need not pay for: see [`Builder::busy_polling`](crate::Builder::busy_polling).
    pub tells: bool,
    /// The ring's descriptor is registered (Linux 5.18), so entering does not look it up.
    pub registered_fd: bool,
    /// Sleeping does not count as waiting for I/O (Linux 6.15).
    pub no_iowait: bool,
}

/// What the io_uring monitor remembers of a handler, and where the poll monitor keeps it.
#[derive(Debug, Default)]
pub(crate) struct HandlerState {
    /// poll: index in the pollfd array. io_uring: key of the READ in flight, if any.
    index: Cell<Option<u32>>,
    arm: Cell<Arm>,
    /// io_uring: the last poll ended for POLLRDHUP alone, which nobody asked for.
    half_closed: Cell<bool>,
}

/// io_uring: where a handler's poll or read is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Arm {
    /// Not in the kernel, and not to be: removed, or the descriptor failed.
    #[default]
    Idle,
    /// To be submitted by the next wait.
    Queued,
    /// In the kernel (or in the SQ). One completion without F_MORE will end it.
    Armed,
    /// Armed, to be cancelled by the next wait and armed again in another way.
    Ending,
    /// Armed and cancelled, to be armed again with another interest once the cancellation has completed.
    Changing,
}

/// Where a wait puts what it collected.
#[derive(Debug)]
pub(crate) struct Sink {
    pub(crate) handlers: Handlers,
    pub(crate) completions: Completions,
    pub(crate) stats: Counters,
}

/// The monitor of one context.
#[derive(Debug)]
pub(crate) enum Monitor {
    Poll(poll::PollMonitor),
    Epoll(epoll::EpollMonitor),
    IoUring(Box<UringMonitor>),
}

impl Monitor {
    /// Makes the monitor asked for, or (`None`) the best that this kernel has.
    pub(crate) fn new(
        wanted: Option<MonitorKind>,
        ring_entries: u32,
        newest: RingSetup,
        tells: bool,
    ) -> io::Result<(Self, MonitorInfo)> {
        let ring = |ring: Ring| {
            let info = RingInfo {
                setup: ring.setup(),
                tells: ring.tells(),
                registered_fd: ring.has_registered_fd(),
                no_iowait: ring.has_no_iowait(),
            };
            (Self::IoUring(Box::new(UringMonitor::new(ring))), Some(info))
        };
        let asked = || "asked for".to_owned();
        let ((monitor, ring), reason) = match wanted {
            Some(MonitorKind::Poll) => ((Self::Poll(poll::PollMonitor::default()), None), asked()),
            Some(MonitorKind::Epoll) => ((Self::Epoll(epoll::EpollMonitor::new()?), None), asked()),
            Some(MonitorKind::IoUring) => {
                (ring(Ring::new(ring_entries, newest, tells).map_err(why_no_ring)?), asked())
            }
            None => match Ring::new(ring_entries, newest, tells).map_err(why_no_ring) {
                Ok(r) => (ring(r), "the best monitor, and this kernel has it".to_owned()),
                Err(e) => match epoll::EpollMonitor::new() {
                    Ok(epoll) => ((Self::Epoll(epoll), None), e.to_string()),
                    Err(e2) => (
                        (Self::Poll(poll::PollMonitor::default()), None),
                        format!("{e}; no epoll either: {e2}"),
                    ),
                },
            },
        };
        let info = MonitorInfo { kind: monitor.kind(), reason, ring };
        Ok((monitor, info))
    }

    pub(crate) fn kind(&self) -> MonitorKind {
        match self {
            Self::Poll(_) => MonitorKind::Poll,
            Self::Epoll(_) => MonitorKind::Epoll,
            Self::IoUring(_) => MonitorKind::IoUring,
        }
    }

    pub(crate) fn ring(&self) -> Option<&UringMonitor> {
        match self {
            Self::IoUring(m) => Some(m),
            _ => None,
        }
    }

    /// Starts to watch `fd` under `token`. If another handler of this context has the same number, it is about to be
    /// removed with `replaced`. `known`: it is open and can be polled, so nobody need ask the kernel.
    pub(crate) fn add(
        &self,
        token: Token,
        fd: RawFd,
        watch: Watch,
        known: bool,
        stats: &Counters,
    ) -> io::Result<HandlerState> {
        // epoll_ctl checks by itself.
        let checked = if known || matches!(self, Self::Epoll(_)) {
            Ok(())
        } else {
            stats.syscalls_ctl.bump();
            check_pollable(fd)
        };
        let state = checked.and_then(|()| match self {
            Self::Poll(m) => Ok(m.add(token, fd, watch)),
            Self::Epoll(m) => m.add(token, fd, watch, stats),
            Self::IoUring(m) => Ok(m.add(token)),
        });
        state.map_err(|e| explain(e, fd))
    }

    /// Takes over the handler's new interest.
    pub(crate) fn modify(&self, handler: &Handler, stats: &Counters) -> io::Result<()> {
        match self {
            Self::Poll(m) => m.modify(handler),
            Self::Epoll(m) => m.modify(handler, stats)?,
            Self::IoUring(m) => m.modify(handler, stats),
        }
        Ok(())
    }

    /// Stops watching a handler that has left its slot. `replaced`: a newer one watches the same descriptor number.
    pub(crate) fn remove(&self, handler: &Handler, replaced: bool, sink: &Sink) {
        match self {
            Self::Poll(m) => m.remove(handler, &sink.handlers),
            Self::Epoll(_) if replaced => {}
            Self::Epoll(m) => m.remove(handler, &sink.stats),
            Self::IoUring(m) => m.remove(handler, sink),
        }
    }

    #[inline(always)]
    pub(crate) fn wait(&self, timeout: TimeoutNs, sink: &Sink) -> io::Result<bool> {
        match self {
            Self::Poll(m) => m.wait(timeout, sink),
            Self::Epoll(m) => m.wait(timeout, sink),
            Self::IoUring(m) => m.wait(timeout, sink),
        }
    }

    /// True if a wait would find or submit something, by a look at memory. Monitors that cannot look say false.
    pub(crate) fn needs_wait(&self) -> bool {
        self.ring().is_some_and(UringMonitor::needs_wait)
    }

    /// True if [`needs_wait`](Self::needs_wait) sees everything that a wait would find.
    pub(crate) fn tells(&self) -> bool {
        self.ring().is_some_and(UringMonitor::tells)
    }
}

/// Says what stands in the way of io_uring, and what to do about it.
fn why_no_ring(e: io::Error) -> io::Error {
    let why = match e.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            "io_uring is switched off for this process; allow it with sysctl kernel.io_uring_disabled=0, or in the \
             seccomp filter of the container or sandbox"
        }
        Some(libc::ENOSYS) => {
            "this kernel, or the sandbox around it, has no io_uring; it takes Linux 5.15 with CONFIG_IO_URING"
        }
        Some(libc::ENOMEM) => "not enough locked memory for an io_uring; raise RLIMIT_MEMLOCK (ulimit -l)",
        Some(libc::EMFILE | libc::ENFILE) => {
            "no descriptor left for an io_uring; raise RLIMIT_NOFILE (ulimit -n)"
        }
        _ => return e,
    };
    io::Error::new(io::ErrorKind::Unsupported, format!("{why}: {e}"))
}

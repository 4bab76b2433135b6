//! What users see of a monitor: its kind, and what was chosen for a context.

pub use crate::sys::uring::RingSetup;
use std::fmt;

/// Which system call the loop sleeps in. Chosen by the kernel's abilities, or by
/// [`Builder::monitor`](crate::Builder::monitor). Handlers behave the same on all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum MonitorKind {
    /// ppoll(2): available everywhere; each wait costs time for every registered descriptor. It
    /// takes at most RLIMIT_NOFILE descriptors; if that is lowered below the number of handlers,
    /// the loop looks at them in parts, and wakes up every 10 ms to do so.
    Poll,
    /// epoll_wait(2), and epoll_pwait2(2) to wait for a timer (Linux 5.11; on older kernels
    /// deadlines are rounded up to a millisecond).
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

/// What was chosen for a context, and why: see [`AioContext::monitor`](crate::AioContext::monitor).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MonitorInfo {
    /// The monitor.
    pub kind: MonitorKind,
    /// One sentence for a log: it was asked for, it is the best of this kernel, or why a better one
    /// cannot be used.
    pub reason: String,
    /// How the ring was set up, if there is one.
    pub ring: Option<RingInfo>,
}

/// The features of io_uring that the context got from this kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RingInfo {
    /// How completions are delivered.
    pub setup: RingSetup,
    /// Completions that wait in the kernel show in memory (IORING_SETUP_TASKRUN_FLAG). Busy polling
    /// wants that, and others need not pay for it: see
    /// [`Builder::busy_polling`](crate::Builder::busy_polling).
    pub tells: bool,
    /// The ring's descriptor is registered (Linux 5.18), so that entering does not look it up.
    pub registered_fd: bool,
    /// Sleeping does not count as waiting for I/O (Linux 6.15).
    pub no_iowait: bool,
}

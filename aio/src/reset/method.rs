//! The names: what a caller may ask for.

use std::fmt;

/// Who resets a notifier's eventfd after it woke the loop: what is asked for when the
/// [notifier](crate::EventNotifier) is made. The [`Method`] is chosen when it is registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reset {
    /// The loop, with one read(2) after each wake-up, as QEMU does. The baseline.
    Classic,
    /// Nobody needs to: the best method of this kernel and monitor. Where there is none (ppoll on a
    /// stock kernel) the loop reads after all, and
    /// [`NotifierRegistration::fallback`](crate::NotifierRegistration::fallback) reports why.
    Autoreset,
    /// Exactly this method. Registering fails where the monitor or the kernel cannot do it.
    AutoresetBy(Method),
}

/// How an eventfd is kept from waking the loop twice for one event. The table of the [crate's
/// page](crate#two-kinds-of-source) has what each monitor does for each method.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Method {
    /// read(2) by the loop. Every monitor.
    Read,
    /// Edges: EPOLLET, or multishot POLL_ADD. The counter is never read and only grows.
    /// `eventfd_write()` in the kernel wakes for each write, also if the counter is not zero. epoll
    /// and io_uring.
    Edge,
    /// An IORING_OP_READ that the loop keeps in flight. It is armed again by the next enter.
    /// io_uring.
    RingRead,
    /// One IORING_OP_READ_MULTISHOT (Linux 6.7). io_uring.
    RingReadMultishot,
    /// The kernel's own `EFD_AUTORESET`, of a patched kernel. ppoll and epoll.
    KernelFlag,
}

impl Method {
    /// All methods, for tables and tests.
    pub const ALL: [Self; 5] =
        [Self::Read, Self::Edge, Self::RingRead, Self::RingReadMultishot, Self::KernelFlag];
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Read => "read(2)",
            Self::Edge => "edge",
            Self::RingRead => "ring read",
            Self::RingReadMultishot => "ring read multishot",
            Self::KernelFlag => "EFD_AUTORESET",
        })
    }
}

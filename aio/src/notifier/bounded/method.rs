//! What a bounded notifier counts, and how its bound is kept.

use crate::sys::eventfd::probe_maximum;
use std::fmt;

/// What a take takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Counting {
    /// The whole count: what came since the last take.
    Counter,
    /// One of it, as with EFD_SEMAPHORE: a queue of `maximum - 1` posts.
    Semaphore,
}

/// How the bound of a [`BoundedNotifier`] is kept, and where the ways differ:
///
/// | | `Kernel` | `Atomic` | `Credit` |
/// |---|---|---|---|
/// | notify, take: system calls | 1, 1 | 0, 0; more only if the other side sleeps | 2, 2 |
/// | bound | exact | exact | never exceeded; room appears a moment after the take |
/// | maximum | 1 to 2^64 - 1 | 1 to 2^32 - 1, or none (the count then ends at 2^32 - 1) | 1 to 65,536 |
/// | foreign writers, KVM, vhost | bounded | not counted | not bounded, and inflate the credit |
/// | other processes | by descriptors | by descriptors and memory; all must cooperate | by descriptors; all must cooperate |
/// | a process that is killed | leaves all as it is | between two steps: a wake-up may be lost | between two steps: a credit may be lost |
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BoundedMethod {
    /// The kernel's own `EFD_IOC_SET_MAXIMUM`, of a patched kernel.
    Kernel,
    /// An atomic count in shared memory, futex(2) for threads that sleep, an eventfd for loops that
    /// do.
    Atomic,
    /// A second eventfd, whose count is the room: producers read it first, consumers write back
    /// what they took.
    Credit,
}

impl BoundedMethod {
    /// All methods, for tables and tests.
    pub const ALL: [Self; 3] = [Self::Kernel, Self::Atomic, Self::Credit];

    /// Why this kernel cannot do it; `None` if it can.
    pub fn obstacle(self) -> Option<&'static str> {
        (self == Self::Kernel && !probe_maximum()).then_some(
            "this kernel has no EFD_IOC_SET_MAXIMUM for eventfds; take the atomic or the credit method",
        )
    }
}

impl fmt::Display for BoundedMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Kernel => "kernel",
            Self::Atomic => "atomic",
            Self::Credit => "credit",
        })
    }
}

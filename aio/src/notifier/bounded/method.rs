//! How a bounded notifier counts, and how its bound is enforced.

use crate::sys::eventfd::probe_maximum;
use std::fmt;

/// How much a take returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Counting {
    /// The whole count, that is, everything added since the last take.
    Counter,
    /// One unit, as with EFD_SEMAPHORE. At most `maximum - 1` units can be pending.
    Semaphore,
}

/// How the bound of a [`BoundedNotifier`](crate::BoundedNotifier) is enforced. The methods differ as follows:
///
/// | | `Kernel` | `Atomic` | `Credit` |
/// |---|---|---|---|
/// | notify, take: system calls | 1, 1 | 0, 0; more only if the other side sleeps | 2, 2 |
/// | bound | exact | exact | never exceeded; room appears a moment after the take |
/// | maximum | 1 to 2^64 - 1 | 1 to 2^32 - 1, or none (the count then ends at 2^32 - 1) | 1 to 65,536 |
/// | foreign writers, KVM, vhost | bounded | not counted | not bounded, and inflate the credit |
/// | other processes | by descriptors | by descriptors and memory; all must cooperate | by descriptors; all must cooperate |
/// | a process that is killed | nothing is lost | a wake-up may be lost if it is killed between two steps | credit may be lost if it is killed between two steps |
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BoundedMethod {
    /// `EFD_IOC_SET_MAXIMUM` of a patched kernel.
    Kernel,
    /// An atomic count in shared memory. Threads sleep in futex(2), loops on an eventfd.
    Atomic,
    /// A second eventfd whose count is the free room (the credit). Producers read from it before
    /// they notify; consumers write back what they took.
    Credit,
}

impl BoundedMethod {
    /// All methods.
    pub const ALL: [Self; 3] = [Self::Kernel, Self::Atomic, Self::Credit];

    /// Returns the reason why this kernel does not support the method, or `None` if it does.
    pub fn obstacle(self) -> Option<&'static str> {
        (self == Self::Kernel && !probe_maximum()).then_some(
            "this kernel has no EFD_IOC_SET_MAXIMUM for eventfds; use the atomic or the credit method",
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

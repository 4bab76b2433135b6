//! Counters of the system calls that a bounded notifier makes.

use std::sync::atomic::{AtomicU64, Ordering};

/// Numbers of system calls that this process has made for one notifier, including all its clones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BoundedStats {
    /// read(2) of eventfds.
    pub reads: u64,
    /// write(2) to eventfds.
    pub writes: u64,
    /// Waits: ppoll(2), or epoll(7) for a producer that waits to add more than one.
    pub polls: u64,
    /// FUTEX_WAIT.
    pub futex_waits: u64,
    /// FUTEX_WAKE.
    pub futex_wakes: u64,
}

impl BoundedStats {
    /// The sum of all fields.
    pub fn total(&self) -> u64 {
        self.reads + self.writes + self.polls + self.futex_waits + self.futex_wakes
    }
}

/// The live counters. Paths without a system call do not touch them.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    pub(super) reads: AtomicU64,
    pub(super) writes: AtomicU64,
    pub(super) polls: AtomicU64,
    pub(super) futex_waits: AtomicU64,
    pub(super) futex_wakes: AtomicU64,
}

pub(super) fn bump(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Calls {
    pub(super) fn snapshot(&self) -> BoundedStats {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        BoundedStats {
            reads: get(&self.reads),
            writes: get(&self.writes),
            polls: get(&self.polls),
            futex_waits: get(&self.futex_waits),
            futex_wakes: get(&self.futex_wakes),
        }
    }
}

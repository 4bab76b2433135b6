//! Counters of what the loop does.

use std::cell::Cell;
use std::ops::Sub;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// A snapshot of a context's counters, which start at zero when it is created. Subtract two
        /// snapshots for an interval.
        ///
        /// Counting costs one add to a cache line that the turn touches anyway; there is no switch
        /// for it.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct Stats { $($(#[$doc])* pub $name: u64,)* }

        #[derive(Debug, Default)]
        pub(crate) struct Counters { $(pub(crate) $name: Counter,)* }

        impl Counters {
            pub(crate) fn snapshot(&self) -> Stats {
                Stats { $($name: self.$name.get(),)* }
            }
        }

        impl Sub for Stats {
            type Output = Self;
            fn sub(self, earlier: Self) -> Self {
                Self { $($name: self.$name.wrapping_sub(earlier.$name),)* }
            }
        }
    };
}

counters! {
    /// Calls of [`AioContext::poll`](crate::AioContext::poll), including nested ones.
    turns,
    /// Waits of the monitor that returned at least one event.
    wakeups,
    /// Callbacks of fd handlers.
    fd_dispatches,
    /// Callbacks of event notifiers, excluding the loop's own.
    notifier_dispatches,
    /// Times that the loop's own notifier was seen ready.
    own_wakeups,
    /// Bottom halves that ran.
    bottom_halves,
    /// Timers that ran.
    timers,
    /// Polls of tasks.
    task_polls,
    /// Completion callbacks that ran.
    completions,
    /// Spurious readiness: a classic notifier whose counter was zero, or an fd handler that got
    /// none of the events it asked for.
    spurious,
    /// Events for a handler or an operation that was already removed.
    stale,
    /// Busy-polling rounds that found work.
    poll_hits,
    /// Busy-polling rounds that found none.
    poll_misses,
    /// System calls that wait: ppoll(2), epoll_pwait2(2), epoll_wait(2).
    syscalls_wait,
    /// io_uring_enter(2).
    syscalls_enter,
    /// read(2) of an eventfd.
    syscalls_read,
    /// write(2) to the loop's own eventfd, by whichever thread woke it.
    syscalls_write,
    /// epoll_ctl(2), and the fstat(2) that replaces its check of a descriptor on the other
    /// monitors.
    syscalls_ctl,
}

impl Stats {
    /// All system calls of the loop, including the writes that woke it.
    pub fn syscalls(&self) -> u64 {
        self.syscalls_wait
            + self.syscalls_enter
            + self.syscalls_read
            + self.syscalls_write
            + self.syscalls_ctl
    }
}

/// One counter, written only by the home thread.
#[derive(Debug, Default)]
pub(crate) struct Counter(Cell<u64>);

impl Counter {
    pub(crate) fn bump(&self) {
        self.add(1);
    }

    pub(crate) fn add(&self, n: u64) {
        self.0.set(self.0.get().wrapping_add(n));
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.get()
    }
}

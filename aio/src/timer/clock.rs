//! The clocks that a deadline can be measured against.

use crate::sys::monotonic_ns;
use std::cell::Cell;
use std::time::Duration;

/// What a deadline is measured against, in nanoseconds since an unspecified start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Clock {
    /// CLOCK_MONOTONIC of the host.
    Realtime,
    /// The context's [`VirtualClock`].
    Virtual,
}

/// Guest time. It runs with the host's monotonic clock while it is started, stands still while it
/// is stopped, and can be stepped forward in both states. A context's virtual clock begins at zero,
/// stopped.
///
/// A timer on it is due when the clock reads its deadline or more, running or not. Home thread.
#[derive(Debug, Default)]
pub struct VirtualClock {
    /// The reading when the clock was last started or stepped.
    base_ns: Cell<u64>,
    /// Real time at that moment, while running.
    started_ns: Cell<Option<u64>>,
}

impl VirtualClock {
    /// The reading, in nanoseconds.
    pub fn now_ns(&self) -> u64 {
        let running = self.started_ns.get().map_or(0, |started| monotonic_ns().saturating_sub(started));
        self.base_ns.get().saturating_add(running)
    }

    /// Lets it run from its present reading. No effect if it runs.
    pub fn start(&self) {
        if !self.is_running() {
            self.started_ns.set(Some(monotonic_ns()));
        }
    }

    /// Stops it at its present reading.
    pub fn stop(&self) {
        self.base_ns.set(self.now_ns());
        self.started_ns.set(None);
    }

    /// Moves it forward. Timers that expire by that run in the next turn.
    pub fn step(&self, by: Duration) {
        let by_ns = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
        self.base_ns.set(self.base_ns.get().saturating_add(by_ns));
    }

    /// Returns true between [`start`](Self::start) and [`stop`](Self::stop).
    pub fn is_running(&self) -> bool {
        self.started_ns.get().is_some()
    }
}

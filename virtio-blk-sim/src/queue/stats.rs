//! What a queue counts.

/// What a queue did since it was made. Subtract two snapshots for an interval.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct QueueStats {
    /// Requests answered.
    pub requests: u64,
    /// Times the queue was looked at: kicks, busy-poll hits, and drains that were continued in a
    /// later turn.
    pub drains: u64,
    /// Interrupts: writes to the irqfd.
    pub interrupts: u64,
    /// System calls of the worker in the loop's thread ([`Worker::submit_calls`](super::Worker)).
    pub submits: u64,
    /// Times that such a call took too long, so that the worker makes none for a while.
    pub stalls: u64,
}

impl std::ops::Sub for QueueStats {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            requests: self.requests.wrapping_sub(earlier.requests),
            drains: self.drains.wrapping_sub(earlier.drains),
            interrupts: self.interrupts.wrapping_sub(earlier.interrupts),
            submits: self.submits.wrapping_sub(earlier.submits),
            stalls: self.stalls.wrapping_sub(earlier.stalls),
        }
    }
}

//! When a file's I/O may be done by calls in the loop's thread: as long as they are short.
//!
//! ```text
//!            excess over 500 µs                     the back-off is over
//!  trusted ───────────────────► closed ─────────────────────────────────► watched
//!     ▲                            ▲      excess, and the thread slept       │ │
//!     │                            └─────────────────────────────────────────┘ │
//!     └────────────────────────────────────────────────────────────────────────┘
//!                  10 s, or as long as the last back-off, without that and without a displacement
//! ```
//!
//! Each call may take 50 µs, and half a nanosecond for each byte. What it takes beyond that is its
//! *excess*. Excesses add up, and each short call takes an eighth of the sum away. So one call that
//! sleeps closes the gate, and so do a few that each wait for the disk.
//!
//! The back-off is a multiple of the sum: 100 times if the gate was trusted, which may have been a
//! mistake, and 1,000 times if it was watched, and then at least twice the last one. So a loop
//! spends a thousandth of its time in slow calls at most, once the gate is watched.
//!
//! A thread that another one has displaced from its CPU looks slow, too. The kernel counts both
//! (getrusage(2)), but asking costs a system call, so this is only done while the gate is watched.

use std::io;

/// What a call may take, whatever it moves.
const SHORT_NS: u64 = 50_000;
/// The sum of the excesses that closes the gate.
const MOST_NS: u64 = 500_000;
/// The shortest and the longest back-off.
const SHORTEST_NS: u64 = 10_000_000;
const LONGEST_NS: u64 = 600_000_000_000;
/// How long the gate is watched at least.
const WATCH_NS: u64 = 10_000_000_000;
/// The back-off in multiples of the excess.
const FACTOR_TRUSTED: u64 = 100;
const FACTOR_WATCHED: u64 = 1_000;

/// How often the calling thread has left its CPU.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::blk::backend) struct Switches {
    /// To wait for something.
    pub(in crate::blk::backend) voluntary: u64,
    /// For another thread.
    pub(in crate::blk::backend) involuntary: u64,
}

/// Calls in the loop's thread took too long, so it makes none for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stall {
    /// How much longer they took than they may.
    pub excess_ns: u64,
    /// For how long none is made.
    pub backoff_ns: u64,
}

/// Decides for one engine. Times are those of one clock that never goes back.
#[derive(Debug, Default)]
pub(super) struct Gate {
    /// 0 if it is open.
    closed_until_ns: u64,
    /// 0 if it is trusted.
    watched_until_ns: u64,
    excess_ns: u64,
    backoff_ns: u64,
    /// When the batch began, while watched.
    before: Option<Switches>,
}

impl Gate {
    /// Whether the next call may be made. The clock is read only if the gate is not trusted.
    #[inline]
    pub(super) fn is_open(&mut self, now_ns: impl FnOnce() -> u64) -> bool {
        self.watched_until_ns == 0 || self.look(now_ns())
    }

    #[cold]
    fn look(&mut self, now_ns: u64) -> bool {
        if now_ns < self.closed_until_ns {
            return false;
        }
        self.closed_until_ns = 0;
        if now_ns >= self.watched_until_ns {
            (self.watched_until_ns, self.backoff_ns, self.before) = (0, 0, None);
        }
        true
    }

    /// To call before each call of a batch. `switches` is called once for a batch while the gate
    /// is watched.
    #[inline]
    pub(super) fn begin(&mut self, switches: impl FnOnce() -> Switches) {
        if self.watched_until_ns != 0 && self.before.is_none() {
            self.before = Some(switches());
        }
    }

    /// To call at the end of a batch: between batches, the thread sleeps for other reasons.
    #[inline]
    pub(super) fn end_batch(&mut self) {
        if self.watched_until_ns != 0 {
            self.before = None;
        }
    }

    /// Counts a call that moved `bytes` bytes and has ended at `now_ns`. Returns what follows if
    /// that closes the gate.
    #[inline]
    pub(super) fn record(
        &mut self,
        bytes: u64,
        took_ns: u64,
        now_ns: u64,
        switches: impl FnOnce() -> Switches,
    ) -> Option<Stall> {
        let allowed_ns = SHORT_NS + bytes / 2;
        if took_ns > allowed_ns {
            return self.record_slow(took_ns - allowed_ns, now_ns, switches);
        }
        self.excess_ns -= self.excess_ns.div_ceil(8);
        None
    }

    #[cold]
    fn record_slow(
        &mut self,
        excess_ns: u64,
        now_ns: u64,
        switches: impl FnOnce() -> Switches,
    ) -> Option<Stall> {
        let is_watched = self.watched_until_ns != 0;
        if let Some(before) = self.before {
            let after = switches();
            self.before = Some(after);
            // Displaced, and did not sleep as well.
            if after.voluntary == before.voluntary && after.involuntary != before.involuntary {
                // It will happen again, and is not to be taken for the file's fault then.
                self.watched_until_ns = self.watched_until_ns.max(now_ns.saturating_add(WATCH_NS));
                return None;
            }
        }
        self.excess_ns = self.excess_ns.saturating_add(excess_ns);
        if self.excess_ns < MOST_NS {
            return None;
        }
        let excess_ns = std::mem::take(&mut self.excess_ns);
        let (factor, least_ns) =
            if is_watched { (FACTOR_WATCHED, self.backoff_ns * 2) } else { (FACTOR_TRUSTED, 0) };
        let backoff_ns = excess_ns.saturating_mul(factor).max(least_ns).clamp(SHORTEST_NS, LONGEST_NS);
        self.backoff_ns = backoff_ns;
        self.closed_until_ns = now_ns.saturating_add(backoff_ns);
        self.watched_until_ns = self.closed_until_ns.saturating_add(backoff_ns.max(WATCH_NS));
        Some(Stall { excess_ns, backoff_ns })
    }
}

/// Whether to try calls that end with EAGAIN instead of waiting (RWF_NOWAIT). Each that does is for
/// nothing, so after it a growing number of requests is not tried, up to 64.
#[derive(Debug, Default)]
pub(super) struct Tries {
    left_out: u32,
    /// How many were left out after the last EAGAIN; 0 after a call that did something.
    next: u32,
}

impl Tries {
    const MOST: u32 = 64;

    /// Whether to try the next request. Counts it if not.
    #[inline]
    pub(super) fn next(&mut self) -> bool {
        if self.left_out == 0 {
            return true;
        }
        self.left_out -= 1;
        false
    }

    /// Counts a call.
    #[inline]
    pub(super) fn count(&mut self, result: &io::Result<usize>) {
        match result {
            Ok(_) => self.next = 0,
            Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => {
                self.next = (self.next * 2 + 1).min(Self::MOST);
                self.left_out = self.next;
            }
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests;

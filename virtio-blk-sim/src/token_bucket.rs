//! A token bucket in its dual form (the generic cell rate algorithm, ITU-T I.371).
//!
//! It does not count tokens; it stores the time at which the bucket will be full again. This is one
//! number, so one atomic is enough to share the bucket between threads, and an idle bucket needs no
//! timer. What was done is charged afterwards, because its size is often known only then. So a
//! bucket may go into debt by one charge; the next one waits until that is paid.

use std::sync::atomic::{AtomicU64, Ordering};

/// A bucket: on average `rate` tokens per second, and up to a burst at once. Or no limit at all.
///
/// Relaxed ordering is enough: no other data depends on these numbers. While a rate is being
/// changed, a charge may be made at a mix of both rates.
#[derive(Debug, Default)]
pub(crate) struct TokenBucket {
    /// The time that the bucket needs to gain one token, in picoseconds. 0 if there is no limit.
    token_ps: AtomicU64,
    /// The time that an empty bucket needs to become full, in nanoseconds.
    burst_ns: AtomicU64,
    /// The time at which the bucket will be full, on the clock that the callers use.
    full_at_ns: AtomicU64,
}

impl TokenBucket {
    /// Sets the average rate, in tokens per second (`None` or 0 is no limit), and the burst: what
    /// the bucket gains in `burst_ns`, or one token if that is more. The bucket is full afterwards.
    pub(crate) fn set(&self, rate: Option<u64>, burst_ns: u64) {
        let token_ps = rate.filter(|rate| *rate != 0).map_or(0, |rate| (1_000_000_000_000 / rate).max(1));
        self.burst_ns.store((token_ps / 1_000).max(burst_ns), Ordering::Relaxed);
        self.full_at_ns.store(0, Ordering::Relaxed);
        self.token_ps.store(token_ps, Ordering::Relaxed);
    }

    /// The time that the bucket needs to gain so many tokens, in nanoseconds. 0 if there is no
    /// limit.
    #[inline]
    pub(crate) fn gained_in_ns(&self, tokens: u64) -> u64 {
        let token_ps = self.token_ps.load(Ordering::Relaxed);
        u64::try_from(u128::from(tokens) * u128::from(token_ps) / 1_000).unwrap_or(u64::MAX)
    }

    #[inline]
    pub(crate) fn is_unlimited(&self) -> bool {
        self.token_ps.load(Ordering::Relaxed) == 0
    }

    /// How long to wait until the bucket is not in debt, in nanoseconds.
    #[inline]
    pub(crate) fn wait_ns(&self, now_ns: u64) -> u64 {
        if self.is_unlimited() {
            return 0;
        }
        let empty_for = self.full_at_ns.load(Ordering::Relaxed).saturating_sub(now_ns);
        empty_for.saturating_sub(self.burst_ns.load(Ordering::Relaxed))
    }

    #[inline]
    pub(crate) fn charge(&self, tokens: u64, now_ns: u64) {
        if self.is_unlimited() {
            return;
        }
        let cost_ns = self.gained_in_ns(tokens);
        let later = |full_at: u64| Some(full_at.max(now_ns).saturating_add(cost_ns));
        let _ = self.full_at_ns.fetch_update(Ordering::Relaxed, Ordering::Relaxed, later);
    }

    /// Returns true if nothing was taken that was not gained back.
    #[cfg(feature = "vhost-user")]
    pub(crate) fn is_full(&self, now_ns: u64) -> bool {
        self.full_at_ns.load(Ordering::Relaxed) <= now_ns
    }
}

//! Limits on requests per second and bytes per second, shared by the queues of a device.
//!
//! Each limit is a token bucket in its dual form (the generic cell rate algorithm, ITU-T I.371).
//! It does not count tokens; it stores the time at which the bucket will be full again. This is one
//! number, so one atomic is enough to share the bucket between threads, and an idle bucket needs no
//! timer. A request is charged after it was taken off the ring, because its size is known only
//! then. So a bucket may go into debt by one request; the next request waits until that is paid.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A bucket: on average `rate` units per second, and up to a burst at once. Or no limit at all.
///
/// Relaxed ordering is enough: no other data depends on these numbers. While a rate is being
/// changed, a request may be charged at a mix of both rates.
#[derive(Debug, Default)]
struct Bucket {
    /// The time that the bucket needs to gain one unit, in picoseconds. 0 if there is no limit.
    unit_ps: AtomicU64,
    /// The time that an empty bucket needs to become full, in nanoseconds.
    burst_ns: AtomicU64,
    /// The time at which the bucket will be full, on the clock that the callers use.
    full_at_ns: AtomicU64,
}

impl Bucket {
    fn new(rate: Option<u64>) -> Self {
        let bucket = Self::default();
        bucket.set(rate);
        bucket
    }

    /// `rate` is in units per second. The burst is what the bucket gains in a tenth of a second, or
    /// one unit if that is more. The bucket is full afterwards.
    fn set(&self, rate: Option<u64>) {
        let unit_ps = rate.filter(|rate| *rate != 0).map_or(0, |rate| (1_000_000_000_000 / rate).max(1));
        self.burst_ns.store((unit_ps / 1_000).max(BURST.as_nanos() as u64), Ordering::Relaxed);
        self.full_at_ns.store(0, Ordering::Relaxed);
        self.unit_ps.store(unit_ps, Ordering::Relaxed);
    }

    fn is_unlimited(&self) -> bool {
        self.unit_ps.load(Ordering::Relaxed) == 0
    }

    /// How long to wait before the next request may start, in nanoseconds.
    fn wait_ns(&self, now_ns: u64) -> u64 {
        if self.is_unlimited() {
            return 0;
        }
        let empty_for = self.full_at_ns.load(Ordering::Relaxed).saturating_sub(now_ns);
        empty_for.saturating_sub(self.burst_ns.load(Ordering::Relaxed))
    }

    fn charge(&self, units: u64, now_ns: u64) {
        let unit_ps = self.unit_ps.load(Ordering::Relaxed);
        if unit_ps == 0 {
            return;
        }
        let cost_ns = u128::from(units) * u128::from(unit_ps) / 1_000;
        let cost_ns = u64::try_from(cost_ns).unwrap_or(u64::MAX);
        let later = |full_at: u64| Some(full_at.max(now_ns).saturating_add(cost_ns));
        let _ = self.full_at_ns.fetch_update(Ordering::Relaxed, Ordering::Relaxed, later);
    }
}

/// The burst after a pause, as the time in which the bucket gains that much.
const BURST: Duration = Duration::from_millis(100);

/// The limits of a device. It is lock-free and may be used from any thread.
#[derive(Debug, Default)]
pub struct RateLimit {
    requests: Bucket,
    bytes: Bucket,
}

impl RateLimit {
    /// Limits the average requests per second and bytes per second. `None` or 0 means no limit.
    /// After a pause, a tenth of a second's worth may start at once.
    pub fn new(iops: Option<u64>, bytes_per_second: Option<u64>) -> Self {
        Self { requests: Bucket::new(iops), bytes: Bucket::new(bytes_per_second) }
    }

    /// Changes the limit on requests per second. `None` or 0 means no limit. A queue that waits
    /// notices it within a tenth of a second, and what it used before is forgotten.
    pub fn set_iops(&self, iops: Option<u64>) {
        self.requests.set(iops);
    }

    /// Changes the limit on bytes per second, as [`set_iops`](Self::set_iops) does for requests.
    pub fn set_bytes_per_second(&self, bytes_per_second: Option<u64>) {
        self.bytes.set(bytes_per_second);
    }

    /// Returns true if neither requests nor bytes are limited at present.
    #[inline]
    pub fn is_unlimited(&self) -> bool {
        self.requests.is_unlimited() && self.bytes.is_unlimited()
    }

    /// How long to wait before another request may be taken, in nanoseconds. 0 means no wait.
    pub fn wait_ns(&self, now_ns: u64) -> u64 {
        self.requests.wait_ns(now_ns).max(self.bytes.wait_ns(now_ns))
    }

    /// Charges a request of `bytes` bytes that was taken off the ring.
    pub fn charge(&self, bytes: u64, now_ns: u64) {
        self.requests.charge(1, now_ns);
        self.bytes.charge(bytes, now_ns);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: u64 = 1_000_000_000;

    /// Takes requests of `bytes` bytes until `end_ns`, as fast as the limit allows. Returns how
    /// many were taken.
    fn take_until(limit: &RateLimit, bytes: u64, end_ns: u64) -> u64 {
        let (mut now, mut taken) = (0, 0);
        loop {
            now += limit.wait_ns(now);
            if now >= end_ns {
                return taken;
            }
            limit.charge(bytes, now);
            taken += 1;
        }
    }

    #[test]
    fn no_limit_never_waits() {
        let limit = RateLimit::new(None, Some(0));
        assert!(limit.is_unlimited());
        limit.charge(u64::MAX, 5);
        assert_eq!(limit.wait_ns(5), 0);
    }

    #[test]
    fn requests_are_limited_in_the_long_run() {
        // A burst of a tenth of a second's worth, then a hundred per second.
        let taken = take_until(&RateLimit::new(Some(100), None), 0, 10 * SECOND);
        assert!((1_000..=1_012).contains(&taken), "{taken}");
    }

    #[test]
    fn bytes_are_limited_in_the_long_run() {
        let taken = take_until(&RateLimit::new(None, Some(4096 * 50)), 4096, 10 * SECOND);
        assert!((500..=507).contains(&taken), "{taken}");
    }

    #[test]
    fn a_pause_gives_one_burst_only() {
        let limit = RateLimit::new(Some(1_000), None);
        let start = 3_600 * SECOND;
        let at_once =
            (0..10_000).take_while(|_| limit.wait_ns(start) == 0).map(|_| limit.charge(0, start)).count();
        assert!((100..=101).contains(&at_once), "{at_once}");
    }

    #[test]
    fn a_limit_that_is_changed_starts_with_a_full_bucket() {
        let limit = RateLimit::new(None, Some(1));
        limit.charge(1 << 30, SECOND);
        assert!(limit.wait_ns(SECOND) > 1_000 * SECOND);
        limit.set_bytes_per_second(Some(1 << 20));
        assert_eq!(limit.wait_ns(SECOND), 0);
        limit.charge(1 << 20, SECOND);
        assert!(limit.wait_ns(SECOND) > 0);
        limit.set_bytes_per_second(None);
        assert_eq!(limit.wait_ns(SECOND), 0);
        assert!(limit.is_unlimited());
        limit.set_iops(Some(100));
        let taken = take_until(&limit, 4096, 10 * SECOND);
        assert!((1_000..=1_012).contains(&taken), "{taken}");
    }

    proptest! {
        #[test]
        fn no_rate_and_no_size_breaks_it(rate in any::<u64>(), bytes in any::<u64>(), now in any::<u64>()) {
            let limit = RateLimit::new(Some(rate), Some(rate));
            limit.charge(bytes, now);
            limit.charge(bytes, now);
            let _ = limit.wait_ns(now);
        }
    }
}

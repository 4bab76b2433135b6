//! Limits on requests per second and bytes per second, shared by the queues of a device.
//!
//! Each limit is a token bucket. A request is charged after it was taken off the ring, because its
//! size is known only then.

use std::time::Duration;

use crate::token_bucket::TokenBucket;

/// The burst after a pause, as the time in which the bucket gains that much.
const BURST: Duration = Duration::from_millis(100);

/// The limits of a device. It is lock-free and may be used from any thread.
#[derive(Debug, Default)]
pub struct RateLimit {
    requests: TokenBucket,
    bytes: TokenBucket,
}

impl RateLimit {
    /// Limits the average requests per second and bytes per second. `None` or 0 means no limit.
    /// After a pause, a tenth of a second's worth may start at once.
    pub fn new(iops: Option<u64>, bytes_per_second: Option<u64>) -> Self {
        let limit = Self::default();
        limit.set_iops(iops);
        limit.set_bytes_per_second(bytes_per_second);
        limit
    }

    /// Changes the limit on requests per second. `None` or 0 means no limit. A queue that waits
    /// notices it within a tenth of a second, and what it used before is forgotten.
    pub fn set_iops(&self, iops: Option<u64>) {
        self.requests.set(iops, BURST.as_nanos() as u64);
    }

    /// Changes the limit on bytes per second, as [`set_iops`](Self::set_iops) does for requests.
    pub fn set_bytes_per_second(&self, bytes_per_second: Option<u64>) {
        self.bytes.set(bytes_per_second, BURST.as_nanos() as u64);
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

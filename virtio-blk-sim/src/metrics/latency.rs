//! The times of requests: recorded in an HDR histogram, shown in the buckets of OpenMetrics.
//!
//! The bounds of the buckets are powers of two, in nanoseconds. They are bounds of cells of the HDR
//! histogram as well, so each time is in its bucket, and not near it.

use hdrhistogram::Histogram;

/// The first bound is 2^13 ns, about 8 us, and the last one 2^33 ns, about 9 s.
const FIRST: u32 = 13;
const BOUNDS: usize = 21;

/// The buckets with a bound, and the one without.
pub(super) const BUCKETS: usize = BOUNDS + 1;

/// The cells below 2^15 ns have this width. Those above are a sixteenth of a power of two wide.
const RESOLUTION_NS: u64 = 1 << 10;
/// Longer times count as this one, about 69 s.
const LONGEST_NS: u64 = 1 << 36;

#[derive(Debug)]
pub(super) struct Latency(Option<Histogram<u64>>);

impl Latency {
    pub(super) fn new() -> Self {
        // These bounds are valid, so there is always a histogram.
        Self(Histogram::new_with_bounds(RESOLUTION_NS, LONGEST_NS, 1).ok())
    }

    /// Records a time. A bucket includes its bound, and a cell does not include its end, so what is
    /// recorded is one nanosecond less.
    pub(super) fn record(&mut self, ns: u64) {
        if let Some(histogram) = &mut self.0 {
            histogram.saturating_record(ns.saturating_sub(1));
        }
    }

    /// The number of times in each bucket.
    pub(super) fn buckets(&self) -> [u64; BUCKETS] {
        let mut buckets = [0; BUCKETS];
        for cell in self.0.iter().flat_map(Histogram::iter_recorded) {
            // The number of bits of the largest time in the cell: it is less than 2^bits.
            let bits = u64::BITS - cell.value_iterated_to().leading_zeros();
            let index = (bits.saturating_sub(FIRST) as usize).min(BOUNDS);
            if let Some(bucket) = buckets.get_mut(index) {
                *bucket += cell.count_at_value();
            }
        }
        buckets
    }
}

/// The upper bounds of the buckets, in seconds. The crate prometheus-client takes the last one for
/// infinity.
pub(super) fn bounds() -> [f64; BUCKETS] {
    std::array::from_fn(|index| match index {
        BOUNDS => f64::MAX,
        _ => (1_u64 << (FIRST as usize + index)) as f64 / 1e9,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_in_the_first_bucket_whose_bound_is_not_less() {
        let bounds = bounds();
        let around = (FIRST..=37).flat_map(|bits| [(1_u64 << bits) - 1, 1 << bits, (1 << bits) + 1]);
        for ns in around.chain([0, 1, 1023, 1024, 1025, 5_000_000, u64::MAX]) {
            let mut latency = Latency::new();
            latency.record(ns);
            let expected = bounds.iter().position(|bound| ns as f64 / 1e9 <= *bound).unwrap();
            let buckets = latency.buckets();
            assert_eq!(buckets.iter().sum::<u64>(), 1, "{ns}");
            assert_eq!(buckets.iter().position(|count| *count == 1), Some(expected), "{ns}");
        }
    }

    #[test]
    fn a_histogram_is_small() {
        let histogram = Latency::new().0.unwrap();
        assert!(histogram.distinct_values() * 8 <= 4096, "{}", histogram.distinct_values());
    }
}

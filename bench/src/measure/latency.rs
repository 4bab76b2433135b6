//! Latencies of one sample, kept in a histogram: recording one is cheap, and histograms can be
//! merged.

use hdrhistogram::Histogram;

/// Three significant digits: a quantile is at most 0.1% above the value that was recorded.
const DIGITS: u8 = 3;
/// A longer latency is recorded as this one.
const LONGEST_NS: u64 = 3_600_000_000_000;

/// An empty histogram of latencies in nanoseconds. Record with
/// [`saturating_record`](Histogram::saturating_record).
pub(crate) fn latencies() -> Histogram<u64> {
    // The bounds are constants that the constructor accepts.
    Histogram::new_with_max(LONGEST_NS, DIGITS).expect("valid bounds")
}

/// The smallest latency that at least a share `quantile` (0 to 1) of those recorded do not exceed,
/// in microseconds. Zero for an empty histogram.
pub(crate) fn quantile_us(latencies_ns: &Histogram<u64>, quantile: f64) -> f64 {
    latencies_ns.value_at_quantile(quantile) as f64 / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_the_values_within_a_thousandth() {
        let mut histogram = latencies();
        (1..=1_000).for_each(|us| histogram.saturating_record(us * 1_000));
        for (quantile, us) in [(0.5, 500.0), (0.99, 990.0), (0.999, 999.0), (1.0, 1_000.0)] {
            let found = quantile_us(&histogram, quantile);
            assert!((us..=us * 1.001).contains(&found), "{quantile}: {found}");
        }
    }

    #[test]
    fn an_empty_histogram_has_no_latency_and_a_very_long_latency_is_capped() {
        let mut histogram = latencies();
        assert_eq!(quantile_us(&histogram, 0.5), 0.0);
        histogram.saturating_record(u64::MAX);
        assert!(quantile_us(&histogram, 0.5) >= LONGEST_NS as f64 / 1e3);
    }

    #[test]
    fn histograms_can_be_merged() {
        let (mut both, mut other) = (latencies(), latencies());
        both.saturating_record(1_000);
        other.saturating_record(3_000);
        both.add(&other).unwrap();
        assert_eq!((both.len(), quantile_us(&both, 1.0).round()), (2, 3.0));
    }
}

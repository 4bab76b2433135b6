//! Latencies of one sample, kept in a histogram: recording one is cheap, and histograms can be
//! merged.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Deserializer, Serializer, V2DeflateSerializer, V2Serializer};
use std::io::Cursor;

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

/// The latencies of one sample, kept until it is known whether its round counts. An encoded
/// histogram (HdrHistogram V2) takes about a kilobyte, where a decoded one takes a quarter of a
/// megabyte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Encoded(Vec<u8>);

impl Encoded {
    pub(crate) fn of(latencies_ns: &Histogram<u64>) -> Self {
        let mut bytes = Vec::new();
        // Writing to a Vec cannot fail, and counts of u64 always fit. An empty one decodes to none.
        let _ = V2Serializer::new().serialize(latencies_ns, &mut bytes);
        Self(bytes)
    }

    /// Adds the latencies to those of other samples.
    pub(crate) fn add_to(&self, all_ns: &mut Histogram<u64>) {
        if let Ok(histogram) = Deserializer::new().deserialize::<u64, _>(&mut Cursor::new(&self.0)) {
            // Both have the bounds of `latencies`.
            let _ = all_ns.add(&histogram);
        }
    }
}

/// A histogram as text: HdrHistogram V2, deflated, in base64. Other implementations read it, too.
/// `None` if it cannot be encoded.
pub(crate) fn to_base64(latencies_ns: &Histogram<u64>) -> Option<String> {
    let mut bytes = Vec::new();
    V2DeflateSerializer::new().serialize(latencies_ns, &mut bytes).ok()?;
    Some(STANDARD.encode(bytes))
}

/// The histogram of such a text. `None` if it is none.
pub(crate) fn from_base64(text: &str) -> Option<Histogram<u64>> {
    let bytes = STANDARD.decode(text).ok()?;
    Deserializer::new().deserialize(&mut Cursor::new(bytes)).ok()
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
    fn a_histogram_survives_its_text() {
        let mut histogram = latencies();
        (1..=1_000).for_each(|us| histogram.saturating_record(us * 1_000));
        let text = to_base64(&histogram).unwrap();
        assert!(text.starts_with("HISTFAAA"), "the cookie of a deflated V2 histogram: {text}");
        assert_eq!(from_base64(&text).unwrap(), histogram);
        for broken in ["", "HISTFAAA", "no base64!", &text[..text.len() / 2]] {
            assert_eq!(from_base64(broken), None, "{broken}");
        }
    }

    #[test]
    fn encoded_samples_add_up() {
        let mut all = latencies();
        for us in [1, 3, 5] {
            let mut one = latencies();
            one.saturating_record(us * 1_000);
            Encoded::of(&one).add_to(&mut all);
        }
        assert_eq!((all.len(), quantile_us(&all, 0.5).round()), (3, 3.0));
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

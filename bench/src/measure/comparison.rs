//! One metric of one arm against the same metric of its baseline, paired by round.

use super::bootstrap::Estimate;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Whether less or more of a metric is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Better {
    Lower,
    Higher,
}

/// What follows from the interval of a difference. For a cost "faster" means less of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Verdict {
    Faster,
    Slower,
    /// The interval spans zero, or there were too few rounds for an interval.
    NoDetectableDifference,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Verdict::Faster => "faster",
            Verdict::Slower => "slower",
            Verdict::NoDetectableDifference => "no detectable difference",
        })
    }
}

/// The paired differences and ratios of an arm against its baseline.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Comparison {
    /// Rounds in which both were measured.
    pub(crate) pairs: usize,
    /// arm - baseline, in the metric's unit.
    pub(crate) difference: Estimate,
    /// arm / baseline; absent where a baseline value is not positive.
    pub(crate) ratio: Option<Estimate>,
    pub(crate) verdict: Verdict,
}

impl Comparison {
    /// Compares `(arm, baseline)` pairs, one per round. Pairs with a value that is not finite are
    /// ignored; `None` if there are no others.
    pub(crate) fn of(pairs: &[(f64, f64)], better: Better) -> Option<Self> {
        let pairs: Vec<(f64, f64)> =
            pairs.iter().copied().filter(|(arm, base)| arm.is_finite() && base.is_finite()).collect();
        let differences: Vec<f64> = pairs.iter().map(|(arm, base)| arm - base).collect();
        let difference = Estimate::of(&differences)?;
        let ratio = if pairs.iter().all(|&(_, base)| base > 0.0) {
            Estimate::of(&pairs.iter().map(|(arm, base)| arm / base).collect::<Vec<_>>())
        } else {
            None
        };
        Some(Self { pairs: pairs.len(), difference, ratio, verdict: verdict(difference, better) })
    }
}

fn verdict(difference: Estimate, better: Better) -> Verdict {
    match difference.interval {
        None => Verdict::NoDetectableDifference,
        Some(interval) if interval.spans_zero() => Verdict::NoDetectableDifference,
        Some(interval) if (interval.high < 0.0) == (better == Better::Lower) => Verdict::Faster,
        Some(_) => Verdict::Slower,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fastrand::Rng;

    /// Pairs whose baseline drifts from round to round; the arm is `shift` above it, give or take
    /// 1.
    fn pairs(shift: f64) -> Vec<(f64, f64)> {
        let mut random = Rng::with_seed(11);
        (0..10)
            .map(|round| {
                let base = 1_000.0 + 50.0 * f64::from(round);
                (base + shift + f64::from(random.u32(..2_001)) / 1_000.0 - 1.0, base)
            })
            .collect()
    }

    #[test]
    fn pairing_detects_an_effect_that_is_smaller_than_the_drift() {
        let comparison = Comparison::of(&pairs(-20.0), Better::Lower).unwrap();
        assert_eq!(comparison.verdict, Verdict::Faster);
        assert_eq!(comparison.pairs, 10);
        let interval = comparison.difference.interval.unwrap();
        assert!(interval.low >= -21.0 && interval.high <= -19.0, "{interval:?}");
        let ratio = comparison.ratio.unwrap();
        assert!(ratio.median > 0.97 && ratio.median < 0.99, "{ratio:?}");
    }

    #[test]
    fn the_direction_of_better_decides_the_word() {
        assert_eq!(Comparison::of(&pairs(20.0), Better::Lower).unwrap().verdict, Verdict::Slower);
        assert_eq!(Comparison::of(&pairs(20.0), Better::Higher).unwrap().verdict, Verdict::Faster);
        assert_eq!(Comparison::of(&pairs(-20.0), Better::Higher).unwrap().verdict, Verdict::Slower);
    }

    #[test]
    fn no_effect_is_reported_as_no_detectable_difference() {
        let comparison = Comparison::of(&pairs(0.0), Better::Lower).unwrap();
        assert_eq!(comparison.verdict.to_string(), "no detectable difference");
        assert!(comparison.difference.interval.unwrap().spans_zero());
    }

    #[test]
    fn degenerate_inputs() {
        assert_eq!(Comparison::of(&[], Better::Lower), None);
        assert_eq!(Comparison::of(&[(f64::NAN, 1.0)], Better::Lower), None);
        // One round proves nothing, however large the difference looks.
        let one = Comparison::of(&[(1.0, 100.0)], Better::Lower).unwrap();
        assert_eq!((one.verdict, one.difference.interval), (Verdict::NoDetectableDifference, None));
        // Equal samples.
        let equal = Comparison::of(&[(3.0, 3.0); 8], Better::Lower).unwrap();
        assert_eq!((equal.verdict, equal.difference.median), (Verdict::NoDetectableDifference, 0.0));
        // A count that is exact in every round: an interval without width, and a clear verdict.
        let exact = Comparison::of(&[(2.0, 3.0); 8], Better::Lower).unwrap();
        assert_eq!((exact.verdict, exact.difference.median), (Verdict::Faster, -1.0));
        // No ratio to a baseline of zero.
        assert_eq!(Comparison::of(&[(1.0, 0.0); 8], Better::Lower).unwrap().ratio, None);
    }
}

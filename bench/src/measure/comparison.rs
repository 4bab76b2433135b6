//! One metric of one arm against the same metric of its baseline, paired by round.

use super::bootstrap::Estimate;
use super::verdict::Verdict;
use serde::{Deserialize, Serialize};

/// Whether less or more of a metric is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Better {
    Lower,
    Higher,
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
    /// See [`super::verdict`].
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
        let verdict = verdict(difference, ratio, better);
        Some(Self { pairs: pairs.len(), difference, ratio, verdict })
    }

    /// The same with the verdict that its intervals give. Reports of older versions have other
    /// verdicts.
    pub(crate) fn judged(self, better: Better) -> Self {
        Self { verdict: verdict(self.difference, self.ratio, better), ..self }
    }
}

fn verdict(difference: Estimate, ratio: Option<Estimate>, better: Better) -> Verdict {
    match (ratio, better) {
        (Some(ratio), _) => Verdict::on_share(saved(ratio, better)),
        (None, Better::Lower) => Verdict::on_count(difference.map(|difference| -difference)),
        (None, Better::Higher) => Verdict::on_count(difference),
    }
}

/// What an arm saves, as a share of its baseline. Of a rate, such as IOPS, that is the share of the
/// time of one.
pub(crate) fn saved(ratio: Estimate, better: Better) -> Estimate {
    ratio.map(|ratio| match better {
        Better::Lower => 1.0 - ratio,
        Better::Higher => 1.0 - 1.0 / ratio,
    })
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
        assert_eq!(comparison.verdict, Verdict::Saves);
        assert_eq!(comparison.pairs, 10);
        let interval = comparison.difference.interval.unwrap();
        assert!(interval.low >= -21.0 && interval.high <= -19.0, "{interval:?}");
        let ratio = comparison.ratio.unwrap();
        assert!(ratio.median > 0.97 && ratio.median < 0.99, "{ratio:?}");
    }

    #[test]
    fn the_direction_of_better_decides_the_word() {
        assert_eq!(Comparison::of(&pairs(20.0), Better::Lower).unwrap().verdict, Verdict::Costs);
        assert_eq!(Comparison::of(&pairs(20.0), Better::Higher).unwrap().verdict, Verdict::Saves);
        assert_eq!(Comparison::of(&pairs(-20.0), Better::Higher).unwrap().verdict, Verdict::Costs);
    }

    #[test]
    fn no_effect_is_no_difference_that_could_be_seen() {
        let comparison = Comparison::of(&pairs(0.0), Better::Lower).unwrap();
        assert_eq!(comparison.verdict.to_string(), "no difference that could be seen");
        assert!(comparison.difference.interval.unwrap().spans_zero());
    }

    #[test]
    fn degenerate_inputs() {
        assert_eq!(Comparison::of(&[], Better::Lower), None);
        assert_eq!(Comparison::of(&[(f64::NAN, 1.0)], Better::Lower), None);
        // One round proves nothing, however large the difference looks.
        let one = Comparison::of(&[(1.0, 100.0)], Better::Lower).unwrap();
        assert_eq!((one.verdict, one.difference.interval), (Verdict::Inconclusive, None));
        // Equal samples.
        let equal = Comparison::of(&[(3.0, 3.0); 8], Better::Lower).unwrap();
        assert_eq!((equal.verdict, equal.difference.median), (Verdict::NoDifferenceSeen, 0.0));
        // A count that is exact in every round: an interval without width, and a clear verdict.
        let exact = Comparison::of(&[(2.0, 3.0); 8], Better::Lower).unwrap();
        assert_eq!((exact.verdict, exact.difference.median), (Verdict::Saves, -1.0));
        // No ratio to a baseline of zero.
        assert_eq!(Comparison::of(&[(1.0, 0.0); 8], Better::Lower).unwrap().ratio, None);
    }
}

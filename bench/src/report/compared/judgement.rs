//! The judgement of one metric in two runs. Pure functions of the values.

use crate::measure::{Better, Estimate, Interval, of_two};
use crate::report::number::{percent, signed};
use std::fmt;

/// Smaller differences of a count mean nothing: one doorbell more or less in a run.
const NOTHING: f64 = 0.02;

/// The change from before to after.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Times {
    /// after / before.
    Ratio(Estimate),
    /// after - before, if before is zero (a count).
    FromZero(Estimate),
}

/// The judgement of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Judgement {
    /// The whole interval is worse than the threshold.
    Worse,
    Better,
    /// The whole interval is within the threshold.
    Same,
    /// The threshold is inside the interval, or there were too few rounds for an interval.
    Unclear,
}

impl fmt::Display for Judgement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Worse => "worse",
            Self::Better => "better",
            Self::Same => "same",
            Self::Unclear => "undecided",
        })
    }
}

impl Judgement {
    pub(crate) fn is_worse(self) -> bool {
        self == Self::Worse
    }

    /// Returns true if the metric has changed by more than the threshold.
    pub(crate) fn is_change(self) -> bool {
        matches!(self, Self::Worse | Self::Better)
    }
}

impl Times {
    /// `None` if a side has no finite value.
    pub(super) fn of(before: &[f64], after: &[f64]) -> Option<Self> {
        let positive = before.iter().all(|&value| value > 0.0);
        if positive {
            of_two(after, before, |after, before| after / before).map(Self::Ratio)
        } else {
            of_two(after, before, |after, before| after - before).map(Self::FromZero)
        }
    }

    /// `threshold` is a share of one.
    pub(super) fn judge(self, better: Better, threshold: f64) -> Judgement {
        let (estimate, nothing, threshold) = match self {
            Self::Ratio(ratio) => (ratio, 1.0, threshold),
            Self::FromZero(difference) => (difference, 0.0, NOTHING),
        };
        let Some(Interval { low, high }) = estimate.interval else { return Judgement::Unclear };
        let (low, high) = (low - nothing, high - nothing);
        // By how much it is worse, at least and at most.
        let (least, most) = match better {
            Better::Lower => (low, high),
            Better::Higher => (-high, -low),
        };
        if least > threshold {
            Judgement::Worse
        } else if most < -threshold {
            Judgement::Better
        } else if least >= -threshold && most <= threshold {
            Judgement::Same
        } else {
            Judgement::Unclear
        }
    }

    pub(super) fn words(self) -> String {
        match self {
            Self::Ratio(ratio) => percent(ratio.median),
            Self::FromZero(difference) => signed(difference.median),
        }
    }

    /// Of the ratio.
    pub(super) fn interval(self) -> Option<Interval> {
        match self {
            Self::Ratio(ratio) => ratio.interval,
            Self::FromZero(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(before: f64, after: f64, better: Better) -> Judgement {
        let spread = [0.99, 1.0, 1.01, 1.0, 0.995, 1.005];
        let values = |value: f64| spread.map(|factor| value * factor);
        Times::of(&values(before), &values(after)).unwrap().judge(better, 0.05)
    }

    #[test]
    fn the_whole_interval_must_be_beyond_the_threshold() {
        assert_eq!(judge(100.0, 120.0, Better::Lower), Judgement::Worse);
        assert_eq!(judge(100.0, 120.0, Better::Higher), Judgement::Better);
        assert_eq!(judge(100.0, 80.0, Better::Higher), Judgement::Worse);
        assert_eq!(judge(100.0, 80.0, Better::Lower), Judgement::Better);
        assert_eq!(judge(100.0, 101.0, Better::Lower), Judgement::Same);
        assert_eq!(judge(100.0, 105.0, Better::Lower), Judgement::Unclear);
    }

    /// The interval contains one end of the tolerated range, for both kinds of metric.
    #[test]
    fn an_interval_that_reaches_over_an_end_tells_nothing() {
        let before = [100.0; 8];
        let judge = |after: [f64; 8], better| Times::of(&before, &after).unwrap().judge(better, 0.05);
        let above = [102.0, 108.0, 103.0, 107.0, 102.5, 107.5, 103.5, 106.5];
        let below = above.map(|value| 200.0 - value);
        for better in [Better::Lower, Better::Higher] {
            assert_eq!(
                (judge(above, better), judge(below, better)),
                (Judgement::Unclear, Judgement::Unclear)
            );
        }
        // The whole interval is beyond the tolerated range.
        let far = above.map(|value| value + 10.0);
        assert_eq!(
            (judge(far, Better::Lower), judge(far, Better::Higher)),
            (Judgement::Worse, Judgement::Better)
        );
        // Its nearer end counts: 106 to 124 is worse than 5% and not than 10%.
        let wide = [106.0, 124.0, 106.5, 123.5, 107.0, 123.0, 107.5, 122.5];
        let inverse = wide.map(|value| 1e4 / value);
        for (threshold, judgement) in [(0.05, Judgement::Worse), (0.1, Judgement::Unclear)] {
            assert_eq!(Times::of(&before, &wide).unwrap().judge(Better::Lower, threshold), judgement);
            assert_eq!(Times::of(&before, &inverse).unwrap().judge(Better::Higher, threshold), judgement);
        }
    }

    #[test]
    fn a_count_that_was_zero_is_worse_when_it_is_not() {
        let times = |after: f64| Times::of(&[0.0; 6], &[after; 6]).unwrap();
        assert_eq!(times(1.0).judge(Better::Lower, 0.05), Judgement::Worse);
        assert_eq!(times(0.001).judge(Better::Lower, 0.05), Judgement::Same);
        assert_eq!(times(1.0).words(), "+1.00");
        assert_eq!(times(1.0).interval(), None);
    }

    #[test]
    fn few_rounds_tell_nothing() {
        let times = Times::of(&[1.0; 3], &[9.0; 3]).unwrap();
        assert_eq!(times.judge(Better::Lower, 0.05), Judgement::Unclear);
        assert_eq!(Times::of(&[], &[1.0]), None);
    }
}

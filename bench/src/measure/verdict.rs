//! The verdict on a difference, in one of four words. The rule is in this file and nowhere else.
//!
//! Every comparison asks the same question: is there an effect of one percent ([`ASKED`])? What
//! an arm saves is a share of its baseline, and the 95% interval of that share decides. The first
//! line that applies counts:
//!
//! | the interval of what is saved                     | verdict                               |
//! |---------------------------------------------------|---------------------------------------|
//! | none, because there were fewer than six rounds    | inconclusive                          |
//! | wholly at +1% or above, however wide              | saves                                 |
//! | wholly at -1% or below, however wide              | costs                                 |
//! | wider than 1%                                     | inconclusive                          |
//! | wholly above zero                                 | saves                                 |
//! | wholly below zero                                 | costs                                 |
//! | zero is inside                                    | no difference that could be seen      |
//!
//! So an interval that is wider than the effect asked about says something only if all of it is
//! beyond that effect, and "no difference that could be seen" rules out an effect of one percent
//! either way.
//!
//! A count whose baseline is zero has no share. Its difference decides: above or below zero, or
//! exactly zero in every round. Otherwise it is inconclusive.

use super::bootstrap::{Estimate, Interval};
use serde::{Deserialize, Serialize};
use std::fmt;

/// The effect that is asked about, as a share of the baseline: the one percent of the proposal of
/// 2020.
pub(crate) const ASKED: f64 = 0.01;

/// What follows from an interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Verdict {
    /// Less time, less CPU, fewer calls, more requests per second.
    #[serde(alias = "faster")]
    Saves,
    #[serde(alias = "slower")]
    Costs,
    #[serde(alias = "no-detectable-difference")]
    NoDifferenceSeen,
    Inconclusive,
}

impl Verdict {
    pub(crate) const ALL: [Self; 4] = [Self::Saves, Self::Costs, Self::NoDifferenceSeen, Self::Inconclusive];

    /// The verdict on what is saved, as a share of the baseline.
    pub(crate) fn on_share(saved: Estimate) -> Self {
        let Some(interval) = saved.interval else { return Self::Inconclusive };
        let Interval { low, high } = interval;
        if low >= ASKED {
            Self::Saves
        } else if high <= -ASKED {
            Self::Costs
        } else if !is_narrow(interval) {
            Self::Inconclusive
        } else if low > 0.0 {
            Self::Saves
        } else if high < 0.0 {
            Self::Costs
        } else {
            Self::NoDifferenceSeen
        }
    }

    /// The verdict on what is saved of a count that can be zero.
    pub(crate) fn on_count(saved: Estimate) -> Self {
        match saved.interval {
            Some(Interval { low, .. }) if low > 0.0 => Self::Saves,
            Some(Interval { high, .. }) if high < 0.0 => Self::Costs,
            Some(Interval { low: 0.0, high: 0.0 }) => Self::NoDifferenceSeen,
            _ => Self::Inconclusive,
        }
    }

    /// Returns true if there is an effect, whichever way.
    pub(crate) fn is_effect(self) -> bool {
        matches!(self, Self::Saves | Self::Costs)
    }
}

/// Returns true if an interval of a share is no wider than the effect that is asked about.
pub(crate) fn is_narrow(interval: Interval) -> bool {
    // An interval that is as wide as the effect may miss that by a rounding error.
    interval.high - interval.low <= ASKED + 1e-12
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Saves => "saves",
            Self::Costs => "costs",
            Self::NoDifferenceSeen => "no difference that could be seen",
            Self::Inconclusive => "inconclusive",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Verdict::{Costs, Inconclusive, NoDifferenceSeen, Saves};

    fn between(low: f64, high: f64) -> Estimate {
        Estimate { median: (low + high) / 2.0, interval: Some(Interval { low, high }) }
    }

    #[test]
    fn the_rule_as_a_table() {
        let percent = |low: f64, high: f64| Verdict::on_share(between(low / 100.0, high / 100.0));
        for (low, high, verdict) in [
            // Beyond the effect, narrow and wide.
            (11.0, 11.6, Saves),
            (1.0, 41.1, Saves),
            (-54.0, -1.0, Costs),
            // Wider than the effect, and not all of it beyond.
            (0.08, 41.1, Inconclusive),
            (0.99, 2.0, Inconclusive),
            (-153.0, 54.0, Inconclusive),
            (-0.6, 0.6, Inconclusive),
            (-2.0, -0.9, Inconclusive),
            // Narrower than the effect.
            (0.3, 0.7, Saves),
            (0.5, 1.5, Saves),
            (-0.7, -0.3, Costs),
            (-0.02, 0.49, NoDifferenceSeen),
            (-0.5, 0.5, NoDifferenceSeen),
            // Zero at an end is inside.
            (0.0, 0.4, NoDifferenceSeen),
            (-0.4, 0.0, NoDifferenceSeen),
            (0.0, 0.0, NoDifferenceSeen),
        ] {
            assert_eq!(percent(low, high), verdict, "{low}% to {high}%");
        }
    }

    #[test]
    fn without_an_interval_nothing_is_concluded() {
        let none = Estimate { median: 0.5, interval: None };
        assert_eq!((Verdict::on_share(none), Verdict::on_count(none)), (Inconclusive, Inconclusive));
    }

    #[test]
    fn a_count_is_judged_by_its_sign() {
        let count = |low, high| Verdict::on_count(between(low, high));
        assert_eq!([count(0.5, 2.0), count(-2.0, -0.5)], [Saves, Costs]);
        assert_eq!(
            [count(0.0, 0.0), count(0.0, 1.0), count(-1.0, 1.0)],
            [NoDifferenceSeen, Inconclusive, Inconclusive]
        );
    }

    #[test]
    fn the_four_words() {
        let words = Verdict::ALL.map(|verdict| verdict.to_string());
        assert_eq!(words, ["saves", "costs", "no difference that could be seen", "inconclusive"]);
        let json = Verdict::ALL.map(|verdict| serde_json::to_string(&verdict).unwrap());
        assert_eq!(json, [r#""saves""#, r#""costs""#, r#""no-difference-seen""#, r#""inconclusive""#]);
        for (old, verdict) in
            [("faster", Saves), ("slower", Costs), ("no-detectable-difference", NoDifferenceSeen)]
        {
            assert_eq!(serde_json::from_str::<Verdict>(&format!("\"{old}\"")).unwrap(), verdict);
        }
    }
}

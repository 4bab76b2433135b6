//! Median, median absolute deviation and quantiles of a handful of numbers. Pure functions.

use serde::{Deserialize, Serialize};

/// The middle and the spread of the values of one metric, one value per round.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Summary {
    /// How many values (rounds).
    pub(crate) n: usize,
    pub(crate) median: f64,
    /// Median absolute deviation from the median: the spread, not scaled to a standard deviation.
    pub(crate) mad: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Summary {
    /// `None` without a finite value; what is not finite is left out.
    pub(crate) fn of(values: &[f64]) -> Option<Self> {
        let sorted = sorted(values);
        let median = quantile(&sorted, 0.5)?;
        let deviations = self::sorted(&sorted.iter().map(|value| (value - median).abs()).collect::<Vec<_>>());
        Some(Self {
            n: sorted.len(),
            median,
            mad: quantile(&deviations, 0.5)?,
            min: *sorted.first()?,
            max: *sorted.last()?,
        })
    }
}

/// The finite values among `values`, in ascending order.
pub(crate) fn sorted(values: &[f64]) -> Vec<f64> {
    let mut sorted: Vec<f64> = values.iter().copied().filter(|value| value.is_finite()).collect();
    sorted.sort_by(f64::total_cmp);
    sorted
}

/// The quantile `p` (0 to 1) of values in ascending order, interpolated between neighbours as R's
/// type 7 and NumPy do. `None` without a value.
pub(crate) fn quantile(ascending: &[f64], p: f64) -> Option<f64> {
    let last = ascending.len().checked_sub(1)?;
    let position = p.clamp(0.0, 1.0) * last as f64;
    let below = (position.floor() as usize).min(last);
    let above = (below + 1).min(last);
    let weight = position - below as f64;
    // Equal neighbours are returned unchanged: interpolating between them could differ in the last
    // bit.
    if weight == 0.0 || ascending[below] == ascending[above] {
        return Some(ascending[below]);
    }
    Some(ascending[below] * (1.0 - weight) + ascending[above] * weight)
}

/// The median of values in any order. `None` without a finite value.
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    quantile(&sorted(values), 0.5)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_values() {
        let summary = Summary::of(&[1.0, 1.0, 2.0, 2.0, 4.0, 6.0, 9.0]).unwrap();
        assert_eq!(summary, Summary { n: 7, median: 2.0, mad: 1.0, min: 1.0, max: 9.0 });
        assert_eq!(median(&[4.0, 1.0, 3.0, 2.0]), Some(2.5));
        let ramp: Vec<f64> = (0..=100).map(f64::from).collect();
        assert_eq!(quantile(&ramp, 0.025), Some(2.5));
        assert_eq!(quantile(&ramp, 0.0), Some(0.0));
        assert_eq!(quantile(&ramp, 1.0), Some(100.0));
    }

    #[test]
    fn degenerate_inputs() {
        assert_eq!(Summary::of(&[]), None);
        assert_eq!(Summary::of(&[f64::NAN, f64::INFINITY]), None);
        assert_eq!(Summary::of(&[5.0]), Some(Summary { n: 1, median: 5.0, mad: 0.0, min: 5.0, max: 5.0 }));
        assert_eq!(Summary::of(&[0.1; 9]), Some(Summary { n: 9, median: 0.1, mad: 0.0, min: 0.1, max: 0.1 }));
        assert_eq!(Summary::of(&[f64::NAN, 3.0]).map(|summary| summary.n), Some(1));
    }

    proptest! {
        #[test]
        fn a_summary_is_ordered_and_finite(values in prop::collection::vec(-1e12..1e12f64, 1..40)) {
            let summary = Summary::of(&values).unwrap();
            prop_assert!(summary.min <= summary.median && summary.median <= summary.max);
            prop_assert!(summary.mad >= 0.0 && summary.mad <= summary.max - summary.min);
            prop_assert_eq!(summary.n, values.len());
        }

        #[test]
        fn a_quantile_grows_with_p(values in prop::collection::vec(-1e6..1e6f64, 1..40), a in 0.0..1.0f64, b in 0.0..1.0f64) {
            let values = sorted(&values);
            let (low, high) = (a.min(b), a.max(b));
            prop_assert!(quantile(&values, low).unwrap() <= quantile(&values, high).unwrap() + 1e-6);
        }
    }
}

//! The 95% interval of a median, by the bootstrap.
//!
//! Resample the values with replacement many times, take the median of each resample, and cut off
//! the tails. With ten values the plain percentile interval is too narrow (in a simulation with
//! normal differences it covers 92-93%). Therefore the tails are cut at the probability of
//! Hesterberg's *expanded percentile interval* ("What teachers should know about the bootstrap",
//! The American Statistician 69, 2015, section 5.3), which accounts for Student's t with n-1
//! degrees of freedom and for the n/(n-1) bias of the resampled variance.

use super::statistics::{median, quantile, sorted};
use fastrand::Rng;
use serde::{Deserialize, Serialize};

/// The smallest number of values with an interval. The range of n values misses the true median
/// with probability 2^(1-n), so with five values no interval made from them can reach 95%.
pub(crate) const MIN_VALUES: usize = 6;

const RESAMPLES: usize = 4_999;
const SEED: u64 = 0x005E_ED0F_B007;
/// The normal quantile of 97.5%.
const Z: f64 = 1.959_963_984_540_054;

/// A 95% confidence interval, in the unit of the values.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Interval {
    pub(crate) low: f64,
    pub(crate) high: f64,
}

impl Interval {
    /// Returns true if zero is inside, ends included.
    #[cfg(test)]
    pub(crate) fn spans_zero(self) -> bool {
        self.low <= 0.0 && self.high >= 0.0
    }
}

/// A median and, from [`MIN_VALUES`] values on, its interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Estimate {
    pub(crate) median: f64,
    pub(crate) interval: Option<Interval>,
}

impl Estimate {
    /// Estimates the median of the distribution that `values` were drawn from. Values that are not
    /// finite are ignored; `None` if there are no others. The same values always give the same
    /// estimate.
    pub(crate) fn of(values: &[f64]) -> Option<Self> {
        let values: Vec<f64> = values.iter().copied().filter(|value| value.is_finite()).collect();
        Some(Self { median: median(&values)?, interval: interval(&values, RESAMPLES) })
    }

    /// Applies a monotonic function.
    pub(crate) fn map(self, function: impl Fn(f64) -> f64) -> Self {
        let interval = self.interval.map(|interval| {
            let (a, b) = (function(interval.low), function(interval.high));
            Interval { low: a.min(b), high: a.max(b) }
        });
        Self { median: function(self.median), interval }
    }
}

/// A statistic of the medians of two runs, whose values cannot be paired: its value, and its
/// interval by resampling each side on its own. `None` without a finite value on both sides.
pub(crate) fn of_two(a: &[f64], b: &[f64], statistic: impl Fn(f64, f64) -> f64) -> Option<Estimate> {
    let (a, b) = (sorted(a), sorted(b));
    let median = statistic(quantile(&a, 0.5)?, quantile(&b, 0.5)?);
    let fewest = a.len().min(b.len());
    if fewest < MIN_VALUES || !median.is_finite() {
        return median.is_finite().then_some(Estimate { median, interval: None });
    }
    let mut random = Rng::with_seed(SEED);
    let mut draw = |values: &[f64]| {
        let mut resample: Vec<f64> = values.iter().map(|_| values[random.usize(..values.len())]).collect();
        resample.sort_by(f64::total_cmp);
        quantile(&resample, 0.5)
    };
    let mut drawn = Vec::with_capacity(RESAMPLES);
    for _ in 0..RESAMPLES {
        drawn.push(statistic(draw(&a)?, draw(&b)?));
    }
    let drawn = sorted(&drawn);
    let tail = tail_probability(fewest);
    let interval = Interval { low: quantile(&drawn, tail)?, high: quantile(&drawn, 1.0 - tail)? };
    Some(Estimate { median, interval: Some(interval) })
}

fn interval(values: &[f64], resamples: usize) -> Option<Interval> {
    let n = values.len();
    if n < MIN_VALUES {
        return None;
    }
    let mut random = Rng::with_seed(SEED);
    let mut resample = vec![0.0; n];
    let mut medians = Vec::with_capacity(resamples);
    for _ in 0..resamples {
        for slot in &mut resample {
            *slot = values[random.usize(..n)];
        }
        resample.sort_by(f64::total_cmp);
        medians.push(quantile(&resample, 0.5)?);
    }
    let medians = sorted(&medians);
    let tail = tail_probability(n);
    Some(Interval { low: quantile(&medians, tail)?, high: quantile(&medians, 1.0 - tail)? })
}

/// The share to cut off on each side for 95% in the middle: Phi(-sqrt(n / (n-1)) * t(97.5%, n-1)).
fn tail_probability(n: usize) -> f64 {
    let n = n as f64;
    normal_below(-(n / (n - 1.0)).sqrt() * student_t(n - 1.0))
}

/// The 97.5% quantile of Student's t, by the Cornish-Fisher expansion around the normal quantile
/// (Abramowitz and Stegun 26.7.5); with the five degrees of freedom that [`MIN_VALUES`] leaves it
/// is 0.1% low.
fn student_t(freedom: f64) -> f64 {
    let z2 = Z * Z;
    let g1 = Z * (z2 + 1.0) / 4.0;
    let g2 = Z * ((5.0 * z2 + 16.0) * z2 + 3.0) / 96.0;
    let g3 = Z * (((3.0 * z2 + 19.0) * z2 + 17.0) * z2 - 15.0) / 384.0;
    Z + g1 / freedom + g2 / freedom.powi(2) + g3 / freedom.powi(3)
}

/// The probability that Student's t with `freedom` degrees of freedom is farther from zero than `t`
/// (Abramowitz and Stegun 26.7.3 and 26.7.4).
fn beyond(t: f64, freedom: usize) -> f64 {
    let freedom_root = (freedom as f64).sqrt();
    let angle = (t / freedom_root).atan();
    let (sin, cos) = angle.sin_cos();
    let is_odd = freedom % 2 == 1;
    // Of cos and cos^3 and so on, or of 1 and cos^2 and so on.
    let (mut term, mut sum) = (if is_odd { cos } else { 1.0 }, 0.0);
    let mut power = if is_odd { 1 } else { 0 };
    while power + 2 <= freedom {
        sum += term;
        term *= cos * cos * (power + 1) as f64 / (power + 2) as f64;
        power += 2;
    }
    let within = if is_odd { (angle + sin * sum) * std::f64::consts::FRAC_2_PI } else { sin * sum };
    (1.0 - within).clamp(0.0, 1.0)
}

/// The probability of an estimate `distances` times as far from zero as the end of its interval is
/// from it, if there is no effect. The interval is of `values` values.
pub(super) fn by_chance(distances: f64, values: usize) -> f64 {
    let freedom = values.saturating_sub(1).max(1);
    beyond(student_t(freedom as f64) * distances, freedom)
}

/// The standard normal distribution function for x <= 0 (Abramowitz and Stegun 26.2.17, error below
/// 7.5e-8).
fn normal_below(x: f64) -> f64 {
    let t = 1.0 / (1.0 - 0.231_641_9 * x);
    let series = t
        * (0.319_381_530
            + t * (-0.356_563_782 + t * (1.781_477_937 + t * (-1.821_255_978 + t * 1.330_274_429))));
    (-x * x / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt() * series
}

#[cfg(test)]
mod tests {
    use super::*;
    use fastrand::Rng;
    use proptest::prelude::*;

    /// A standard normal number: Box and Muller.
    fn normal(random: &mut Rng) -> f64 {
        let radius = (-2.0 * (1.0 - random.f64()).ln()).sqrt();
        radius * (2.0 * std::f64::consts::PI * random.f64()).cos()
    }

    /// How often, in percent, the interval contains the true median when the values come from
    /// `draw`.
    fn coverage(n: usize, true_median: f64, mut draw: impl FnMut(&mut Rng) -> f64) -> f64 {
        let mut random = Rng::with_seed(n as u64);
        let trials = 300;
        let hits = (0..trials)
            .filter(|_| {
                let values: Vec<f64> = (0..n).map(|_| draw(&mut random)).collect();
                let interval = interval(&values, 999).unwrap();
                interval.low <= true_median && true_median <= interval.high
            })
            .count();
        hits as f64 * 100.0 / f64::from(trials)
    }

    #[test]
    fn the_quantiles_match_the_tables() {
        // Student's t, two-sided 95%: 2.571 with 5 degrees of freedom, 2.262 with 9, 2.045 with 29.
        assert!((student_t(5.0) - 2.571).abs() < 0.005);
        assert!((student_t(9.0) - 2.262).abs() < 0.001);
        assert!((student_t(29.0) - 2.045).abs() < 0.001);
        assert!((normal_below(-Z) - 0.025).abs() < 1e-6);
        // Tables: 2.571 and 4.032 with 5 degrees of freedom, 3.355 with 8, 12.706 with 1.
        for (t, freedom, probability) in
            [(2.571, 5, 0.05), (4.032, 5, 0.01), (3.355, 8, 0.01), (12.706, 1, 0.05), (2.0, 1_000, 0.0458)]
        {
            assert!((beyond(t, freedom) - probability).abs() < 2e-4, "{t} {freedom}: {}", beyond(t, freedom));
        }
        assert_eq!((beyond(0.0, 5), beyond(f64::MAX, 5)), (1.0, 0.0));
        assert!((normal_below(0.0) - 0.5).abs() < 1e-6);
        assert!((tail_probability(10) - 0.0086).abs() < 1e-4);
    }

    #[test]
    fn the_interval_has_its_nominal_coverage() {
        // 300 trials of a 95% event: 91% is more than three standard errors below.
        for n in [6, 10, 20] {
            let of_normal = coverage(n, 0.0, normal);
            assert!(of_normal >= 91.0, "normal differences, {n} rounds: {of_normal}%");
            let of_skewed = coverage(n, 1.0, |random| normal(random).exp());
            assert!(of_skewed >= 91.0, "log-normal differences, {n} rounds: {of_skewed}%");
        }
    }

    #[test]
    fn the_interval_narrows_with_the_number_of_values() {
        let mut random = Rng::with_seed(3);
        let values: Vec<f64> = (0..100).map(|_| normal(&mut random)).collect();
        let width = |n: usize| interval(&values[..n], RESAMPLES).map(|i| i.high - i.low).unwrap();
        assert!(width(100) < width(20) && width(20) < width(6));
    }

    #[test]
    fn two_runs_are_resampled_separately() {
        let (slow, fast) =
            ([110.0, 111.0, 109.0, 110.0, 112.0, 108.0], [100.0, 101.0, 99.0, 100.0, 102.0, 98.0]);
        let ratio = of_two(&slow, &fast, |a, b| a / b).unwrap();
        let interval = ratio.interval.unwrap();
        assert!(
            (ratio.median - 1.1).abs() < 1e-9 && interval.low > 1.05 && interval.high < 1.15,
            "{ratio:?}"
        );
        let same = of_two(&fast, &fast, |a, b| a - b).unwrap();
        assert!(same.interval.unwrap().spans_zero());
        assert_eq!(of_two(&fast[..5], &slow, |a, b| a - b).unwrap().interval, None);
        assert_eq!(of_two(&[], &slow, |a, b| a - b), None);
        assert_eq!(of_two(&slow, &[0.0; 6], |a, b| a / b), None);
    }

    #[test]
    fn too_few_values_have_no_interval() {
        assert_eq!(Estimate::of(&[]), None);
        assert_eq!(Estimate::of(&[f64::NAN]), None);
        assert_eq!(Estimate::of(&[7.0]), Some(Estimate { median: 7.0, interval: None }));
        assert_eq!(Estimate::of(&[7.0; 5]), Some(Estimate { median: 7.0, interval: None }));
    }

    #[test]
    fn equal_values_have_an_interval_without_width() {
        let estimate = Estimate::of(&[-0.1; 6]).unwrap();
        assert_eq!(estimate, Estimate { median: -0.1, interval: Some(Interval { low: -0.1, high: -0.1 }) });
        assert!(!estimate.interval.unwrap().spans_zero());
        assert!(Estimate::of(&[0.0; 6]).unwrap().interval.unwrap().spans_zero());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn an_interval_is_finite_ordered_within_the_values_and_reproducible(
            values in prop::collection::vec(-1e9..1e9f64, MIN_VALUES..24)
        ) {
            let estimate = Estimate::of(&values).unwrap();
            let interval = estimate.interval.unwrap();
            let ordered = sorted(&values);
            prop_assert!(interval.low <= interval.high);
            prop_assert!(interval.low >= ordered[0] && interval.high <= ordered[ordered.len() - 1]);
            prop_assert_eq!(Estimate::of(&values).unwrap(), estimate);
        }
    }
}

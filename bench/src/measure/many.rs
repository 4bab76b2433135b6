//! Many comparisons at once. Of a hundred arms without an effect, five have a 95% interval that
//! excludes zero. Therefore the verdicts of a table hold together: of those that say "saves" or
//! "costs", at most 5% are expected to be wrong (the false discovery rate; Benjamini and Hochberg,
//! J. R. Stat. Soc. B 57, 1995). Others become inconclusive.
//!
//! The probability that belongs to an interval is derived from its end that is nearer to zero
//! (Altman and Bland, "How to obtain the P value from a confidence interval", BMJ 343, d2304,
//! 2011), with Student's t of as many rounds. So a comparison alone is judged by its interval. What
//! is certain, such as an exact count, does not belong to the table: it would let the times beside
//! it pass.

use super::bootstrap::{Estimate, by_chance};
use super::comparison::{Better, Comparison};
use super::verdict::Verdict;

/// The share of effects that may be wrong.
const RATE: f64 = 0.05;

/// What is less probable than this without an effect is certain.
const CERTAIN: f64 = 1e-6;

/// Judges the comparisons of a table, each with its metric's [`Better`], so that they hold
/// together.
pub(crate) fn settle<'a>(table: impl Iterator<Item = (&'a mut Comparison, Better)>) {
    let mut table: Vec<(&mut Comparison, Better)> = table.collect();
    for (comparison, better) in &mut table {
        **comparison = comparison.judged(*better);
    }
    let deviation = |comparison: &Comparison| match comparison.ratio {
        Some(ratio) => ratio.map(|ratio| ratio - 1.0),
        None => comparison.difference,
    };
    let estimates: Vec<(Estimate, usize)> =
        table.iter().map(|(comparison, _)| (deviation(comparison), comparison.pairs)).collect();
    for ((comparison, _), holds) in table.into_iter().zip(hold_together(&estimates)) {
        if !holds && comparison.verdict.is_effect() {
            comparison.verdict = Verdict::Inconclusive;
        }
    }
}

/// For each estimate of a table, with the number of its values, whether an effect in it holds
/// beside all the others.
pub(crate) fn hold_together(table: &[(Estimate, usize)]) -> Vec<bool> {
    let chances: Vec<Option<f64>> =
        table.iter().map(|&(estimate, values)| chance(estimate, values)).collect();
    let mut sorted: Vec<f64> = chances.iter().copied().flatten().collect();
    sorted.sort_by(f64::total_cmp);
    let all = sorted.len() as f64;
    let within = |(index, chance): &(usize, &f64)| **chance <= (index + 1) as f64 / all * RATE;
    let limit = sorted.iter().enumerate().rfind(within).map_or(0.0, |(_, chance)| *chance);
    chances.into_iter().map(|chance| chance.is_none_or(|chance| chance <= limit)).collect()
}

/// How probable an estimate that far from zero would be without an effect. `None` if there is no
/// doubt. One without an interval is no evidence.
fn chance(estimate: Estimate, values: usize) -> Option<f64> {
    let Some(interval) = estimate.interval else { return Some(1.0) };
    let median = estimate.median.abs();
    let to_zero =
        if estimate.median > 0.0 { estimate.median - interval.low } else { interval.high - estimate.median };
    if median == 0.0 {
        return (interval.low != interval.high).then_some(1.0);
    }
    // A median at the end of its interval has no distance, and is as certain as can be.
    let chance = by_chance(median / to_zero.max(f64::MIN_POSITIVE), values);
    (chance >= CERTAIN).then_some(chance)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::Interval;

    fn estimate(median: f64, half: f64) -> (Estimate, usize) {
        (Estimate { median, interval: Some(Interval { low: median - half, high: median + half }) }, 24)
    }

    #[test]
    fn one_comparison_is_judged_by_its_interval() {
        assert_eq!(hold_together(&[estimate(1.0, 0.99)]), [true]);
        assert_eq!(hold_together(&[estimate(1.0, 1.01)]), [false]);
        for values in [6, 24, 1_000] {
            assert!((chance(estimate(1.0, 1.0).0, values).unwrap() - 0.05).abs() < 1e-3);
        }
        // Few rounds say less.
        assert!(
            chance(estimate(1.0, 0.5).0, 6) > Some(3e-3) && chance(estimate(1.0, 0.5).0, 24) < Some(1e-3)
        );
        assert_eq!(hold_together(&[(Estimate { median: 1.0, interval: None }, 24)]), [false]);
        assert_eq!(hold_together(&[estimate(1.0, 0.0)]), [true]);
        assert_eq!(hold_together(&[estimate(0.0, 1.0)]), [false]);
        assert!(hold_together(&[]).is_empty());
    }

    #[test]
    fn an_interval_that_just_excludes_zero_is_one_of_many() {
        let mut table = vec![estimate(0.0, 1.0); 30];
        table.push(estimate(1.0, 0.95));
        assert!(!hold_together(&table)[30], "one of thirty-one is expected to look like this");
        table.push(estimate(1.0, 0.3));
        assert_eq!(hold_together(&table)[30..], [false, true], "far from zero");
        // Beside other effects it holds.
        let mut table = vec![estimate(1.0, 0.3); 30];
        table.push(estimate(1.0, 0.95));
        assert!(hold_together(&table)[30]);
        // Exact counts are not evidence for the times beside them, nor are almost exact ones.
        for half in [0.0, 0.01] {
            let mut table = vec![estimate(1.0, half); 30];
            table.extend([estimate(1.0, 0.95), estimate(0.0, 1.0)]);
            assert_eq!(hold_together(&table)[29..=30], [true, false]);
        }
    }

    #[test]
    fn a_verdict_that_does_not_hold_is_inconclusive() {
        // A narrow interval just above zero: alone it saves.
        let alone =
            |values: [f64; 8]| Comparison::of(&values.map(|value| (value, 1_000.0)), Better::Lower).unwrap();
        let saves = alone([997.0, 998.0, 999.5, 996.0, 999.0, 1_000.1, 997.5, 999.2]);
        let nothing = alone([1_001.0, 999.0, 1_002.0, 998.0, 1_000.5, 999.5, 1_001.5, 998.5]);
        assert_eq!((saves.verdict, nothing.verdict), (Verdict::Saves, Verdict::NoDifferenceSeen));
        let mut table = vec![nothing; 60];
        table.push(saves);
        settle(table.iter_mut().map(|one| (one, Better::Lower)));
        assert_eq!(table[60].verdict, Verdict::Inconclusive);
        assert!(table[..60].iter().all(|one| one.verdict == Verdict::NoDifferenceSeen));
        settle(table[60..].iter_mut().map(|one| (one, Better::Lower)));
        assert_eq!(table[60].verdict, Verdict::Saves, "it is judged again in another table");
    }
}

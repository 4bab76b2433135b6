//! Interleaved rounds: the order of the visits, and the results of an arm.

use super::comparison::{Better, Comparison};
use super::latency::Encoded;
use super::statistics::Summary;
use serde::Serialize;
use std::collections::BTreeSet;

/// One named number of a sample.
#[derive(Debug)]
pub(crate) struct Metric<S> {
    /// The name in the JSON report, snake case with its unit at the end.
    pub(crate) name: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) better: Better,
    /// Returns the number of a sample. NaN if the sample has no such number: then no arm of the run
    /// has the metric.
    pub(crate) value: fn(&S) -> f64,
}

/// Defines a [`Sample`]: a struct of numbers, each with its unit and which way it is better.
/// `with NAME` adds the latencies of its requests.
macro_rules! sample {
    ($(#[$doc:meta])* $vis:vis struct $name:ident {
        $($(#[$field_doc:meta])* $field:ident: $unit:literal $better:ident,)*
    } $(with $latencies:ident)?) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq)]
        $vis struct $name {
            $($(#[$field_doc])* pub(crate) $field: f64,)*
            $(pub(crate) $latencies: $crate::measure::Encoded,)?
        }

        impl $crate::measure::Sample for $name {
            const METRICS: &'static [$crate::measure::Metric<Self>] = &[$($crate::measure::Metric {
                name: stringify!($field),
                unit: $unit,
                better: $crate::measure::Better::$better,
                value: |sample| sample.$field,
            },)*];

            $(fn latencies(&self) -> Option<&$crate::measure::Encoded> {
                Some(&self.$latencies)
            })?
        }
    };
}
pub(crate) use sample;

/// The result of one visit of one arm: a struct of named numbers.
pub(crate) trait Sample: Sized + 'static {
    const METRICS: &'static [Metric<Self>];

    /// The latencies of its requests, if they were recorded.
    fn latencies(&self) -> Option<&Encoded> {
        None
    }
}

/// Samples by arm and round: two of each if the round was finished, fewer if it was interrupted.
#[derive(Debug)]
pub(crate) struct Recording<S> {
    /// `visits[arm][round]`
    visits: Vec<Vec<Vec<S>>>,
    /// The rounds that something from outside has disturbed, if a clean one is left.
    left_out: BTreeSet<usize>,
    /// Set if every visit of every round took place.
    pub(crate) complete: bool,
}

/// The order in which one round visits `arms` arms: forwards, then backwards.
pub(crate) fn round_order(arms: usize) -> impl Iterator<Item = usize> {
    (0..arms).chain((0..arms).rev())
}

/// Visits every arm twice in each round, as long as `next(round, recording)` returns true, which
/// gets what there is so far. `proceed(round, arm)` is called before each visit; if it returns
/// false, the recording ends with what there is. An error of `visit` ends it without a result.
pub(crate) fn interleave<S, E>(
    arms: usize,
    mut next: impl FnMut(usize, &Recording<S>) -> bool,
    mut proceed: impl FnMut(usize, usize) -> bool,
    mut visit: impl FnMut(usize) -> Result<S, E>,
) -> Result<Recording<S>, E> {
    let visits: Vec<Vec<Vec<S>>> = (0..arms).map(|_| Vec::new()).collect();
    let mut recording = Recording { visits, left_out: BTreeSet::new(), complete: true };
    let mut round = 0;
    while next(round, &recording) {
        for arm in &mut recording.visits {
            arm.push(Vec::with_capacity(2));
        }
        for arm in round_order(arms) {
            if !proceed(round, arm) {
                recording.complete = false;
                return Ok(recording);
            }
            recording.visits[arm][round].push(visit(arm)?);
        }
        round += 1;
    }
    Ok(recording)
}

impl<S> Recording<S> {
    /// The number of arms.
    pub(crate) fn arms(&self) -> usize {
        self.visits.len()
    }

    /// The number of rounds that were begun.
    pub(crate) fn rounds(&self) -> usize {
        self.visits.first().map_or(0, Vec::len)
    }

    /// Leaves these rounds out of the results, of all arms: they are compared round by round.
    /// Returns false, and leaves none out, if no finished round would remain.
    pub(crate) fn leave_out(&mut self, disturbed: BTreeSet<usize>) -> bool {
        let finished =
            |round: usize| self.visits.iter().all(|arm| arm.get(round).is_some_and(|v| v.len() == 2));
        let remains = (0..self.rounds()).any(|round| finished(round) && !disturbed.contains(&round));
        if remains {
            self.left_out = disturbed;
        }
        remains
    }

    /// Each round of an arm: its number from 0, whether it is left out, and its samples.
    pub(super) fn of_arm(&self, arm: usize) -> impl Iterator<Item = (usize, bool, &[S])> {
        let rounds = self.visits.get(arm).into_iter().flatten().enumerate();
        rounds.map(|(round, samples)| (round, self.left_out.contains(&round), samples.as_slice()))
    }

    /// The visits of an arm in each round that counts.
    fn counted(&self, arm: usize) -> impl Iterator<Item = &Vec<S>> {
        let rounds = self.visits[arm].iter().enumerate();
        rounds.filter(|(round, _)| !self.left_out.contains(round)).map(|(_, visits)| visits)
    }

    /// The value of each round in which `arm` was visited: the mean over the visits.
    fn values(&self, arm: usize, value: fn(&S) -> f64) -> Vec<f64> {
        self.counted(arm).filter_map(|visits| mean(visits, value)).collect()
    }

    /// `(arm, baseline)` of each round that visited both equally often. A round that was
    /// interrupted on its way backwards has one or two visits of each arm, and only equal numbers
    /// are compared, so a mean of two visits is never compared with a single visit.
    fn pairs(&self, arm: usize, baseline: usize, value: fn(&S) -> f64) -> Vec<(f64, f64)> {
        let rounds = self.counted(arm).zip(self.counted(baseline));
        rounds
            .filter(|(a, b)| a.len() == b.len())
            .filter_map(|(a, b)| Some((mean(a, value)?, mean(b, value)?)))
            .collect()
    }
}

fn mean<S>(visits: &[S], value: fn(&S) -> f64) -> Option<f64> {
    if visits.is_empty() {
        return None;
    }
    Some(visits.iter().map(value).sum::<f64>() / visits.len() as f64)
}

impl<S: Sample> Recording<S> {
    /// Returns true if the interval of the most important metric of `arm`, as a share of
    /// `baseline`, is no wider than `precision`.
    pub(crate) fn is_precise(&self, arm: usize, baseline: usize, precision: f64) -> bool {
        let Some(metric) = S::METRICS.first() else { return true };
        let versus = Comparison::of(&self.pairs(arm, baseline, metric.value), metric.better);
        let ratio = versus.and_then(|versus| versus.ratio);
        // Without a ratio there is no share.
        ratio.is_none_or(|ratio| ratio.interval.is_some_and(|i| i.high - i.low <= precision))
    }
}

/// Everything that is known about one metric of one arm.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Measured {
    #[serde(skip)]
    pub(crate) name: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) better: Better,
    #[serde(flatten)]
    pub(crate) summary: Summary,
    /// One value per round that counts, in the order of the rounds.
    pub(crate) values: Vec<f64>,
    /// Against the arm's baseline, if it has one.
    pub(crate) versus: Option<Comparison>,
}

impl Measured {
    /// A number that was measured once; less is better. It has no comparison.
    pub(crate) fn once(name: &'static str, unit: &'static str, value: f64) -> Self {
        let summary = Summary { n: 1, median: value, mad: 0.0, min: value, max: value };
        Self { name, unit, better: Better::Lower, summary, values: vec![value], versus: None }
    }
}

/// Summarises every metric of `arm` and compares it with `baseline`. Empty if the arm was never
/// visited.
pub(crate) fn analyse<S: Sample>(
    recording: &Recording<S>,
    arm: usize,
    baseline: Option<usize>,
) -> Vec<Measured> {
    let measured = S::METRICS.iter().filter_map(|metric| {
        let values = recording.values(arm, metric.value);
        if values.iter().any(|value| value.is_nan()) {
            return None;
        }
        let versus = baseline.and_then(|baseline| {
            Comparison::of(&recording.pairs(arm, baseline, metric.value), metric.better)
        });
        Some(Measured {
            name: metric.name,
            unit: metric.unit,
            better: metric.better,
            summary: Summary::of(&values)?,
            values,
            versus,
        })
    });
    measured.collect()
}

/// The metric called `name` among those of an arm.
pub(crate) fn find<'a>(measured: &'a [Measured], name: &str) -> Option<&'a Measured> {
    measured.iter().find(|measured| measured.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::{Interval, Verdict};
    use std::convert::Infallible;

    struct Ticks(f64);

    impl Sample for Ticks {
        const METRICS: &'static [Metric<Self>] =
            &[Metric { name: "ticks", unit: "ticks", better: Better::Lower, value: |sample| sample.0 }];
    }

    /// Records `rounds` rounds of `arms` arms, at most `limit` visits; the n-th visit of all
    /// measures `cost(arm) + n`, a machine that slows down steadily.
    fn record(
        arms: usize,
        rounds: usize,
        limit: usize,
        cost: fn(usize) -> f64,
    ) -> (Recording<Ticks>, Vec<usize>) {
        let (mut asked, mut order) = (0, Vec::new());
        let recording = interleave(
            arms,
            |round, _| round < rounds,
            |_, _| {
                asked += 1;
                asked <= limit
            },
            |arm| {
                order.push(arm);
                Ok::<_, Infallible>(Ticks(cost(arm) + order.len() as f64))
            },
        );
        let Ok(recording) = recording;
        (recording, order)
    }

    #[test]
    fn two_arms_are_visited_abba() {
        let (recording, order) = record(2, 2, usize::MAX, |_| 0.0);
        assert_eq!(order, [0, 1, 1, 0, 0, 1, 1, 0]);
        assert!(recording.complete);
        assert_eq!(round_order(3).collect::<Vec<_>>(), [0, 1, 2, 2, 1, 0]);
    }

    #[test]
    fn a_linear_drift_cancels_exactly() {
        let (recording, _) = record(3, 8, usize::MAX, |arm| 1_000.0 * arm as f64);
        let measured = analyse(&recording, 2, Some(0));
        let versus = measured[0].versus.unwrap();
        assert_eq!(versus.difference.median, 2_000.0);
        assert_eq!(versus.difference.interval, Some(Interval { low: 2_000.0, high: 2_000.0 }));
        assert_eq!(versus.verdict, Verdict::Costs);
        assert_eq!(measured[0].values.len(), 8);
    }

    #[test]
    fn an_interrupted_round_counts_only_what_can_be_paired() {
        // One full round of two arms, then A B B: the second A is missing.
        let (recording, order) = record(2, 9, 7, |_| 0.0);
        assert_eq!(order.len(), 7);
        assert!(!recording.complete);
        let measured = analyse(&recording, 1, Some(0));
        assert_eq!(measured[0].summary.n, 2);
        assert_eq!(measured[0].versus.unwrap().pairs, 1);
    }

    #[test]
    fn an_arm_that_was_never_visited_has_no_results() {
        let (recording, _) = record(3, 4, 2, |_| 0.0);
        assert_eq!(analyse(&recording, 1, Some(0))[0].versus.unwrap().pairs, 1);
        assert_eq!(analyse(&recording, 2, Some(0)), []);
        let (recording, _) = record(0, 4, 2, |_| 0.0);
        assert!(recording.complete);
    }

    #[test]
    fn rounds_are_left_out_of_all_arms() {
        // The second round has a disturbance that would hide the difference.
        let (mut recording, _) = record(2, 3, usize::MAX, |arm| 1_000.0 * arm as f64);
        recording.visits[0][1][0].0 = 1e9;
        assert!(recording.leave_out(BTreeSet::from([1])));
        let measured = analyse(&recording, 1, Some(0));
        assert_eq!((measured[0].values.len(), measured[0].summary.max < 1e6), (2, true));
        assert_eq!(measured[0].versus.unwrap().pairs, 2);
        assert_eq!(analyse(&recording, 0, None)[0].summary.n, 2);
    }

    #[test]
    fn not_every_round_is_left_out() {
        let (mut recording, _) = record(2, 2, usize::MAX, |_| 0.0);
        assert!(!recording.leave_out(BTreeSet::from([0, 1])));
        assert_eq!(analyse(&recording, 1, Some(0))[0].summary.n, 2);
        // A round that was interrupted is no clean one.
        let (mut recording, _) = record(2, 2, 5, |_| 0.0);
        assert!(!recording.leave_out(BTreeSet::from([0])));
        let (mut recording, _) = record(0, 2, 5, |_| 0.0);
        assert!(!recording.leave_out(BTreeSet::new()));
    }

    #[test]
    fn a_metric_that_is_nan_is_left_out() {
        let (recording, _) = record(2, 3, usize::MAX, |arm| if arm == 1 { f64::NAN } else { 0.0 });
        assert_eq!(analyse(&recording, 0, None).len(), 1);
        assert_eq!(analyse(&recording, 1, Some(0)), []);
    }

    #[test]
    fn an_error_ends_the_recording() {
        let result = interleave(
            2,
            |round, _| round < 2,
            |_, _| true,
            |arm| if arm == 1 { Err("broken") } else { Ok(Ticks(0.0)) },
        );
        assert_eq!(result.err(), Some("broken"));
    }
}

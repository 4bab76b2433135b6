//! What the summaries of an arm were made from: every sample, and the latencies of all of them.

use super::latency::latencies;
use super::rounds::{Recording, Sample};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The samples of one arm.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Raw {
    /// The names and units of the values, in their order.
    pub(crate) metrics: Vec<(&'static str, &'static str)>,
    pub(crate) visits: Vec<Visit>,
    /// Of all rounds that count, in nanoseconds. `None` if the benchmark records none.
    pub(crate) latencies_ns: Option<Histogram<u64>>,
}

/// One sample.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Visit {
    /// From 1.
    pub(crate) round: usize,
    /// 1 on the way forwards, 2 on the way back.
    pub(crate) visit: usize,
    /// Set if the round was disturbed and is left out of the results.
    pub(crate) left_out: bool,
    pub(crate) values: Vec<f64>,
}

/// The values of the rounds that were disturbed and do not count.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct LeftOut {
    /// From 1.
    pub(crate) rounds: Vec<usize>,
    /// By metric, one value for each of `rounds`.
    pub(crate) values: BTreeMap<String, Vec<f64>>,
}

impl Raw {
    /// The samples of arm `arm`.
    pub(crate) fn of<S: Sample>(recording: &Recording<S>, arm: usize) -> Self {
        let (mut visits, mut latencies_ns) = (Vec::new(), None);
        for (round, left_out, samples) in recording.of_arm(arm) {
            for (visit, sample) in samples.iter().enumerate() {
                let values = S::METRICS.iter().map(|metric| (metric.value)(sample)).collect();
                visits.push(Visit { round: round + 1, visit: visit + 1, left_out, values });
                if let Some(encoded) = sample.latencies().filter(|_| !left_out) {
                    encoded.add_to(latencies_ns.get_or_insert_with(latencies));
                }
            }
        }
        let metrics = S::METRICS.iter().map(|metric| (metric.name, metric.unit)).collect();
        Self { metrics, visits, latencies_ns }
    }

    /// The rounds that count, from 1: one for each value of a metric.
    pub(crate) fn rounds(&self) -> Vec<usize> {
        let mut rounds: Vec<usize> =
            self.visits.iter().filter(|visit| !visit.left_out).map(|visit| visit.round).collect();
        rounds.dedup();
        rounds
    }

    /// The rounds that do not count.
    pub(crate) fn left_out(&self) -> LeftOut {
        let mut all = LeftOut::default();
        for samples in self.visits.chunk_by(|a, b| a.round == b.round) {
            let Some(first) = samples.first().filter(|first| first.left_out) else { continue };
            all.rounds.push(first.round);
            for (index, (name, _)) in self.metrics.iter().enumerate() {
                let values: Vec<f64> =
                    samples.iter().filter_map(|visit| visit.values.get(index).copied()).collect();
                let mean = values.iter().sum::<f64>() / values.len().max(1) as f64;
                if mean.is_finite() {
                    all.values.entry((*name).to_owned()).or_default().push(mean);
                }
            }
        }
        all
    }
}

//! Rows with invented numbers, for tests of tables and sentences.

use super::row::{Missing, Row};
use crate::measure::{Better, Comparison, Measured, Raw, Summary};

/// Six rounds, and six rounds of a baseline whose difference is inconclusive.
pub(crate) const NOISY: [f64; 6] = [1.0, 1.1, 0.9, 1.05, 0.95, 1.0];
pub(crate) const NOISE: [f64; 6] = [1.1, 1.0, 0.95, 1.0, 0.9, 1.05];

/// A metric with a value per round, compared with those of a baseline. For IOPS more is better, for
/// everything else less.
pub(crate) fn measured(name: &'static str, values: &[f64], baseline: Option<&[f64]>) -> Measured {
    let better = if name == "iops" { Better::Higher } else { Better::Lower };
    let pairs = |base: &[f64]| values.iter().copied().zip(base.iter().copied()).collect::<Vec<_>>();
    Measured {
        name,
        unit: "",
        better,
        summary: Summary::of(values).unwrap(),
        values: values.to_vec(),
        versus: baseline.and_then(|base| Comparison::of(&pairs(base), better)),
    }
}

/// A row that was measured and has no baseline.
pub(crate) fn row(group: &str, case: &str, metrics: Vec<Measured>) -> Row {
    Row {
        group: group.to_owned(),
        case: case.to_owned(),
        baseline: None,
        result: Ok(metrics),
        raw: Raw::default(),
    }
}

/// A row that is not available on this machine.
pub(crate) fn unavailable(group: &str, case: &str, why: &str) -> Row {
    Row { result: Err(Missing::Unavailable(why.to_owned())), ..row(group, case, Vec::new()) }
}

impl Row {
    /// The same row, compared with another case of its group.
    pub(crate) fn against(self, baseline: &str) -> Self {
        Self { baseline: Some(baseline.to_owned()), ..self }
    }
}

//! How often and how long each arm is measured.

use std::time::Duration;

/// How often and how long to measure each arm.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Plan {
    pub(crate) rounds: usize,
    pub(crate) runtime: Duration,
    pub(crate) growth: Growth,
}

/// When to add rounds to a plan, or to end before them.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Growth {
    /// Rounds are added until no interval is wider than this share of its baseline.
    pub(crate) precision: Option<f64>,
    /// The time that each arm may take, over all rounds. Without a precision, rounds are added
    /// until it is over.
    pub(crate) time_per_arm: Option<Duration>,
}

impl Plan {
    /// A plan that does not grow.
    pub(crate) const fn new(rounds: usize, runtime: Duration) -> Self {
        Self { rounds, runtime, growth: Growth { precision: None, time_per_arm: None } }
    }

    /// A sample that takes longer than this hangs.
    pub(crate) fn patience(self) -> Duration {
        Duration::from_secs(60) + 10 * self.runtime
    }
}

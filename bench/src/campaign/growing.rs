//! How many rounds a campaign has: those of its plan, or more or fewer if an interval or a time was
//! asked for.

use crate::measure::{MIN_VALUES, Plan, Recording, Sample};
use std::time::{Duration, Instant};

/// Without a time, a precision is given up after so many times the planned rounds.
const MOST: usize = 20;

/// The state of a campaign that may grow.
#[derive(Debug)]
pub(super) struct Growing {
    plan: Plan,
    /// Arms and their baselines.
    compared: Vec<(usize, usize)>,
    begin: Instant,
    /// The number of rounds after which the intervals are looked at again.
    next_look: usize,
}

impl Growing {
    pub(super) fn new(plan: Plan, compared: Vec<(usize, usize)>) -> Self {
        Self { plan, compared, begin: Instant::now(), next_look: 0 }
    }

    /// Returns true if there should be another round after `round` of them, of which `planned` are
    /// to be made in any case.
    pub(super) fn another<S: Sample>(&mut self, round: usize, planned: usize, so_far: &Recording<S>) -> bool {
        let growth = self.plan.growth;
        let arms = u32::try_from(so_far.arms()).unwrap_or(u32::MAX);
        let is_over = |each: Duration| self.begin.elapsed() >= each.saturating_mul(arms);
        match growth.time_per_arm {
            // Intervals need some rounds, however short the time is.
            Some(each) if is_over(each) => return round < planned.min(MIN_VALUES),
            Some(_) if round < planned => return true,
            Some(_) => {}
            None if round < planned => return true,
            None if round >= planned.saturating_mul(MOST) => return false,
            None => {}
        }
        let Some(precision) = growth.precision else { return growth.time_per_arm.is_some() };
        // Making intervals takes time, so look less often as it takes more.
        if round < self.next_look {
            return true;
        }
        self.next_look = round + (round / 4).max(1);
        !self.compared.iter().all(|&(arm, base)| so_far.is_precise(arm, base, precision))
    }
}

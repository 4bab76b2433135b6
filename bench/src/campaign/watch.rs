//! The progress that a campaign reports, the request to stop, and what disturbs the samples.

use crate::measure::{Cause, Disturbed};

/// What a campaign reports and asks between samples.
pub(crate) trait Watch {
    /// A phase of `steps` steps begins.
    fn phase(&mut self, name: &str, steps: usize);
    /// The phase has so many steps more than it was said to have.
    fn more(&mut self, steps: usize);
    /// One step begins: the measurement of `what`.
    fn step(&mut self, what: &str);
    /// Returns true if the campaign should stop here.
    fn stopped(&self) -> bool;
    /// Returns what has disturbed the process from outside since the last call.
    fn look(&mut self) -> Vec<Cause>;
    /// The rounds of a campaign that were disturbed.
    fn disturbed(&mut self, rounds: Disturbed);
    /// The last phase is over.
    fn end(&mut self);
}

/// Simulates Ctrl-C after a number of steps, and disturbances.
#[cfg(test)]
#[derive(Debug, Default)]
pub(crate) struct StepsLeft {
    pub(crate) left: usize,
    pub(crate) phases: Vec<(String, usize)>,
    /// Steps that were added to phases.
    pub(crate) more: usize,
    /// How many steps are left when the hypervisor steals time.
    pub(crate) stolen_at: Vec<usize>,
    pub(crate) disturbed: Vec<Disturbed>,
}

#[cfg(test)]
impl Watch for StepsLeft {
    fn phase(&mut self, name: &str, steps: usize) {
        self.phases.push((name.to_owned(), steps));
    }
    fn more(&mut self, steps: usize) {
        self.more += steps;
    }
    fn step(&mut self, _: &str) {
        self.left = self.left.saturating_sub(1);
    }
    fn stopped(&self) -> bool {
        self.left == 0
    }
    fn look(&mut self) -> Vec<Cause> {
        let left = self.left;
        let stolen = self.stolen_at.iter().filter(|at| **at == left);
        stolen.map(|_| Cause::Stolen).collect()
    }
    fn disturbed(&mut self, rounds: Disturbed) {
        self.disturbed.push(rounds);
    }
    fn end(&mut self) {}
}

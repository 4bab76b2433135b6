//! The progress that a campaign reports, and the request to stop.

/// What a campaign reports and asks between samples.
pub(crate) trait Watch {
    /// A phase of `steps` steps begins.
    fn phase(&mut self, name: &str, steps: usize);
    /// One step begins: the measurement of `what`.
    fn step(&mut self, what: &str);
    /// Returns true if the campaign should stop here.
    fn stopped(&self) -> bool;
    /// The last phase is over.
    fn end(&mut self);
}

/// Simulates Ctrl-C after a number of steps.
#[cfg(test)]
#[derive(Debug, Default)]
pub(crate) struct StepsLeft {
    pub(crate) left: usize,
    pub(crate) phases: Vec<(String, usize)>,
}

#[cfg(test)]
impl Watch for StepsLeft {
    fn phase(&mut self, name: &str, steps: usize) {
        self.phases.push((name.to_owned(), steps));
    }
    fn step(&mut self, _: &str) {
        self.left = self.left.saturating_sub(1);
    }
    fn stopped(&self) -> bool {
        self.left == 0
    }
    fn end(&mut self) {}
}

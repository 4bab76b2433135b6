//! The kernel lab's counts of instructions, in a report: what leaving out a read(2) saves, free of
//! noise.

use super::model::Outcome;
use crate::report::saved::Entry;
use serde::Deserialize;

/// The group of its rows in our report.
pub(crate) const GROUP: &str = "kernel lab, instructions per request";

/// The counts of an arm that does not read, and of the classic arm.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(crate) struct Savings {
    /// "stock", or the patches of the kernel.
    pub(crate) kernel: String,
    pub(crate) monitor: String,
    pub(crate) reset: String,
    pub(crate) classic: f64,
    pub(crate) autoreset: f64,
}

impl Savings {
    /// The name of the arm in our reports.
    pub(crate) fn arm(&self) -> String {
        format!("{}/{}", self.monitor, self.reset)
    }

    /// The lab's count for one read in a cell's loop, on the kernel that needs the fewest patches,
    /// times the reads that the cell saves. `None` if the lab has no such loop.
    pub(crate) fn of(outcome: &Outcome, lab: &[Self]) -> Option<f64> {
        let arm = outcome.cell.autoreset()?.to_string();
        let savings = lab.iter().find(|savings| savings.arm() == arm)?;
        Some((savings.classic - savings.autoreset) * outcome.reads_saved())
    }
}

/// The rows of the lab in a report, read back.
pub(crate) fn savings(entries: &[Entry]) -> Vec<Savings> {
    let of = |entry: &Entry| {
        let (arm, kernel) = entry.case.split_once(", kernel ")?;
        let (monitor, reset) = arm.split_once('/')?;
        Some(Savings {
            kernel: kernel.to_owned(),
            monitor: monitor.to_owned(),
            reset: reset.to_owned(),
            classic: entry.median("classic")?,
            autoreset: entry.median("autoreset")?,
        })
    };
    entries.iter().filter(|entry| entry.group == GROUP).filter_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::one_percent::model::outcomes;
    use crate::report::one_percent::model::tests::cell;

    #[test]
    fn a_cell_has_the_count_of_its_own_loop_times_its_reads() {
        let savings = |kernel: &str, monitor: &str, classic| Savings {
            kernel: kernel.to_owned(),
            monitor: monitor.to_owned(),
            reset: "edge".to_owned(),
            classic,
            autoreset: 9_000.0,
        };
        let lab = [
            savings("stock", "io_uring", 9_700.0),
            savings("stock", "epoll", 9_400.0),
            savings("0002", "epoll", 9_100.0),
        ];
        let mut outcome = outcomes(&cell("null", 4_000.0, 200.0)).remove(0);
        assert_eq!(Savings::of(&outcome, &lab), Some(400.0));
        outcome.classic.reads = 2.0;
        assert_eq!(Savings::of(&outcome, &lab), Some(800.0));
        assert_eq!(Savings::of(&outcome, &lab[..1]), None);
    }
}

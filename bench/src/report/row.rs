//! The rows of a report, and the report.

use crate::measure::{Measured, Raw, find};
use std::fmt;

/// One row: the results of one case of one group, or why there are none.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Row {
    /// The heading of its table: what was measured, and where the threads ran.
    pub(crate) group: String,
    pub(crate) case: String,
    /// The case of the same group that it is compared with.
    pub(crate) baseline: Option<String>,
    /// The metrics, or the reason why there are none.
    pub(crate) result: Result<Vec<Measured>, Missing>,
    /// The samples that the metrics were made from.
    pub(crate) raw: Raw,
}

/// Why a row has no metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Missing {
    /// Not available on this machine, for this reason.
    Unavailable(String),
    /// Ctrl-C came before its first sample.
    Interrupted,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Missing::Unavailable(why) => write!(f, "not available: {why}"),
            Missing::Interrupted => f.write_str("stopped before its first sample"),
        }
    }
}

impl Row {
    /// The metric called `name`, if this row was measured and has it.
    pub(crate) fn metric(&self, name: &str) -> Option<&Measured> {
        find(self.result.as_ref().ok()?, name)
    }

    /// The median of the metric called `name`.
    pub(crate) fn median(&self, name: &str) -> Option<f64> {
        self.metric(name).map(|measured| measured.summary.median)
    }
}

/// The results of a subcommand.
#[derive(Debug)]
pub(crate) struct Report {
    /// The subcommand, which the JSON report names.
    pub(crate) benchmark: &'static str,
    /// The workload of the device, if there is one.
    pub(crate) workload: Option<String>,
    pub(crate) rows: Vec<Row>,
    /// The tables and sentences for people.
    pub(crate) text: String,
    /// The sentences alone.
    pub(crate) conclusions: Vec<String>,
    /// Whether every sample was taken; false after Ctrl-C.
    pub(crate) complete: bool,
}

/// The groups of the bare system calls start with this. They are the floor for the other groups.
pub(crate) const FLOOR: &str = "one thread";

impl Report {
    /// Why there is no result at all: the reason of the first row without one. `None` if a row was
    /// measured; the floor alone, with its operations that need no eventfd, is no result.
    pub(crate) fn nothing_because(&self) -> Option<String> {
        let mut rows = self.rows.iter().filter(|row| !row.group.starts_with(FLOOR)).peekable();
        let first = rows.peek()?;
        let missing = first.result.as_ref().err()?;
        let why = format!("{}, {}: {missing}", first.group, first.case);
        rows.all(|row| row.result.is_err()).then_some(why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::samples::{measured, row, unavailable};

    #[test]
    fn a_report_without_a_result_has_a_reason() {
        let of = |rows: Vec<Row>| {
            let (text, conclusions) = (String::new(), Vec::new());
            let report =
                Report { benchmark: "eventfd", workload: None, rows, text, conclusions, complete: true };
            report.nothing_because()
        };
        let no = |case: &str, why| unavailable("the loop", case, why);
        let write = |group| row(group, "write", vec![measured("time_ns", &[1.0], None)]);
        let why = of(vec![no("read", "Too many open files"), no("ring", "no io_uring")]);
        assert_eq!(why.as_deref(), Some("the loop, read: not available: Too many open files"));
        assert_eq!(of(vec![no("read", "Too many open files"), write("the loop")]), None);
        assert!(of(vec![write("one thread, CPU 0"), no("read", "Too many open files")]).is_some());
        assert_eq!(of(Vec::new()), None);
    }
}

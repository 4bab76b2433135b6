//! What a run hands out: rows of results, as text for people ([`table`]), as JSON for programs ([`json`]), and from that as Markdown and as a
//! page.

pub(crate) mod cell;
pub(crate) mod html;
pub(crate) mod json;
pub(crate) mod markdown;
pub(crate) mod metric;
pub(crate) mod number;
pub(crate) mod rows;
#[cfg(test)]
pub(crate) mod samples;
pub(crate) mod saved;
pub(crate) mod table;
pub(crate) mod versus;

use crate::environment::Environment;
use crate::measure::{self, Measured};
use std::env;
use std::fmt::{self, Write as _};
use std::io::{self, IsTerminal, Write};

/// One row: what one case of one group measured, or why it could not.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Row {
    /// The heading under which it stands: what was measured, and where the threads ran.
    pub(crate) group: String,
    pub(crate) case: String,
    /// The case of the same group that it is compared with.
    pub(crate) baseline: Option<String>,
    /// The metrics, or the reason why there are none.
    pub(crate) result: Result<Vec<Measured>, Missing>,
}

/// Why a row has no metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Missing {
    /// This machine cannot do it, for this reason.
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
        measure::find(self.result.as_ref().ok()?, name)
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
    /// What was asked of the device, where there is one.
    pub(crate) workload: Option<String>,
    pub(crate) rows: Vec<Row>,
    /// The tables and sentences for people.
    pub(crate) text: String,
    /// The sentences alone.
    pub(crate) conclusions: Vec<String>,
    /// Whether every sample was taken; false after Ctrl-C.
    pub(crate) complete: bool,
}

/// Whether to use colours on stdout: only on a terminal that can, and not if NO_COLOR is set to anything
/// (no-color.org).
pub(crate) fn colour_on_stdout() -> bool {
    let unwanted = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let dumb = env::var_os("TERM").is_none_or(|term| term == "dumb");
    !unwanted && !dumb && io::stdout().is_terminal()
}

/// The header of a report: the environment and the workload, one fact per line.
pub(crate) fn header(environment: &Environment, workload: Option<&str>) -> String {
    let mut lines = environment.lines();
    lines.extend(workload.map(|workload| ("workload", workload.to_owned())));
    let width = lines.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for (name, value) in lines {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{name:width$}  {value}");
    }
    text
}

/// Writes to stdout. A reader that went away (`bench list | head`) is not an error; a full disk is.
pub(crate) fn print(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

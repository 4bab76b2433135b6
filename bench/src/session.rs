//! What every measuring subcommand shares: the machine it runs on, its progress, Ctrl-C, and how it hands out its
//! results.

use crate::cli::schedule::ScheduleArgs;
use crate::environment::Environment;
use crate::error::Error;
use crate::interrupt;
use crate::progress::Progress;
use crate::report::json::{self, JsonFile};
use crate::report::{self, Report};
use std::io::{self, Write};

/// What a campaign tells and asks between samples.
pub(crate) trait Watch {
    /// A phase of `steps` steps begins.
    fn phase(&mut self, name: &str, steps: usize);
    /// One step begins: the measurement of `what`.
    fn step(&mut self, what: &str);
    /// Whether to stop here.
    fn stopped(&self) -> bool;
    /// The last phase is over.
    fn end(&mut self);
}

/// A run of the binary, from a valid command line to its results.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) environment: Environment,
    progress: Progress,
    /// Whether to colour what goes to stdout.
    pub(crate) colour: bool,
    json: Option<JsonFile>,
}

impl Session {
    /// Prepares a run: the JSON file's place is checked before anything is measured, the machine is looked at, and
    /// what is wrong with it is said on stderr.
    pub(crate) fn start(schedule: &ScheduleArgs) -> Result<Self, Error> {
        let json = schedule.json.as_deref().map(JsonFile::create).transpose()?;
        interrupt::install().map_err(|error| Error::failed("cannot install a handler for Ctrl-C", &error))?;
        let environment = Environment::gather();
        for warning in &environment.warnings {
            complain(&format!("warning: {warning}"));
        }
        Ok(Self { environment, progress: Progress::new(), colour: report::colour_on_stdout(), json })
    }

    /// Prints the results and writes the JSON file; returns the process's exit code.
    pub(crate) fn finish(mut self, report: &Report) -> Result<u8, Error> {
        self.progress.finish();
        let mut text = report::header(&self.environment, report.workload.as_deref());
        text.push('\n');
        text.push_str(&report.text);
        text.push('\n');
        for sentence in &report.conclusions {
            text.push_str(sentence);
            text.push('\n');
        }
        if !report.complete {
            text.push_str("Stopped by Ctrl-C: the tables hold what was finished.\n");
        }
        // The file first: a reader of stdout that went away must not cost it.
        if let Some(file) = self.json.take() {
            let json = json::to_string(report, &self.environment)
                .map_err(|error| Error::Failed(format!("cannot write the results as JSON: {error}")))?;
            file.commit(&json).map_err(|error| Error::failed("cannot write the JSON file", &error))?;
        }
        report::print(&text).map_err(|error| Error::failed("cannot write to stdout", &error))?;
        Ok(if report.complete { 0 } else { interrupt::EXIT_CODE })
    }
}

impl Watch for Session {
    fn phase(&mut self, name: &str, steps: usize) {
        self.progress.phase(name, steps);
    }

    fn step(&mut self, what: &str) {
        self.progress.step(what);
    }

    fn stopped(&self) -> bool {
        interrupt::requested()
    }

    fn end(&mut self) {
        self.progress.finish();
    }
}

/// A line on stderr. When stderr is gone there is nobody to tell, and the results may still have a reader.
pub(crate) fn complain(line: &str) {
    let _ = writeln!(io::stderr(), "bench: {line}");
}

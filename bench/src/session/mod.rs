//! A session of a measuring subcommand: the machine, progress, Ctrl-C, and the output of the
//! results.

mod interrupt;
mod progress;

use crate::campaign::Watch;
use crate::cli::ScheduleArgs;
use crate::environment::Environment;
use crate::error::Error;
use crate::report::compared::{self, Limits};
use crate::report::json;
use crate::report::saved::Document;
use crate::report::{self, Report, WholeFile, complain, html, markdown};
use progress::Progress;
use std::path::PathBuf;

/// A run of the binary, from a valid command line to its results.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) environment: Environment,
    progress: Progress,
    /// Whether to colour what goes to stdout.
    pub(crate) colour: bool,
    json: Option<WholeFile>,
    html: Option<WholeFile>,
    markdown: bool,
    /// The report that the results are compared with, and the threshold.
    baseline: Option<(Document, Limits)>,
}

impl Session {
    /// Prepares a run: checks that the output files can be written, gathers facts about the
    /// machine, and prints warnings to stderr.
    pub(crate) fn start(schedule: &ScheduleArgs) -> Result<Self, Error> {
        let output = &schedule.output;
        let create = |option, path: &Option<PathBuf>| {
            path.as_deref().map(|path| WholeFile::create(option, path)).transpose()
        };
        let (json, html) = (create("--json", &output.json)?, create("--html", &output.html)?);
        let baseline =
            output.baseline.as_deref().map(|path| Document::read("--baseline", path)).transpose()?;
        let limits = Limits { threshold: output.threshold, metrics: Vec::new() };
        interrupt::install().map_err(|error| Error::failed("cannot install a handler for Ctrl-C", &error))?;
        let environment = Environment::gather();
        for warning in &environment.warnings {
            complain(&format!("warning: {warning}"));
        }
        let colour = report::colour_on_stdout();
        let (progress, baseline) = (Progress::new(), baseline.map(|document| (document, limits)));
        Ok(Self { environment, progress, colour, json, html, markdown: output.markdown, baseline })
    }

    /// Prints the results and writes the files; returns the process's exit code.
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
            text.push_str("Stopped by Ctrl-C: the tables contain the finished samples.\n");
        }
        // Write the files first: a closed stdout must not prevent that.
        if let Some(file) = self.json.take() {
            let json = json::to_string(report, &self.environment)
                .map_err(|error| Error::Failed(format!("cannot write the results as JSON: {error}")))?;
            file.commit(&json).map_err(|error| Error::failed("cannot write the JSON file", &error))?;
        }
        let document = Document::of(report, &self.environment)?;
        let compared = match &self.baseline {
            Some((baseline, limits)) => Some(compared::documents(baseline, &document, limits)?),
            None => None,
        };
        if let Some(file) = self.html.take() {
            let page = html::render(&document, compared.as_ref());
            file.commit(&page).map_err(|error| Error::failed("cannot write the HTML file", &error))?;
        }
        if self.markdown {
            text = markdown::render(&document);
        }
        if let Some(compared) = &compared {
            text.push('\n');
            text.push_str(&if self.markdown { compared.markdown() } else { compared.text(self.colour) });
        }
        report::print(&text).map_err(|error| Error::failed("cannot write to stdout", &error))?;
        Ok(match compared {
            _ if !report.complete => interrupt::EXIT_CODE,
            Some(compared) => compared.exit_code(),
            None => 0,
        })
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

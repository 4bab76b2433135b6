//! A session of a measuring subcommand: the machine, progress, Ctrl-C, and the output of the
//! results.

mod interrupt;
mod progress;

use crate::campaign::Watch;
use crate::cli::ScheduleArgs;
use crate::environment::Environment;
use crate::error::Error;
use crate::measure::{Cause, Disturbed, Witness, watch_for_stops};
use crate::report::answer;
use crate::report::compared::{self, Limits};
use crate::report::csv;
use crate::report::json;
use crate::report::saved::Document;
use crate::report::{self, Report, Sink, Stream, complain, html, markdown};
use progress::Progress;
use std::path::PathBuf;

/// A run of the binary, from a valid command line to its results.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) environment: Environment,
    progress: Progress,
    witness: Witness,
    /// The rounds that were disturbed.
    disturbed: Vec<Disturbed>,
    /// Whether to colour the text.
    pub(crate) colour: bool,
    /// Where the text goes.
    text: Stream,
    json: Option<Sink>,
    csv: Option<Sink>,
    html: Option<Sink>,
    markdown: bool,
    /// The report that the results are compared with, and the threshold.
    baseline: Option<(Document, Limits)>,
}

impl Session {
    /// Prepares a run of `benchmark`: checks that the output files can be written and that the
    /// baseline is of the same benchmark, gathers facts about the machine, and prints warnings to
    /// stderr.
    pub(crate) fn start(benchmark: &str, schedule: &ScheduleArgs) -> Result<Self, Error> {
        let output = &schedule.output;
        let create = |option, path: &Option<PathBuf>| {
            path.as_deref().map(|path| Sink::create(option, path)).transpose()
        };
        let (json, html) = (create("--json", &output.json)?, create("--html", &output.html)?);
        let csv = create("--csv", &output.csv)?;
        let sinks = [("--json", &json), ("--html", &html), ("--csv", &csv)];
        for (index, (one, first)) in sinks.iter().enumerate() {
            for (other, second) in sinks.iter().skip(index + 1) {
                if let (Some(first), Some(second)) = (first, second)
                    && first.is_same_as(second)
                {
                    let message = format!("{one} and {other} name the same file; give each its own");
                    return Err(Error::Usage(message));
                }
            }
        }
        let baseline =
            output.baseline.as_deref().map(|path| Document::read("--baseline", path)).transpose()?;
        if let Some(baseline) = &baseline {
            compared::same_benchmark(baseline, benchmark)?;
        }
        let limits = Limits { threshold: output.threshold, metrics: Vec::new() };
        interrupt::install().map_err(|error| Error::failed("cannot install a handler for Ctrl-C", &error))?;
        watch_for_stops().map_err(|error| Error::failed("cannot install a handler for SIGCONT", &error))?;
        let environment = Environment::gather();
        for warning in &environment.warnings {
            complain(&format!("warning: {warning}"));
        }
        let text = Sink::text_stream(json.iter().chain(&html).chain(&csv));
        Ok(Self {
            witness: Witness::new(environment.allowed.iter()),
            disturbed: Vec::new(),
            environment,
            progress: Progress::new(),
            colour: text.is_coloured(),
            text,
            json,
            csv,
            html,
            markdown: output.markdown,
            baseline: baseline.map(|document| (document, limits)),
        })
    }

    /// Writes the files and prints the results; returns the process's exit code. Whatever fails,
    /// the results are printed. The error is the first one.
    pub(crate) fn finish(mut self, mut report: Report) -> Result<u8, Error> {
        self.progress.finish();
        // At the end: the first sentence is the answer.
        report.conclusions.extend(self.disturbed.iter().map(Disturbed::to_string));
        let report = &report;
        let mut first = None;
        // Write the files first: a closed stdout must not prevent that.
        keep(&mut first, self.write_json(report));
        if let Some(file) = self.csv.take() {
            keep(&mut first, file.write(&csv::render(report)));
        }
        let document = keep(&mut first, Document::of(report, &self.environment, &self.disturbed));
        let compared = match (&document, &self.baseline) {
            (Some(document), Some((baseline, limits))) => {
                keep(&mut first, compared::documents(baseline, document, limits))
            }
            _ => None,
        };
        if let (Some(document), Some(file)) = (&document, self.html.take()) {
            keep(&mut first, file.write(&html::render(document, compared.as_ref())));
        }
        let mut text = match &document {
            Some(document) if self.markdown => markdown::render(document),
            _ => self.text(report, document.as_ref()),
        };
        if let Some(compared) = &compared {
            text.push('\n');
            text.push_str(&if self.markdown { compared.markdown() } else { compared.text(self.colour) });
        }
        keep(&mut first, self.text.print(&text));
        match (first, compared) {
            (Some(error), _) => Err(error),
            _ if !report.complete => Ok(interrupt::EXIT_CODE),
            (None, compared) => match report.nothing_because() {
                Some(why) => Err(Error::Unavailable(format!("nothing could be measured here: {why}"))),
                None => Ok(compared.map_or(0, |compared| compared.exit_code())),
            },
        }
    }

    fn write_json(&mut self, report: &Report) -> Result<(), Error> {
        let Some(file) = self.json.take() else { return Ok(()) };
        let json = json::to_string(report, &self.environment, &self.disturbed)
            .map_err(|error| Error::Failed(format!("cannot write the results as JSON: {error}")))?;
        file.write(&json)
    }

    /// The results as text.
    fn text(&self, report: &Report, document: Option<&Document>) -> String {
        let answer = document.map(|document| answer::of(document).text()).unwrap_or_default();
        let mut text = answer.clone();
        text.push('\n');
        text.push_str(&report::header(&self.environment, report.workload.as_deref()));
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
        // Again at the end: on a terminal, the start has scrolled away.
        text.push('\n');
        text.push_str(&answer);
        text
    }
}

/// The value of `result`. If it is an error, that becomes `first`, unless there is one.
fn keep<T>(first: &mut Option<Error>, result: Result<T, Error>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(error) => {
            first.get_or_insert(error);
            None
        }
    }
}

impl Watch for Session {
    fn phase(&mut self, name: &str, steps: usize) {
        self.progress.phase(name, steps);
    }

    fn more(&mut self, steps: usize) {
        self.progress.more(steps);
    }

    fn step(&mut self, what: &str) {
        self.progress.step(what);
    }

    fn stopped(&self) -> bool {
        interrupt::requested()
    }

    fn look(&mut self) -> Vec<Cause> {
        self.witness.look()
    }

    fn disturbed(&mut self, rounds: Disturbed) {
        self.progress.finish();
        complain(&format!("warning: {rounds}"));
        self.disturbed.push(rounds);
    }

    fn end(&mut self) {
        self.progress.finish();
    }
}

//! Progress on stderr: a bar on a terminal, one line per phase elsewhere.
//!
//! The bar is drawn between samples by the waiting thread. A thread of its own would run beside the
//! measurement.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{IsTerminal, Write, stderr};

/// The progress of a run. Dropping it removes an unfinished bar.
#[derive(Debug)]
pub(crate) struct Progress {
    terminal: bool,
    bar: Option<ProgressBar>,
    done: u64,
}

impl Progress {
    /// Progress on stderr.
    pub(crate) fn new() -> Self {
        Self { terminal: stderr().is_terminal(), bar: None, done: 0 }
    }

    /// Begins a phase of `steps` steps and ends the one before.
    pub(crate) fn phase(&mut self, name: &str, steps: usize) {
        self.finish();
        if !self.terminal {
            // Errors are ignored: the results may still have a reader.
            let _ = writeln!(stderr(), "{name}: {steps} samples");
            return;
        }
        let bar = ProgressBar::with_draw_target(Some(steps as u64), ProgressDrawTarget::stderr());
        // The template is a constant, so it parses; the default style would do as well.
        if let Ok(style) =
            ProgressStyle::with_template("{prefix}: {bar:24} {pos}/{len}, {eta} left  {wide_msg}")
        {
            bar.set_style(style);
        }
        bar.set_prefix(name.to_owned());
        self.bar = Some(bar);
        self.done = 0;
    }

    /// The phase has more steps.
    pub(crate) fn more(&mut self, steps: usize) {
        if let Some(bar) = &self.bar {
            bar.inc_length(steps as u64);
        }
    }

    /// One step begins: the measurement of `what`.
    pub(crate) fn step(&mut self, what: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(what.to_owned());
            bar.set_position(self.done);
        }
        self.done += 1;
    }

    /// Removes the bar.
    pub(crate) fn finish(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.finish();
    }
}

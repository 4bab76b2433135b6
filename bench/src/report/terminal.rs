//! Text on the terminal: results on stdout, complaints on stderr.

use crate::environment::Environment;
use std::env;
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};

/// Returns true if stdout should be coloured: only on a terminal that supports it, and not if
/// NO_COLOR is set (no-color.org).
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

/// Writes to stdout. A closed pipe (`bench list | head`) is not an error; a full disk is.
pub(crate) fn print(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

/// Writes a line to stderr. Errors are ignored: the results may still have a reader.
pub(crate) fn complain(line: &str) {
    let _ = writeln!(io::stderr(), "bench: {line}");
}

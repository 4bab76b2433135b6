//! Text for people: results, which go to stdout unless a file of results does, and complaints on
//! stderr.

use crate::environment::Environment;
use crate::error::Error;
use std::env;
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};

/// Where a text goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    /// Returns true if this stream should be coloured: only on a terminal that supports it, and not
    /// if NO_COLOR is set (no-color.org).
    pub(crate) fn is_coloured(self) -> bool {
        let unwanted = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = env::var_os("TERM").is_none_or(|term| term == "dumb");
        let terminal = match self {
            Stream::Stdout => io::stdout().is_terminal(),
            Stream::Stderr => io::stderr().is_terminal(),
        };
        !unwanted && !dumb && terminal
    }

    /// Writes `text`. A closed pipe (`bench list | head`) is not an error; a full disk is.
    pub(crate) fn print(self, text: &str) -> Result<(), Error> {
        fn write(mut stream: impl Write, text: &str) -> io::Result<()> {
            stream.write_all(text.as_bytes()).and_then(|()| stream.flush())
        }
        let (name, written) = match self {
            Stream::Stdout => ("stdout", write(io::stdout().lock(), text)),
            Stream::Stderr => ("stderr", write(io::stderr().lock(), text)),
        };
        match written {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                Err(Error::failed(&format!("cannot write to {name}"), &error))
            }
            _ => Ok(()),
        }
    }
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

/// Writes a line to stderr. Errors are ignored: the results may still have a reader.
pub(crate) fn complain(line: &str) {
    let _ = writeln!(io::stderr(), "bench: {line}");
}

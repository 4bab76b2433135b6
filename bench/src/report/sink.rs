//! Where --json and --html write their report.

use super::terminal::Stream;
use super::whole_file::WholeFile;
use crate::error::Error;
use std::path::Path;

/// The place of one report.
#[derive(Debug)]
pub(crate) enum Sink {
    Stdout,
    File(WholeFile),
}

impl Sink {
    /// Prepares to write `path`, the value of `option`; "-" is stdout. An [`Error::Usage`] reports
    /// why that is not possible.
    pub(crate) fn create(option: &'static str, path: &Path) -> Result<Self, Error> {
        if path == Path::new("-") {
            return Ok(Self::Stdout);
        }
        WholeFile::create(option, path).map(Self::File)
    }

    /// Returns true if both are the same place.
    pub(crate) fn is_same_as(&self, other: &Sink) -> bool {
        match (self, other) {
            (Self::Stdout, Self::Stdout) => true,
            (Self::File(file), Self::File(other)) => file.target() == other.target(),
            (Self::Stdout | Self::File(_), _) => false,
        }
    }

    /// Returns where the text for people goes: to stderr if one of `sinks` is stdout, so that a
    /// program can read the report from stdout.
    pub(crate) fn text_stream<'a>(sinks: impl IntoIterator<Item = &'a Sink>) -> Stream {
        let taken = sinks.into_iter().any(|sink| matches!(sink, Self::Stdout));
        if taken { Stream::Stderr } else { Stream::Stdout }
    }

    /// Writes the report. The error is one sentence.
    pub(crate) fn write(self, text: &str) -> Result<(), Error> {
        match self {
            Self::Stdout => Stream::Stdout.print(text),
            Self::File(file) => file.commit(text),
        }
    }
}

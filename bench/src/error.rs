//! Errors of a run, and their exit codes.

use std::fmt::Display;
use std::io;

/// Why a run failed. The text is one sentence for stderr.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The command line is wrong: exit code 2.
    #[error("{0}")]
    Usage(String),
    /// The command line is right, but this kernel or machine cannot do it: exit code 3.
    #[error("{0}")]
    Unavailable(String),
    /// An unexpected failure: exit code 1.
    #[error("{0}")]
    Failed(String),
}

impl Error {
    /// The process's exit code for this error.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Error::Failed(_) => 1,
            Error::Usage(_) => 2,
            Error::Unavailable(_) => 3,
        }
    }

    /// An operation of the system failed unexpectedly: `what` failed with `error`.
    pub(crate) fn failed(what: &str, error: &io::Error) -> Self {
        Error::Failed(format!("{what}: {}", reason(error)))
    }
}

/// The words of an error, without the " (os error N)" that the standard library adds.
pub(crate) fn reason(error: &(impl Display + ?Sized)) -> String {
    let text = error.to_string();
    match text.split_once(" (os error ") {
        Some((words, rest)) => words.to_owned() + rest.split_once(')').map_or("", |(_, after)| after),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_its_exit_code() {
        assert_eq!(Error::Failed(String::new()).exit_code(), 1);
        assert_eq!(Error::Usage(String::new()).exit_code(), 2);
        assert_eq!(Error::Unavailable(String::new()).exit_code(), 3);
    }

    #[test]
    fn a_reason_has_no_error_number() {
        assert_eq!(reason(&io::Error::from_raw_os_error(libc::ENOENT)), "No such file or directory");
        assert_eq!(reason(&io::Error::other("too short")), "too short");
        assert_eq!(reason("a: Broken pipe (os error 32); b"), "a: Broken pipe; b");
    }
}

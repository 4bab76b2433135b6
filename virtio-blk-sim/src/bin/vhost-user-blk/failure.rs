//! Why the process ends with an error.

use std::{fmt, io};

/// Why the server failed to start, or stopped.
#[derive(Debug)]
pub(crate) struct Failure {
    message: String,
    pub(crate) exit_code: u8,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Failure {
    /// The command line or the configuration is invalid, or names something that cannot be opened.
    pub(crate) fn usage(message: impl fmt::Display) -> Self {
        Self { message: message.to_string(), exit_code: 2 }
    }

    pub(crate) fn other(message: impl fmt::Display) -> Self {
        Self { message: message.to_string(), exit_code: 1 }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::other(error)
    }
}

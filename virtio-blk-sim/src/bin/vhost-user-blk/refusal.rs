//! Why something that was asked for was not done.

use std::fmt;

/// What kind of refusal it is, for programs. The names are part of the control protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    /// It cannot be done, for the reason that the description gives.
    GenericError,
    /// There is no such command.
    CommandNotFound,
    /// There is no such disk.
    DiskNotFound,
    /// The line is no request, or its arguments are wrong.
    InvalidRequest,
}

/// A refusal. Its description is one sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) class: Class,
    pub(crate) description: String,
}

impl Refusal {
    pub(crate) fn new(class: Class, description: impl fmt::Display) -> Self {
        Self { class, description: description.to_string() }
    }
}

/// Everything that has no class of its own.
impl From<String> for Refusal {
    fn from(description: String) -> Self {
        Self { class: Class::GenericError, description }
    }
}

impl From<std::io::Error> for Refusal {
    fn from(error: std::io::Error) -> Self {
        error.to_string().into()
    }
}

impl From<aio::BlockingError> for Refusal {
    fn from(error: aio::BlockingError) -> Self {
        error.to_string().into()
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.description)
    }
}

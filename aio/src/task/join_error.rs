//! Why a task has no result.

use std::any::Any;
use std::fmt;
use std::io;
use std::sync::{Mutex, PoisonError};

/// Why a task ended without a result: it was aborted, or it panicked. Returned by awaiting its
/// [`JoinHandle`](crate::JoinHandle).
///
/// `Display` has the message of the panic. Converts to an [`io::Error`] of the kind `Other`.
#[derive(Debug)]
pub struct JoinError(Cause);

#[derive(Debug)]
enum Cause {
    Aborted,
    /// What the panic was raised with. The mutex makes the error `Sync`.
    Panicked(Mutex<Box<dyn Any + Send>>),
}

impl JoinError {
    pub(crate) fn aborted() -> Self {
        Self(Cause::Aborted)
    }

    pub(crate) fn panicked(payload: Box<dyn Any + Send>) -> Self {
        Self(Cause::Panicked(Mutex::new(payload)))
    }

    /// Returns true if the task was aborted, or its context was dropped.
    pub fn is_aborted(&self) -> bool {
        matches!(self.0, Cause::Aborted)
    }

    /// Returns true if the task panicked.
    pub fn is_panic(&self) -> bool {
        matches!(self.0, Cause::Panicked(_))
    }

    /// The payload of the panic, for `std::panic::resume_unwind`; `None` if it was no panic.
    pub fn into_panic(self) -> Option<Box<dyn Any + Send>> {
        match self.0 {
            Cause::Panicked(payload) => Some(payload.into_inner().unwrap_or_else(PoisonError::into_inner)),
            Cause::Aborted => None,
        }
    }
}

impl fmt::Display for JoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let payload = match &self.0 {
            Cause::Aborted => return f.write_str("the task was aborted"),
            Cause::Panicked(payload) => payload.lock().unwrap_or_else(PoisonError::into_inner),
        };
        let text = payload.downcast_ref::<&str>().copied();
        match text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)) {
            Some(text) => write!(f, "the task panicked: {text}"),
            None => f.write_str("the task panicked"),
        }
    }
}

impl std::error::Error for JoinError {}

impl From<JoinError> for io::Error {
    fn from(error: JoinError) -> Self {
        Self::other(error)
    }
}

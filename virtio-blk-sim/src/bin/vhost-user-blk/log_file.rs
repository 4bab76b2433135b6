//! Where log lines go.

use crate::refusal::Refusal;

/// Opens the log file again, after somebody has renamed it.
pub(crate) fn rotate() -> Result<(), Refusal> {
    Err("log lines go to stderr, and there is no log file to open again".to_owned().into())
}

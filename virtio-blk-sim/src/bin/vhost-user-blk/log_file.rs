//! Where log lines go.

use virtio_blk_sim::log;

use crate::refusal::Refusal;

/// Opens the log file again, after somebody has renamed it.
pub(crate) fn rotate() -> Result<(), Refusal> {
    match log::file() {
        None => Err("log lines go to stderr, and there is no log file to open again".to_owned().into()),
        Some(path) => log::reopen().map_err(|error| format!("{}: {error}", path.display()).into()),
    }
}

//! A hang guard.

use std::io::Write;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

/// How long a test may take before it is taken for a hang. None comes near it.
const HANG: Duration = Duration::from_secs(60);

/// Runs a test; if it hangs, names it and aborts, since a loop that sleeps for ever cannot be ended
/// otherwise.
pub(crate) fn guarded(name: &'static str, test: impl FnOnce()) {
    let (alive, ended) = mpsc::channel::<()>();
    std::thread::spawn(move || {
        if ended.recv_timeout(HANG) == Err(RecvTimeoutError::Timeout) {
            // Not eprintln: the test harness would keep its output from us.
            let _ = writeln!(std::io::stderr(), "\n{name} hangs");
            std::process::abort();
        }
    });
    test();
    drop(alive);
}

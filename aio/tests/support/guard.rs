//! A hang guard.

use std::io::Write;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

/// How long a test may run before it is considered hung. No test comes near this limit.
const HANG: Duration = Duration::from_secs(60);

/// Runs a test; if it hangs, prints its name and aborts, because a loop that sleeps forever cannot
/// be ended otherwise.
pub(crate) fn guarded(name: &'static str, test: impl FnOnce()) {
    let (alive, ended) = mpsc::channel::<()>();
    std::thread::spawn(move || {
        if ended.recv_timeout(HANG) == Err(RecvTimeoutError::Timeout) {
            // Not eprintln, because the test harness would capture the output.
            let _ = writeln!(std::io::stderr(), "\n{name} hangs");
            std::process::abort();
        }
    });
    test();
    drop(alive);
}

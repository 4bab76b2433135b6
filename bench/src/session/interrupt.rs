//! Ctrl-C: the first one stops the run after the current sample, the second one kills the process.
#![expect(unsafe_code, reason = "installing a signal handler is a libc call")]

use std::sync::atomic::{AtomicBool, Ordering};
use std::{io, mem, ptr};

static REQUESTED: AtomicBool = AtomicBool::new(false);

/// The exit code of a run that Ctrl-C ended: 128 + SIGINT, as a shell reports it.
pub(crate) const EXIT_CODE: u8 = 130;

extern "C" fn on_sigint(_signal: libc::c_int) {
    // A store is safe in a signal handler.
    REQUESTED.store(true, Ordering::Relaxed);
}

/// Installs the handler for the whole process. SA_RESETHAND puts the default action back as the
/// first signal is delivered, so that a second Ctrl-C ends the process at once, whatever it is
/// doing.
pub(crate) fn install() -> io::Result<()> {
    // SAFETY: an all-zero `sigaction` is a valid value of that plain C structure (empty mask, no
    // flags).
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    action.sa_sigaction = on_sigint as *const () as libc::sighandler_t;
    action.sa_flags = libc::SA_RESETHAND | libc::SA_RESTART;
    // SAFETY: `action` is initialised and lives across the call; the handler has the signature that
    // flags without SA_SIGINFO ask for, and does only what signal-safety(7) allows.
    let result = unsafe { libc::sigaction(libc::SIGINT, &action, ptr::null_mut()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Returns true if Ctrl-C was pressed since [`install`]. Any thread, one relaxed load.
pub(crate) fn requested() -> bool {
    REQUESTED.load(Ordering::Relaxed)
}

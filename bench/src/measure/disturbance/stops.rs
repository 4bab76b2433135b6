//! Counts how often the process was stopped and continued.
//!
//! A process that is stopped (SIGSTOP, Ctrl-Z) learns about it when SIGCONT continues it, which can
//! be caught; what it does by default, continuing, happens all the same.
#![expect(unsafe_code, reason = "installing a signal handler is a libc call")]

use std::sync::atomic::{AtomicU64, Ordering};
use std::{io, mem, ptr};

static CONTINUED: AtomicU64 = AtomicU64::new(0);

extern "C" fn on_sigcont(_signal: libc::c_int) {
    // An addition is safe in a signal handler.
    CONTINUED.fetch_add(1, Ordering::Relaxed);
}

/// Installs the handler for the whole process. SA_RESTART: as few system calls as possible should
/// notice.
pub(crate) fn install() -> io::Result<()> {
    // SAFETY: an all-zero `sigaction` is a valid value of that plain C structure (empty mask, no
    // flags).
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    action.sa_sigaction = on_sigcont as *const () as libc::sighandler_t;
    action.sa_flags = libc::SA_RESTART;
    // SAFETY: `action` is initialised and lives across the call; the handler has the signature that
    // flags without SA_SIGINFO ask for, and does only what signal-safety(7) allows.
    let result = unsafe { libc::sigaction(libc::SIGCONT, &action, ptr::null_mut()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// How often the process was continued.
pub(super) fn count() -> u64 {
    CONTINUED.load(Ordering::Relaxed)
}

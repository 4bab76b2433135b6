//! The limit on open file descriptors. If it is too low, this is found out before a frontend comes.
#![expect(unsafe_code, reason = "getrlimit(2) and setrlimit(2)")]

use std::io;

/// Descriptors of a session besides those of its queues: its socket and a copy of it, the channel
/// to the frontend, the in-flight region, those of one message (at most 8), and a connection that
/// is refused meanwhile.
const SESSION: u64 = 16;

/// Kick, call and error, and for each the ring that signals it.
const QUEUE: u64 = 6;

/// Makes sure that a session with `queues` queues can have its descriptors, in addition to those
/// that are open. Raises the soft limit up to the hard limit if needed.
pub(crate) fn ensure(queues: u16) -> Result<(), String> {
    // Without /proc nothing is known, and nothing is refused.
    let Ok(open) = std::fs::read_dir("/proc/self/fd") else { return Ok(()) };
    let needed = open.count() as u64 + SESSION + QUEUE * u64::from(queues);
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is ours.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } != 0 {
        let error = io::Error::last_os_error();
        return Err(format!("cannot read the limit on file descriptors (RLIMIT_NOFILE): {error}"));
    }
    if limit.rlim_cur >= needed {
        return Ok(());
    }
    if limit.rlim_max < needed {
        return Err(format!(
            "{queues} queues need {needed} file descriptors, but the limit is {} (RLIMIT_NOFILE); raise it \
             (ulimit -n)",
            limit.rlim_max
        ));
    }
    limit.rlim_cur = needed;
    // SAFETY: `limit` is only read.
    match unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) } {
        0 => Ok(()),
        _ => Err(format!("cannot raise the limit on file descriptors: {}", io::Error::last_os_error())),
    }
}

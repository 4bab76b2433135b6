//! The signals that this program handles.
#![expect(unsafe_code, reason = "signal(2) and pthread_sigmask(3)")]

use std::cell::Cell;
use std::io;
use std::time::Duration;

use aio::{AioContext, Registration};

/// What a signal requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signal {
    /// SIGTERM or SIGINT: stop the server.
    Stop,
    /// SIGUSR1: print statistics.
    Report,
    /// SIGHUP: read the size of the image again.
    Resize,
}

/// For how long after the first signal others mean the same: timeout(1) sends one to its child and
/// another one to the whole group.
const SAME: Duration = Duration::from_secs(1);

/// Counts the signals that stop the server. Only a second *signal* forces its end: one that comes
/// after `quit`, or after the end of the only frontend, is the first.
#[derive(Debug, Default)]
pub(crate) struct Stops {
    first_ns: Cell<Option<u64>>,
}

impl Stops {
    /// Takes a signal that comes at `now_ns`. Returns whether it is the second one.
    pub(crate) fn is_second(&self, now_ns: u64) -> bool {
        let Some(first_ns) = self.first_ns.get() else {
            self.first_ns.set(Some(now_ns));
            return false;
        };
        u128::from(now_ns.saturating_sub(first_ns)) >= SAME.as_nanos()
    }
}

/// The handled signals, as a signalfd. They are blocked in the calling thread and in all threads
/// that it starts later.
#[derive(Debug)]
pub(crate) struct Signals(virtio_blk_sim::signals::Signals);

impl Signals {
    /// Blocks the signals for the calling thread.
    pub(crate) fn block() -> io::Result<Self> {
        let signals = [libc::SIGTERM, libc::SIGINT, libc::SIGUSR1, libc::SIGHUP];
        virtio_blk_sim::signals::Signals::block(&signals).map(Self)
    }

    /// Calls `act` from the loop for each signal. If they cannot be read, `act` gets the error,
    /// once.
    pub(crate) fn watch(
        self,
        context: &AioContext,
        act: impl Fn(io::Result<Signal>) + 'static,
    ) -> io::Result<Registration> {
        self.0.watch(context, move |signal| {
            act(signal.map(|signal| match signal {
                libc::SIGUSR1 => Signal::Report,
                libc::SIGHUP => Signal::Resize,
                _ => Signal::Stop,
            }));
        })
    }
}

/// Has SIGTERM and SIGINT end the process, which is the default action. For the very end, when
/// nobody reads them any more: what is left to drop may wait for storage.
pub(crate) fn end_the_process() -> io::Result<()> {
    // SAFETY: all-zero is a valid sigset_t, which sigemptyset makes an empty one.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: `set` is ours, and both numbers are signals.
    unsafe {
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGTERM);
        libc::sigaddset(&raw mut set, libc::SIGINT);
    }
    // SAFETY: `set` is only read; the old mask is not asked for.
    match unsafe { libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const set, std::ptr::null_mut()) } {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

/// Makes a write beyond the limit on the file size (`ulimit -f`) fail with EFBIG, which the guest
/// gets as an I/O error. By default SIGXFSZ ends the process, and the guest loses its disk.
pub(crate) fn ignore_file_size_limit() -> io::Result<()> {
    // SAFETY: no handler is installed.
    let before = unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    if before == libc::SIG_ERR { Err(io::Error::last_os_error()) } else { Ok(()) }
}

//! The signals that this program handles.
#![expect(unsafe_code, reason = "signal(2)")]

use std::io;

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

/// Makes a write beyond the limit on the file size (`ulimit -f`) fail with EFBIG, which the guest
/// gets as an I/O error. By default SIGXFSZ ends the process, and the guest loses its disk.
pub(crate) fn ignore_file_size_limit() -> io::Result<()> {
    // SAFETY: no handler is installed.
    let before = unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    if before == libc::SIG_ERR { Err(io::Error::last_os_error()) } else { Ok(()) }
}

//! What the signals of this program ask for.

use std::io;

use aio::{AioContext, Registration};

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signal {
    /// SIGTERM, SIGINT.
    Stop,
    /// SIGUSR1.
    Report,
    /// SIGHUP.
    Resize,
}

/// The signals of this process, blocked for all threads that start after this one, and readable.
#[derive(Debug)]
pub(crate) struct Signals(virtio_blk_sim::signals::Signals);

impl Signals {
    /// Blocks the signals for the calling thread.
    pub(crate) fn block() -> io::Result<Self> {
        let signals = [libc::SIGTERM, libc::SIGINT, libc::SIGUSR1, libc::SIGHUP];
        virtio_blk_sim::signals::Signals::block(&signals).map(Self)
    }

    /// Calls `act` for each signal, from the loop.
    pub(crate) fn watch(
        self,
        context: &AioContext,
        act: impl Fn(Signal) + 'static,
    ) -> io::Result<Registration> {
        self.0.watch(context, move |signal| {
            act(match signal {
                libc::SIGUSR1 => Signal::Report,
                libc::SIGHUP => Signal::Resize,
                _ => Signal::Stop,
            });
        })
    }
}

//! Delivers signals as events of the loop, through signalfd(2).
#![expect(unsafe_code, reason = "signal masks and signalfd(2)")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::rc::Rc;
use std::{mem, ptr};

use aio::{AioContext, Interest, Registration};

/// What a signal requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signal {
    /// SIGTERM, SIGINT.
    Stop,
    /// SIGUSR1.
    Report,
    /// SIGHUP.
    Resize,
}

/// The handled signals, as a signalfd. They are blocked in the calling thread and in all threads
/// that it starts later.
#[derive(Debug)]
pub(crate) struct Signals(OwnedFd);

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Signals {
    /// Blocks the signals for the calling thread.
    pub(crate) fn block() -> io::Result<Self> {
        // SAFETY: all-zero is a valid sigset_t, which sigemptyset makes an empty one.
        let mut set: libc::sigset_t = unsafe { mem::zeroed() };
        // SAFETY: `set` is ours.
        unsafe { libc::sigemptyset(&mut set) };
        for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGUSR1, libc::SIGHUP] {
            // SAFETY: `set` is ours, and the signal is a valid one.
            unsafe { libc::sigaddset(&mut set, signal) };
        }
        // SAFETY: `set` is only read; the old mask is not requested.
        let error = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &set, ptr::null_mut()) };
        if error != 0 {
            return Err(io::Error::from_raw_os_error(error));
        }
        // SAFETY: `set` is only read.
        let fd = unsafe { libc::signalfd(-1, &set, libc::SFD_NONBLOCK | libc::SFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel just returned this descriptor; nothing else owns it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Calls `act` from the loop for each signal.
    pub(crate) fn watch(
        self,
        context: &AioContext,
        act: impl Fn(Signal) + 'static,
    ) -> io::Result<Registration> {
        let this = Rc::new(self);
        let source = Rc::clone(&this);
        Ok(context.add_fd(&*this, Interest::READABLE, move |_, _| {
            while let Some(signal) = source.next() {
                act(signal);
            }
        })?)
    }

    fn next(&self) -> Option<Signal> {
        // SAFETY: all-zero is a valid value of this structure of integers.
        let mut info: libc::signalfd_siginfo = unsafe { mem::zeroed() };
        let size = mem::size_of_val(&info);
        // SAFETY: `info` is ours and has `size` bytes.
        let read = unsafe { libc::read(self.0.as_raw_fd(), (&raw mut info).cast(), size) };
        if read != size as isize {
            return None;
        }
        Some(match info.ssi_signo as libc::c_int {
            libc::SIGUSR1 => Signal::Report,
            libc::SIGHUP => Signal::Resize,
            _ => Signal::Stop,
        })
    }
}

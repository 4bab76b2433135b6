//! The interrupt line from a queue to its guest, for all types of guest.
#![expect(unsafe_code, reason = "fcntl(2) on a file descriptor that a peer has sent")]

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use aio::{EventNotifier, Reset, Ringer};

use super::irqfd::Irqfd;
use super::level::LevelLine;
use crate::log::Line;

/// How a queue interrupts its guest.
#[derive(Debug, Clone)]
pub enum Interrupt {
    /// A guest in this process.
    Irqfd(Irqfd),
    /// An eventfd that another process created: the call eventfd of a vhost-user frontend, or KVM's
    /// irqfd. See [`adopt_from_peer`].
    Call(EventNotifier),
    /// A level-triggered line: its irqfd, and the register that shows why the line is up. When the
    /// guest has lowered the level, KVM asks whether to raise it again.
    Level(LevelLine),
    /// No interrupt: the guest polls the ring, or its line is not set up yet.
    None,
}

impl Interrupt {
    /// Takes over an eventfd that a peer has sent. See [`adopt_from_peer`].
    ///
    /// # Errors
    /// As for [`adopt_from_peer`].
    pub fn from_peer(fd: OwnedFd) -> io::Result<Self> {
        Ok(Self::Call(adopt_from_peer(fd, Reset::Classic)?))
    }

    /// Interrupts the guest. Never blocks. It takes one write(2), or one io_uring_enter(2) for a
    /// peer's eventfd. Returns false if there is no interrupt line.
    pub fn signal(&self) -> bool {
        match self {
            Self::Irqfd(irqfd) => irqfd.signal(),
            // The file was checked to be an eventfd when it was adopted. So an error is over when
            // it is tried again, or there is nothing to be done about it here.
            Self::Call(call) => {
                if let Err(error) = call.notify().or_else(|_| call.notify()).or_else(|_| call.notify()) {
                    Line::warn(format_args!("a guest cannot be interrupted: {error}"))
                        .caused_by(&error)
                        .limited();
                }
            }
            Self::Level(line) => line.signal(),
            Self::None => return false,
        }
        true
    }

    /// Interrupts the guest at the end of what a device does in a turn: for a peer's eventfd in the
    /// system call in which the loop sleeps, if it sleeps next. `rests`: see [`Ringer::ring`].
    pub(super) fn signal_with(&self, ringer: &Ringer, rests: bool) -> bool {
        match self {
            Self::Call(call) if ringer.ring(call, rests).is_ok() => true,
            _ => self.signal(),
        }
    }
}

/// Takes over an eventfd that a peer has sent, and makes it non-blocking. The peer shares the file,
/// so the flag changes for the peer, too. Whatever the peer does to the file, it cannot block the
/// event loop ([`EventNotifier::adopt_from_peer`]).
///
/// That needs io_uring. Where it cannot be used, the log says so: then a peer that clears the flag
/// and fills the counter blocks the loop that serves it.
///
/// # Errors
/// The error of fcntl(2), or of [`EventNotifier::adopt`] if it rejects the file.
pub fn adopt_from_peer(fd: OwnedFd, reset: Reset) -> io::Result<EventNotifier> {
    set_nonblocking(&fd)?;
    match EventNotifier::adopt_from_peer(fd, reset) {
        Err(refused) if refused.error.kind() == io::ErrorKind::Unsupported => {
            let notifier = EventNotifier::adopt(refused.value, reset)?;
            let line = format_args!("a peer could block the loop that serves it: {}", refused.error);
            Line::warn(line).limited();
            Ok(notifier)
        }
        result => Ok(result?),
    }
}

/// Sets O_NONBLOCK on a file. The process that sent the file shares the flag.
pub(crate) fn set_nonblocking(fd: &OwnedFd) -> io::Result<()> {
    let fd = fd.as_raw_fd();
    // SAFETY: F_GETFL takes no argument and touches no memory.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFL) };
    // SAFETY: F_SETFL takes an integer.
    if flags < 0 || unsafe { libc::fcntl(fd, libc::F_SETFL, flags | libc::O_NONBLOCK) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

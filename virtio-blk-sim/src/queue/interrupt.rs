//! The interrupt line from a queue to its guest, for all types of guest.
#![expect(unsafe_code, reason = "fcntl(2) on a file descriptor that a peer has sent")]

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use aio::{EventNotifier, Reset};

use super::irqfd::Irqfd;
use super::level::LevelLine;

/// How a queue interrupts its guest.
#[derive(Debug, Clone)]
pub enum Interrupt {
    /// A guest in this process.
    Irqfd(Irqfd),
    /// An eventfd that another process created: the call eventfd of a vhost-user frontend, or KVM's
    /// irqfd. It is non-blocking, so a process that fills its counter cannot block the event loop.
    Call(EventNotifier),
    /// A level-triggered line: its irqfd, and the register that shows why the line is up. When the
    /// guest has lowered the level, KVM asks whether to raise it again.
    Level(LevelLine),
    /// No interrupt: the guest polls the ring, or its line is not set up yet.
    None,
}

impl Interrupt {
    /// Takes over an eventfd that a peer has sent, and makes it non-blocking. The peer shares the
    /// file, so the flag changes for the peer, too. If the eventfd were blocking, the peer could
    /// block the event loop by filling the counter.
    ///
    /// # Errors
    /// The error of fcntl(2), or of [`EventNotifier::adopt`] if it rejects the file.
    pub fn from_peer(fd: OwnedFd) -> io::Result<Self> {
        set_nonblocking(&fd)?;
        Ok(Self::Call(EventNotifier::adopt(fd, Reset::Classic)?))
    }

    /// Interrupts the guest. Never blocks. It takes at most one write(2), or three if another
    /// process has filled the counter. Returns false if there is no interrupt line.
    pub fn signal(&self) -> bool {
        match self {
            Self::Irqfd(irqfd) => irqfd.signal(),
            // The file was checked to be an eventfd when it was adopted. So a write can only fail
            // because of what the guest itself did, and the error is ignored.
            Self::Call(call) => drop(call.notify()),
            Self::Level(line) => line.signal(),
            Self::None => return false,
        }
        true
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

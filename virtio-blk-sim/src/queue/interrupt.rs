//! The interrupt line from a queue to its guest, whatever is at its other end.
#![expect(unsafe_code, reason = "fcntl(2) on a descriptor that a peer has sent")]

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
    /// An eventfd of somebody else: a vhost-user frontend's call, KVM's irqfd. Non-blocking, so a
    /// foreigner who fills its counter stops nobody.
    Call(EventNotifier),
    /// A level that a guest lowers, and KVM asks about when it has: its irqfd, and the reason why
    /// it is up.
    Level(LevelLine),
    /// Nobody: the guest looks at the ring by itself, or its line is not set up yet.
    None,
}

impl Interrupt {
    /// Takes over an eventfd that a peer has sent. Makes it non-blocking, which the peer sees, too:
    /// on a blocking one the peer could stop the event loop by filling the counter.
    ///
    /// # Errors
    /// What [`EventNotifier::adopt`] refuses.
    pub fn from_peer(fd: OwnedFd) -> io::Result<Self> {
        set_nonblocking(&fd)?;
        Ok(Self::Call(EventNotifier::adopt(fd, Reset::Classic)?))
    }

    /// Interrupts the guest. At most one write(2) (three if a foreigner has filled the counter);
    /// never blocks. False if nobody is there.
    pub fn signal(&self) -> bool {
        match self {
            Self::Irqfd(irqfd) => irqfd.signal(),
            // It was an eventfd when it was adopted, so it still is one: a write has no reason to
            // fail that the guest's own doing would not explain.
            Self::Call(call) => drop(call.notify()),
            Self::Level(line) => line.signal(),
            Self::None => return false,
        }
        true
    }
}

/// Sets O_NONBLOCK on a file that is shared with whoever sent it.
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

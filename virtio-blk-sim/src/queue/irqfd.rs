//! The interrupt line from a queue to its guest: an eventfd that KVM, or a thread that acts as the
//! vCPU, waits on.
#![expect(unsafe_code, reason = "eventfd(2), and read(2) and write(2) of eight bytes that the stack owns")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::Arc;

/// An eventfd used as an interrupt. Clones share it.
///
/// Unlike a doorbell, the eventfd is *blocking*. The simulated guest waits for it and resets it
/// with one read(2); this stands in for KVM's irqfd, which no thread reads. A blocking eventfd is
/// only for a guest in this process, where no other process can fill the counter.
///
/// If the device is in another process ([`Irqfd::of_peer`]), the eventfd is *non-blocking*: the
/// file is shared, and such a device would set O_NONBLOCK anyway. Waiting then takes one poll(2)
/// and one read(2), and ends when the device's process exits.
#[derive(Debug, Clone)]
pub struct Irqfd(Arc<Line>);

#[derive(Debug)]
struct Line {
    event: OwnedFd,
    /// A socket to the process that signals the line, if that is another process.
    peer: Option<OwnedFd>,
}

impl Irqfd {
    /// Creates a line that no interrupt is pending on.
    pub fn new() -> io::Result<Self> {
        Self::open(0, None)
    }

    /// Creates a line that is signalled by the process at the other end of the socket `peer`.
    pub fn of_peer(peer: OwnedFd) -> io::Result<Self> {
        Self::open(libc::EFD_NONBLOCK, Some(peer))
    }

    fn open(flags: i32, peer: Option<OwnedFd>) -> io::Result<Self> {
        // SAFETY: eventfd(2) takes two integers.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | flags) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just given us this descriptor; nobody else owns it.
        let event = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self(Arc::new(Line { event, peer })))
    }

    /// Interrupts the guest, with one write(2). May be called from any thread.
    pub fn signal(&self) {
        let one = 1u64;
        // We own the eventfd and it is open. The write could only fail if the counter were full,
        // and that takes 2^64 interrupts; or for a reason that is over when it is tried again.
        for _ in 0..3 {
            // SAFETY: eight readable bytes, as eventfd(2) demands.
            if retry(|| unsafe { libc::write(self.0.event.as_raw_fd(), (&raw const one).cast(), 8) }).is_ok()
            {
                return;
            }
        }
    }

    /// Sleeps until the next interrupt and resets the line. Returns how many interrupts were
    /// signalled since the last call. It takes one read(2), and one poll(2) before it if another
    /// process signals the line.
    ///
    /// # Errors
    /// `ConnectionAborted` if that process has exited and no interrupt is pending. Otherwise the
    /// errors of read(2) and poll(2), except EINTR.
    pub fn wait(&self) -> io::Result<u64> {
        if let Some(peer) = &self.0.peer {
            self.poll(peer.as_fd())?;
        }
        let mut count = 0u64;
        // SAFETY: eight writable bytes, as eventfd(2) demands.
        retry(|| unsafe { libc::read(self.0.event.as_raw_fd(), (&raw mut count).cast(), 8) })?;
        Ok(count)
    }

    /// Clears O_NONBLOCK, which a device in another process sets on the file that it shares with
    /// us. After that, [`wait`](Self::wait) sleeps again.
    ///
    /// # Errors
    /// The error of fcntl(2).
    pub fn make_blocking(&self) -> io::Result<()> {
        let fd = self.0.event.as_raw_fd();
        // SAFETY: F_GETFL takes no argument and touches no memory.
        let flags = unsafe { libc::fcntl(fd, libc::F_GETFL) };
        // SAFETY: F_SETFL takes an integer.
        if flags < 0 || unsafe { libc::fcntl(fd, libc::F_SETFL, flags & !libc::O_NONBLOCK) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }

    /// Sleeps until there is an interrupt or the peer hangs up.
    fn poll(&self, peer: BorrowedFd<'_>) -> io::Result<()> {
        let entry = |fd: BorrowedFd<'_>, events| libc::pollfd { fd: fd.as_raw_fd(), events, revents: 0 };
        let mut fds = [entry(self.as_fd(), libc::POLLIN), entry(peer, libc::POLLRDHUP)];
        // SAFETY: the array is ours and has two entries.
        retry(|| unsafe { libc::poll(fds.as_mut_ptr(), 2, -1) } as isize)?;
        if fds[0].revents & libc::POLLIN == 0 {
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the device's process has hung up"));
        }
        Ok(())
    }
}

/// For code that signals the eventfd itself, such as KVM or another process.
impl AsFd for Irqfd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.event.as_fd()
    }
}

/// Repeats the call while it is interrupted by a signal (EINTR).
fn retry(mut call: impl FnMut() -> isize) -> io::Result<()> {
    loop {
        if call() >= 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

//! The interrupt line from a queue to its guest: an eventfd that KVM (or a thread that plays the
//! vCPU) waits on.
#![expect(unsafe_code, reason = "eventfd(2), and read(2) and write(2) of eight bytes that the stack owns")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::Arc;

/// An eventfd used as an interrupt. Clones share it.
///
/// Unlike a doorbell it is *blocking*, for the simulated guest: one read(2) waits and resets, which
/// stands for KVM's irqfd that nobody reads. So it is for a guest that shares this process, whose
/// counter no foreigner can fill.
///
/// With a device in another process ([`Irqfd::of_peer`]) it is *non-blocking*, since the file is
/// shared and such a device makes it so anyway; then waiting is one poll(2) and one read(2), and
/// ends when the device's process does.
#[derive(Debug, Clone)]
pub struct Irqfd(Arc<Line>);

#[derive(Debug)]
struct Line {
    event: OwnedFd,
    /// A socket to whoever signals, if that is another process.
    peer: Option<OwnedFd>,
}

impl Irqfd {
    /// A line without an interrupt.
    pub fn new() -> io::Result<Self> {
        Self::open(0, None)
    }

    /// A line that the process at the other end of the socket `peer` signals.
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

    /// Interrupts the guest. Any thread; one write(2).
    pub fn signal(&self) {
        let one = 1u64;
        // SAFETY: eight readable bytes, as eventfd(2) demands.
        let written = retry(|| unsafe { libc::write(self.0.event.as_raw_fd(), (&raw const one).cast(), 8) });
        // The line is ours and open: only a full counter could refuse, and 2^64 interrupts do not
        // fit in a lifetime.
        debug_assert!(written.is_ok(), "write to an irqfd: {written:?}");
    }

    /// Sleeps until the next interrupt and takes it; how many were signalled since the last one.
    /// One read(2), and one poll(2) before it if another process signals.
    ///
    /// # Errors
    /// `ConnectionAborted` if that process has gone and left no interrupt behind; what read(2) and
    /// poll(2) say, EINTR excepted.
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
    /// us: from then on [`wait`](Self::wait) sleeps again.
    ///
    /// # Errors
    /// What fcntl(2) says.
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

    /// Sleeps until there is an interrupt, or the peer has hung up.
    fn poll(&self, peer: BorrowedFd<'_>) -> io::Result<()> {
        let entry = |fd: BorrowedFd<'_>, events| libc::pollfd { fd: fd.as_raw_fd(), events, revents: 0 };
        let mut fds = [entry(self.as_fd(), libc::POLLIN), entry(peer, libc::POLLRDHUP)];
        // SAFETY: two entries, which are ours.
        retry(|| unsafe { libc::poll(fds.as_mut_ptr(), 2, -1) } as isize)?;
        if fds[0].revents & libc::POLLIN == 0 {
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the device's process has hung up"));
        }
        Ok(())
    }
}

/// For whoever has to be able to signal it.
impl AsFd for Irqfd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.event.as_fd()
    }
}

/// Calls again for as long as a signal comes between.
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

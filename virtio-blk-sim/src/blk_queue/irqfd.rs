//! The interrupt line from a queue to its guest: an eventfd that KVM (or a thread that plays the vCPU) waits on.
#![expect(
    unsafe_code,
    reason = "eventfd(2), and read(2) and write(2) of eight bytes that the stack owns"
)]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;

/// An eventfd used as an interrupt. Clones share it.
///
/// Unlike a doorbell it is *blocking*, for the simulated guest: one read(2) waits and resets, which stands for KVM's irqfd
/// that nobody reads. So it is for a guest that shares this process, whose counter no foreigner can fill.
#[derive(Debug, Clone)]
pub struct Irqfd(Arc<OwnedFd>);

impl Irqfd {
    /// A line without an interrupt.
    pub fn new() -> io::Result<Self> {
        // SAFETY: eventfd(2) takes two integers.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just given us this descriptor; nobody else owns it.
        Ok(Self(Arc::new(unsafe { OwnedFd::from_raw_fd(fd) })))
    }

    /// Interrupts the guest. Any thread; one write(2).
    pub fn signal(&self) {
        let one = 1u64;
        // SAFETY: eight readable bytes, as eventfd(2) demands.
        let written = retry(|| unsafe { libc::write(self.0.as_raw_fd(), (&raw const one).cast(), 8) });
        // The line is ours and open: only a full counter could refuse, and 2^64 interrupts do not fit in a lifetime.
        debug_assert!(written.is_ok(), "write to an irqfd: {written:?}");
    }

    /// Sleeps until the next interrupt and takes it; how many were signalled since the last one. One read(2).
    ///
    /// # Errors
    /// What read(2) says, EINTR excepted.
    pub fn wait(&self) -> io::Result<u64> {
        let mut count = 0u64;
        // SAFETY: eight writable bytes, as eventfd(2) demands.
        retry(|| unsafe { libc::read(self.0.as_raw_fd(), (&raw mut count).cast(), 8) })?;
        Ok(count)
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

//! Adds one to an eventfd by a way that can never block: `eventfd_signal()` of the kernel, which
//! io_uring calls for each completion of a ring (IORING_REGISTER_EVENTFD).
//!
//! write(2) sleeps if the counter is full and O_NONBLOCK is off. Whoever else holds the file can
//! arrange both at any time, also between a check and the write. `eventfd_signal()` ignores the
//! flag, and leaves a full counter full. So each signal is a NOP on a small ring whose completions
//! signal the eventfd: one io_uring_enter(2), which costs more than the write(2).
#![expect(unsafe_code, reason = "pushes an SQE that points to nothing")]

use super::process::{Process, forked};
use io_uring::{IoUring, opcode};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::{Mutex, PoisonError};

/// How often a signal is tried if the kernel has no memory for it.
const TRIES: usize = 100;

/// A ring that signals one eventfd. Costs a descriptor and some pages of memory.
pub(crate) struct Signal {
    ring: Mutex<IoUring>,
    /// A forked child shares the ring's memory with its parent.
    process: Process,
}

impl std::fmt::Debug for Signal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signal").finish_non_exhaustive()
    }
}

impl Signal {
    /// Makes the ring of an eventfd.
    ///
    /// # Errors
    /// What io_uring_setup(2) and io_uring_register(2) return.
    pub(crate) fn new(eventfd: BorrowedFd<'_>) -> io::Result<Self> {
        let ring = IoUring::new(1)?;
        ring.submitter().register_eventfd(eventfd.as_raw_fd())?;
        Ok(Self { ring: Mutex::new(ring), process: Process::current() })
    }

    /// Adds one to the counter, unless it is full, and wakes the waiters. Any thread. Waits for
    /// other threads that send on this ring, and for nothing else.
    ///
    /// # Errors
    /// What io_uring_enter(2) returns while memory is short; `Unsupported` in a forked child.
    pub(crate) fn send(&self) -> io::Result<()> {
        if !self.process.is_current() {
            return Err(forked());
        }
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: a NOP points to nothing. If the queue is full, it has one that was not taken.
        let _ = unsafe { ring.submission().push(&opcode::Nop::new().build()) };
        let mut tries = 0;
        loop {
            // Makes room for the completion.
            ring.completion().for_each(drop);
            tries += 1;
            match ring.submit() {
                Ok(1..) => return Ok(()),
                Ok(_) if tries < TRIES => {}
                Ok(_) => return Err(io::ErrorKind::OutOfMemory.into()),
                Err(error) if tries == TRIES => return Err(error),
                // EINTR, or EAGAIN: the kernel had no memory for the request.
                Err(_) => {}
            }
        }
    }
}

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
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::sync::{Mutex, OnceLock, PoisonError};

/// How often a signal is tried if the kernel has no memory for it.
const TRIES: usize = 100;

/// A ring that signals one eventfd. Costs a descriptor and some pages of memory, from the first
/// signal on: many eventfds of peers are only read, or never signalled.
pub(crate) struct Signal {
    ring: Mutex<Option<IoUring>>,
    /// A forked child shares the ring's memory with its parent.
    process: Process,
}

impl std::fmt::Debug for Signal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signal").finish_non_exhaustive()
    }
}

/// Why a signal was not sent.
#[derive(Debug)]
pub(crate) enum Unsent {
    /// There is no ring, and none can be made, or io_uring_enter(2) is refused.
    NoRing,
    /// The kernel has no memory for it, or this is a forked child.
    Failed(io::Error),
}

impl Signal {
    /// Prepares to signal eventfds of peers. Tests once in a process that it can be done.
    ///
    /// # Errors
    /// What io_uring_setup(2) and io_uring_register(2) return.
    pub(crate) fn new(eventfd: BorrowedFd<'_>) -> io::Result<Self> {
        static WORKS: OnceLock<()> = OnceLock::new();
        let tested = match WORKS.get() {
            Some(()) => None,
            None => {
                let ring = ring_of(eventfd)?;
                WORKS.get_or_init(|| ());
                Some(ring)
            }
        };
        Ok(Self { ring: Mutex::new(tested), process: Process::current() })
    }

    /// Adds one to the counter of `eventfd`, unless it is full, and wakes the waiters. Any thread.
    /// Waits for other threads that send to it, and for nothing else.
    ///
    /// # Errors
    /// See [`Unsent`].
    pub(crate) fn send(&self, eventfd: BorrowedFd<'_>) -> Result<(), Unsent> {
        if !self.process.is_current() {
            return Err(Unsent::Failed(forked()));
        }
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let ring = match &mut *ring {
            Some(ring) => ring,
            none => none.insert(ring_of(eventfd).map_err(|_| Unsent::NoRing)?),
        };
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
                Ok(_) => return Err(Unsent::Failed(io::ErrorKind::OutOfMemory.into())),
                Err(error) if is_refusal(&error) => return Err(Unsent::NoRing),
                Err(error) if tries == TRIES => return Err(Unsent::Failed(error)),
                // EINTR, or EAGAIN: the kernel had no memory for the request.
                Err(_) => {}
            }
        }
    }
}

impl Signal {
    /// Makes room for a completion that another ring posts (IORING_OP_MSG_RING), which signals the
    /// eventfd as one of its own does. Returns the descriptor to post it to, which stays open as
    /// long as this. `None` if there is no ring, and in a forked child. Any thread.
    pub(crate) fn target(&self, eventfd: BorrowedFd<'_>) -> Option<RawFd> {
        if !self.process.is_current() {
            return None;
        }
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let ring = match &mut *ring {
            Some(ring) => ring,
            none => none.insert(ring_of(eventfd).ok()?),
        };
        ring.completion().for_each(drop);
        // The kernel signals nothing while completions wait for room. The next signal from here
        // makes room for them.
        let overflows = ring.submission().cq_overflow();
        (!overflows).then(|| ring.as_raw_fd())
    }
}

fn ring_of(eventfd: BorrowedFd<'_>) -> io::Result<IoUring> {
    // Room for the messages of several loops, or of several rings for one notifier, until somebody
    // looks here again.
    let ring = IoUring::builder().setup_cqsize(64).build(1)?;
    ring.submitter().register_eventfd(eventfd.as_raw_fd())?;
    Ok(ring)
}

/// io_uring_enter(2) is not allowed here, as by a seccomp filter that was set up later.
fn is_refusal(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EPERM | libc::EACCES | libc::ENOSYS))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::eventfd::EventFd;
    use std::os::fd::AsFd;

    #[test]
    fn a_ring_is_made_by_the_first_signal() {
        let eventfd = EventFd::new().unwrap();
        let first = match Signal::new(eventfd.as_fd()) {
            Ok(signal) => signal,
            Err(error) => return println!("skipped: {error}"),
        };
        first.send(eventfd.as_fd()).unwrap();
        let second = Signal::new(eventfd.as_fd()).unwrap();
        assert!(second.ring.lock().unwrap().is_none(), "a descriptor for nothing");
        second.send(eventfd.as_fd()).unwrap();
        second.send(eventfd.as_fd()).unwrap();
        assert!(second.ring.lock().unwrap().is_some());
        assert_eq!(eventfd.read().unwrap(), Some(3));
    }

    #[test]
    fn without_a_ring_the_caller_rings_otherwise() {
        let eventfd = EventFd::new().unwrap();
        if let Err(error) = Signal::new(eventfd.as_fd()).map(drop) {
            return println!("skipped: {error}");
        }
        let signal = Signal::new(eventfd.as_fd()).unwrap();
        // No ring can be made for it, as if there were no descriptors left.
        let (pipe, _other) = std::io::pipe().unwrap();
        assert!(matches!(signal.send(pipe.as_fd()), Err(Unsent::NoRing)));
        signal.send(eventfd.as_fd()).unwrap();
    }
}

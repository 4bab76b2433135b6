//! Operations that wait: for a descriptor, and for a time.
#![expect(unsafe_code, reason = "the promise that a timeout stays where its entry points to")]

use super::Operation;
use super::entry::{Entry, RingId, Sealed};
use super::file::{RingFile, on};
use crate::monitor::{Interest, Readiness};
use io_uring::{opcode, types};
use std::fmt;
use std::io;
use std::time::Duration;

/// Waits until a descriptor is ready, once, as poll(2) (IORING_OP_POLL_ADD). The output is what it
/// is ready for, and the file. A hang-up and an error always end it. It is no promise: whoever else
/// reads the file may be faster.
///
/// For a descriptor that is waited for again and again, a
/// [handler](crate::AioContext::add_fd) is the better way.
#[derive(Debug)]
pub struct PollOnce<F> {
    file: F,
    interest: Interest,
}

impl<F: RingFile> PollOnce<F> {
    /// An operation that waits until `file` is ready for `interest`.
    pub fn new(file: F, interest: Interest) -> Self {
        Self { file, interest }
    }
}

// SAFETY: the entry points to nothing.
unsafe impl<F: RingFile> Operation for PollOnce<F> {
    type Output = (io::Result<Readiness>, F);

    fn entry(&mut self, ring: RingId, _: Sealed) -> Entry {
        let events = self.interest.poll_events();
        Entry(on(&self.file, ring, |fd| opcode::PollAdd::new(fd, events).build()))
    }

    fn complete(self, result: io::Result<u32>, _: Sealed) -> Self::Output {
        (result.map(Readiness::from_poll), self.file)
    }
}

/// Waits for a time, on CLOCK_MONOTONIC (IORING_OP_TIMEOUT). The output is `Ok` when it is over,
/// and ECANCELED if it was cancelled. The time begins when the loop's next wait submits it.
///
/// A [`Timer`](crate::Timer) costs less, and can be armed again. This is for code that handles a
/// timeout like its other operations.
pub struct Timeout {
    after: types::Timespec,
}

impl Timeout {
    /// An operation that ends after `after`. Seconds saturate at 2^63 - 1.
    pub fn new(after: Duration) -> Self {
        const MOST: Duration = Duration::from_secs(i64::MAX as u64);
        Self { after: after.min(MOST).into() }
    }
}

// SAFETY: the time stays with the operation, which owns it.
unsafe impl Operation for Timeout {
    type Output = io::Result<()>;

    fn entry(&mut self, _: RingId, _: Sealed) -> Entry {
        Entry(opcode::Timeout::new(&raw const self.after).build())
    }

    fn complete(self, result: io::Result<u32>, _: Sealed) -> Self::Output {
        match result {
            Err(e) if e.raw_os_error() == Some(libc::ETIME) => Ok(()),
            other => other.map(drop),
        }
    }
}

impl fmt::Debug for Timeout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Timeout").finish_non_exhaustive()
    }
}

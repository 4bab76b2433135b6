//! What an operation and the ring tell each other. Users cannot reach it.

use crate::token::Token;
use io_uring::squeue;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

/// The SQE of an operation.
#[derive(Clone, Debug)]
pub struct Entry(pub(super) squeue::Entry);

/// Which ring of this process: an index into the tables of one ring means nothing on another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingId(u64);

impl RingId {
    /// A ring that no other ring of this process is equal to.
    pub(crate) fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// What is needed to start an operation that has ended again.
#[derive(Clone, Debug)]
pub struct Again {
    pub(crate) token: Token,
    pub(crate) entry: squeue::Entry,
}

/// What follows the last completion of an operation with many of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// The kernel has ended it, and it can go on.
    Start,
    /// It can go on when a buffer is free.
    Wait,
    /// It has ended by itself, or it was cancelled.
    End,
}

/// Only the crate can call the hidden methods of an operation, because only it has this.
#[derive(Clone, Copy, Debug)]
pub struct Sealed(pub(super) ());

/// The result in a CQE.
pub(super) fn outcome(result: i32) -> io::Result<u32> {
    /// ERESTARTSYS and its relatives of include/linux/errno.h. A system call would be restarted or
    /// return EINTR, but an operation that was cancelled in a worker (a splice) completes with it.
    const RESTARTS: std::ops::RangeInclusive<i32> = 512..=516;
    u32::try_from(result).map_err(|_| match result.wrapping_neg() {
        number if RESTARTS.contains(&number) => io::Error::from_raw_os_error(libc::EINTR),
        number => io::Error::from_raw_os_error(number),
    })
}

/// The number of bytes of a transfer.
pub(super) fn bytes(result: io::Result<u32>) -> io::Result<usize> {
    result.map(|bytes| bytes as usize)
}

/// A length for an SQE. The kernel transfers less than 2 GiB at once, and reports how much it did.
pub(super) fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_only_the_kernel_knows_are_interruptions() {
        let number = |result| outcome(result).map_err(|e| e.raw_os_error());
        for restart in 512..=516 {
            assert_eq!(number(-restart), Err(Some(libc::EINTR)), "{restart}");
        }
        for other in [libc::ECANCELED, libc::EINTR, 511, 517] {
            assert_eq!(number(-other), Err(Some(other)));
        }
        assert_eq!((number(0), number(i32::MAX)), (Ok(0), Ok(i32::MAX as u32)));
    }
}

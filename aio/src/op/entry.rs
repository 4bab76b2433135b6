//! What an operation and the ring say to each other, out of the reach of users.

use io_uring::squeue;
use std::io;

/// The SQE of an operation.
#[derive(Clone, Debug)]
pub struct Entry(pub(super) squeue::Entry);

/// Only this room can call the hidden methods of an operation, because only it has this.
#[derive(Clone, Copy, Debug)]
pub struct Sealed(pub(super) ());

/// The result in a CQE.
pub(super) fn outcome(result: i32) -> io::Result<u32> {
    u32::try_from(result).map_err(|_| io::Error::from_raw_os_error(result.wrapping_neg()))
}

/// The number of bytes of a transfer.
pub(super) fn bytes(result: io::Result<u32>) -> io::Result<usize> {
    result.map(|bytes| bytes as usize)
}

/// A length for an SQE. The kernel transfers at most 2 GiB at once, and says how much it did.
pub(super) fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

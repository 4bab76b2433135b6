//! Moving bytes between a pipe and another file.
#![expect(unsafe_code, reason = "the promise that the entry points to nothing")]

use super::Operation;
use super::entry::{Entry, RingId, Sealed, bytes, length};
use super::file::RingFile;
use io_uring::{opcode, types};
use std::io;

/// Moves bytes from one file to another without copying them to the process, as splice(2). One of
/// the two must be a pipe. The output is the number of bytes, which is zero at the end of the
/// input, and both files.
///
/// The kernel has it done by a thread of its own. If it is cancelled while it waits there, its
/// error is EINTR.
#[derive(Debug)]
pub struct Splice<F, T> {
    from: F,
    from_offset: Option<u64>,
    to: T,
    to_offset: Option<u64>,
    len: usize,
}

impl<F: RingFile, T: RingFile> Splice<F, T> {
    /// An operation that moves at most `len` bytes from `from` to `to`. An offset, in bytes, is
    /// `None` for a pipe, and for a file whose position is to be used and moved. ESPIPE for an
    /// offset of a pipe, EINVAL if neither of the two is a pipe.
    pub fn new(from: F, from_offset: Option<u64>, to: T, to_offset: Option<u64>, len: usize) -> Self {
        Self { from, from_offset, to, to_offset, len }
    }
}

/// An offset as the SQE has it: -1 for none. No file is longer than `i64::MAX`.
fn offset(of: Option<u64>) -> i64 {
    of.map_or(-1, |offset| i64::try_from(offset).unwrap_or(i64::MAX))
}

// SAFETY: the entry points to nothing.
unsafe impl<F: RingFile, T: RingFile> Operation for Splice<F, T> {
    type Output = (io::Result<usize>, F, T);

    fn entry(&mut self, ring: RingId, sealed: Sealed) -> Entry {
        let (from, to) = (self.from.target(ring, sealed), self.to.target(ring, sealed));
        let (from_offset, to_offset, len) =
            (offset(self.from_offset), offset(self.to_offset), length(self.len));
        Entry(to.entry(|to| match from.is_fixed() {
            true => {
                let from = types::Fixed(u32::try_from(from.fd().0).unwrap_or(u32::MAX));
                opcode::Splice::new(from, from_offset, to, to_offset, len).build()
            }
            false => opcode::Splice::new(from.fd(), from_offset, to, to_offset, len).build(),
        }))
    }

    fn complete(self, result: io::Result<u32>, _: Sealed) -> Self::Output {
        (bytes(result), self.from, self.to)
    }
}

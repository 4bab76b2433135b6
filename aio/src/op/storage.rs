//! Operations on the storage of a file: flush, and the allocation of blocks.
#![expect(unsafe_code, reason = "the promise that their entries point to nothing")]

use super::Operation;
use super::entry::{Entry, RingId, Sealed};
use super::file::{RingFile, on};
use io_uring::{opcode, types};
use std::io;

/// Writes what is cached of a file to its device, as fsync(2) and fdatasync(2). The output is the
/// result and the file.
///
/// Covers the writes that have completed before it is submitted, that is, before the loop's next
/// wait. It does not wait for those in flight.
#[derive(Debug)]
pub struct Fsync<F> {
    file: F,
    flags: types::FsyncFlags,
}

impl<F: RingFile> Fsync<F> {
    /// An operation that flushes the data and all of the metadata (fsync).
    pub fn new(file: F) -> Self {
        Self { file, flags: types::FsyncFlags::empty() }
    }

    /// An operation that flushes the data, and only such metadata as is needed to read it again
    /// (fdatasync).
    pub fn data(file: F) -> Self {
        Self { file, flags: types::FsyncFlags::DATASYNC }
    }
}

// SAFETY: the entry points to nothing.
unsafe impl<F: RingFile> Operation for Fsync<F> {
    type Output = (io::Result<()>, F);

    fn entry(&mut self, ring: RingId, _: Sealed) -> Entry {
        let flags = self.flags;
        Entry(on(&self.file, ring, |fd| opcode::Fsync::new(fd).flags(flags).build()))
    }

    fn complete(self, result: io::Result<u32>, _: Sealed) -> Self::Output {
        (result.map(drop), self.file)
    }
}

/// Allocates, zeroes or frees blocks of a file, as fallocate(2). The output is the result and the
/// file.
#[derive(Debug)]
pub struct Fallocate<F> {
    file: F,
    mode: i32,
    offset: u64,
    len: u64,
}

impl<F: RingFile> Fallocate<F> {
    /// `mode` is that of fallocate(2), such as `libc::FALLOC_FL_PUNCH_HOLE |
    /// libc::FALLOC_FL_KEEP_SIZE`. `offset` and `len` are in bytes; EINVAL beyond 2^63 - 1, and for
    /// a `len` of zero. EOPNOTSUPP if the file system does not have the mode.
    pub fn new(file: F, mode: i32, offset: u64, len: u64) -> Self {
        Self { file, mode, offset, len }
    }
}

// SAFETY: the entry points to nothing.
unsafe impl<F: RingFile> Operation for Fallocate<F> {
    type Output = (io::Result<()>, F);

    fn entry(&mut self, ring: RingId, _: Sealed) -> Entry {
        let Self { mode, offset, len, .. } = *self;
        Entry(on(&self.file, ring, |fd| opcode::Fallocate::new(fd, len).offset(offset).mode(mode).build()))
    }

    fn complete(self, result: io::Result<u32>, _: Sealed) -> Self::Output {
        (result.map(drop), self.file)
    }
}

//! Reads and writes of several buffers at an offset.
#![expect(unsafe_code, reason = "entries that point into the buffers that the operation owns")]

use super::Operation;
use super::buffer::{StableBuffer, StableBufferMut};
use super::entry::{Entry, RingId, Sealed, bytes, length};
use super::file::{RingFile, on};
use io_uring::opcode;
use std::fmt;
use std::io;

/// Reads from a file at an offset into one buffer after another, as preadv(2). The output is the
/// number of bytes, the file and the buffers.
///
/// EINVAL for more than 1024 buffers (IOV_MAX). The offset is that of [`ReadAt`](super::ReadAt).
/// Registered buffers are used as ordinary memory. Starting it allocates an array of pointers and
/// lengths.
pub struct Readv<F, B> {
    file: F,
    buffers: Vec<B>,
    offset: u64,
    iovecs: Vec<libc::iovec>,
}

impl<F: RingFile, B: StableBufferMut> Readv<F, B> {
    /// An operation that reads from `file`, from the byte at `offset`, into `buffers`.
    pub fn new(file: F, buffers: Vec<B>, offset: u64) -> Self {
        Self { file, buffers, offset, iovecs: Vec::new() }
    }
}

// SAFETY: the buffers are stable, and their array is on the heap. The operation owns both.
unsafe impl<F: RingFile, B: StableBufferMut> Operation for Readv<F, B> {
    type Output = (io::Result<usize>, F, Vec<B>);

    fn entry(&mut self, ring: RingId, _: Sealed) -> Entry {
        let iovec = |b: &mut B| libc::iovec { iov_base: b.stable_mut_ptr().cast(), iov_len: b.byte_len() };
        self.iovecs = self.buffers.iter_mut().map(iovec).collect();
        let (array, count, offset) = (self.iovecs.as_ptr(), length(self.iovecs.len()), self.offset);
        Entry(on(&self.file, ring, |fd| opcode::Readv::new(fd, array, count).offset(offset).build()))
    }

    fn complete(self, result: io::Result<u32>, _: Sealed) -> Self::Output {
        (bytes(result), self.file, self.buffers)
    }
}

impl<F, B> fmt::Debug for Readv<F, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Readv").field("buffers", &self.buffers.len()).finish_non_exhaustive()
    }
}

/// Writes one buffer after another to a file at an offset, as pwritev(2). The output is the number
/// of bytes, which may be less than all, the file and the buffers.
///
/// EINVAL for more than 1024 buffers (IOV_MAX). The offset is that of [`WriteAt`](super::WriteAt).
/// Otherwise as [`Readv`].
pub struct Writev<F, B> {
    file: F,
    buffers: Vec<B>,
    offset: u64,
    iovecs: Vec<libc::iovec>,
}

impl<F: RingFile, B: StableBuffer> Writev<F, B> {
    /// An operation that writes `buffers` to `file`, from the byte at `offset`.
    pub fn new(file: F, buffers: Vec<B>, offset: u64) -> Self {
        Self { file, buffers, offset, iovecs: Vec::new() }
    }
}

// SAFETY: as for `Readv`.
unsafe impl<F: RingFile, B: StableBuffer> Operation for Writev<F, B> {
    type Output = (io::Result<usize>, F, Vec<B>);

    fn entry(&mut self, ring: RingId, _: Sealed) -> Entry {
        let iovec = |b: &B| libc::iovec { iov_base: b.stable_ptr().cast_mut().cast(), iov_len: b.byte_len() };
        self.iovecs = self.buffers.iter().map(iovec).collect();
        let (array, count, offset) = (self.iovecs.as_ptr(), length(self.iovecs.len()), self.offset);
        Entry(on(&self.file, ring, |fd| opcode::Writev::new(fd, array, count).offset(offset).build()))
    }

    fn complete(self, result: io::Result<u32>, _: Sealed) -> Self::Output {
        (bytes(result), self.file, self.buffers)
    }
}

impl<F, B> fmt::Debug for Writev<F, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writev").field("buffers", &self.buffers.len()).finish_non_exhaustive()
    }
}

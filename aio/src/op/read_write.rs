//! Reads and writes of one buffer at an offset.
#![expect(unsafe_code, reason = "entries that point into the buffer that the operation owns")]

use super::Operation;
use super::buffer::{StableBuffer, StableBufferMut, slot_of};
use super::entry::{Entry, RingId, Sealed, bytes, length};
use super::file::{RingFile, on};
use io_uring::opcode;
use std::io;

/// Reads from a file at an offset, as pread(2). The output is the number of bytes, the file and the
/// buffer.
///
/// Reads at most the length of the buffer (of a `Vec`: not its capacity), less at the end of the
/// file, where the number is zero. For a pipe, a socket or another file without positions the
/// offset is ignored. If the buffer is [registered](crate::FixedBuffer) with this context, the
/// kernel uses the registration.
#[derive(Debug)]
pub struct ReadAt<F, B> {
    file: F,
    buffer: B,
    offset: u64,
}

impl<F: RingFile, B: StableBufferMut> ReadAt<F, B> {
    /// An operation that reads from `file`, from the byte at `offset`, to `buffer`. With an offset
    /// of [`u64::MAX`] it reads at the current position of the file, and moves that, as read(2).
    pub fn new(file: F, buffer: B, offset: u64) -> Self {
        Self { file, buffer, offset }
    }

    /// The file and the buffer, of an operation that was not started.
    pub fn into_parts(self) -> (F, B) {
        (self.file, self.buffer)
    }
}

// SAFETY: the buffer is stable, and the operation owns it.
unsafe impl<F: RingFile, B: StableBufferMut> Operation for ReadAt<F, B> {
    type Output = (io::Result<usize>, F, B);

    fn entry(&mut self, ring: RingId, _: Sealed) -> Entry {
        let (slot, offset) = (slot_of(&self.buffer, ring), self.offset);
        let (len, pointer) = (length(self.buffer.byte_len()), self.buffer.stable_mut_ptr());
        Entry(on(&self.file, ring, |fd| match slot {
            Some(slot) => opcode::ReadFixed::new(fd, pointer, len, slot).offset(offset).build(),
            None => opcode::Read::new(fd, pointer, len).offset(offset).build(),
        }))
    }

    fn complete(self, result: io::Result<u32>, _: Sealed) -> Self::Output {
        (bytes(result), self.file, self.buffer)
    }
}

/// Writes to a file at an offset, as pwrite(2). The output is the number of bytes, which may be
/// less than all, the file and the buffer.
///
/// For a pipe, a socket or another file without positions the offset is ignored. On a pipe or a
/// socket without a reader this raises SIGPIPE, as write(2) does, unless the process ignores it, as
/// Rust programs do; [`Send`](super::Send) never does. A registered buffer is used as by
/// [`ReadAt`].
#[derive(Debug)]
pub struct WriteAt<F, B> {
    file: F,
    buffer: B,
    offset: u64,
}

impl<F: RingFile, B: StableBuffer> WriteAt<F, B> {
    /// An operation that writes `buffer` to `file`, from the byte at `offset`. With an offset of
    /// [`u64::MAX`] it writes at the current position of the file, and moves that, as write(2).
    pub fn new(file: F, buffer: B, offset: u64) -> Self {
        Self { file, buffer, offset }
    }

    /// The file and the buffer, of an operation that was not started.
    pub fn into_parts(self) -> (F, B) {
        (self.file, self.buffer)
    }
}

// SAFETY: the buffer is stable, and the operation owns it.
unsafe impl<F: RingFile, B: StableBuffer> Operation for WriteAt<F, B> {
    type Output = (io::Result<usize>, F, B);

    fn entry(&mut self, ring: RingId, _: Sealed) -> Entry {
        let (slot, offset) = (slot_of(&self.buffer, ring), self.offset);
        let (len, pointer) = (length(self.buffer.byte_len()), self.buffer.stable_ptr());
        Entry(on(&self.file, ring, |fd| match slot {
            Some(slot) => opcode::WriteFixed::new(fd, pointer, len, slot).offset(offset).build(),
            None => opcode::Write::new(fd, pointer, len).offset(offset).build(),
        }))
    }

    fn complete(self, result: io::Result<u32>, _: Sealed) -> Self::Output {
        (bytes(result), self.file, self.buffer)
    }
}

//! Buffers that an operation may own.
#![expect(unsafe_code, reason = "the promise that the memory of a buffer does not move with it")]

use super::entry::RingId;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

/// A buffer that the kernel can read from while an operation owns it.
///
/// Implemented for the usual owners of bytes, for [`Part`], and for a
/// [`FixedBuffer`](crate::FixedBuffer). Implement it for your own, such as a range of guest memory
/// that keeps its mapping alive.
///
/// # Safety
/// From the first call of `stable_ptr` until the buffer is dropped, also if the buffer is moved:
/// `byte_len` bytes from `stable_ptr` are valid for reads, and the methods return the same each
/// time. While the buffer is not borrowed, nothing writes to the bytes, unless they are memory that
/// others may write to at any time and that no Rust reference points to, such as guest memory.
pub unsafe trait StableBuffer: 'static {
    /// The first byte.
    fn stable_ptr(&self) -> *const u8;

    /// The length in bytes. All of them are initialised.
    fn byte_len(&self) -> usize;

    /// Where the buffer is registered, if it is: the kernel then need not map its pages. By default
    /// nowhere; a type that wraps another buffer may pass on what that returns.
    fn registered(&self) -> Option<RegisteredBuffer> {
        None
    }
}

/// A buffer that the kernel can write to while an operation owns it.
///
/// # Safety
/// As for [`StableBuffer`], and the bytes are valid for writes, and while the buffer is not
/// borrowed nothing else reads or writes them (with the same exception). The pointer is equal to
/// that of [`stable_ptr`](StableBuffer::stable_ptr).
pub unsafe trait StableBufferMut: StableBuffer {
    /// The first byte, to write to.
    fn stable_mut_ptr(&mut self) -> *mut u8;
}

/// Where a buffer is registered: which slot of which ring. See [`StableBuffer::registered`]. Only a
/// [`FixedBuffer`](crate::FixedBuffer) makes one; it is only to be passed on.
#[derive(Clone, Copy, Debug)]
pub struct RegisteredBuffer {
    pub(crate) ring: RingId,
    pub(crate) slot: u16,
}

/// The slot of a buffer in the table of this ring, if it is registered there.
pub(super) fn slot_of(buffer: &impl StableBuffer, ring: RingId) -> Option<u16> {
    buffer.registered().filter(|registered| registered.ring == ring).map(|registered| registered.slot)
}

macro_rules! stable {
    ($($owner:ty),*) => {$(
        // SAFETY: the bytes are on the heap or static, and do not move with their owner. Nothing
        // writes to them while the owner is not borrowed.
        unsafe impl StableBuffer for $owner {
            fn stable_ptr(&self) -> *const u8 {
                self.as_ptr()
            }

            fn byte_len(&self) -> usize {
                self.len()
            }
        }
    )*};
}

stable!(Vec<u8>, Box<[u8]>, Rc<[u8]>, Arc<[u8]>, String, &'static [u8], &'static str, &'static mut [u8]);

macro_rules! stable_mut {
    ($($owner:ty),*) => {$(
        // SAFETY: as above; nobody else owns the bytes.
        unsafe impl StableBufferMut for $owner {
            fn stable_mut_ptr(&mut self) -> *mut u8 {
                self.as_mut_ptr()
            }
        }
    )*};
}

stable_mut!(Vec<u8>, Box<[u8]>, &'static mut [u8]);

/// A part of a buffer, to read or write only that; for instance the rest after a short write. It
/// owns the whole buffer, and [returns](Self::into_inner) it.
///
/// ```
/// use aio::op::{Part, StableBuffer, WriteAt};
/// # let file = std::io::stdout();
/// # let (buffer, written, offset) = (vec![0; 4096], 1000, 0);
/// // 1000 of 4096 bytes were written. The operation came back with file and buffer.
/// let rest = Part::new(buffer, written..4096);
/// assert_eq!(rest.byte_len(), 3096);
/// let next = WriteAt::new(file, rest, offset + written as u64);
/// # let (_, rest) = next.into_parts();
/// // ... and when that is done:
/// let buffer = rest.into_inner();
/// assert_eq!(buffer.len(), 4096);
/// ```
#[derive(Clone, Debug)]
pub struct Part<B> {
    buffer: B,
    start: usize,
    len: usize,
}

impl<B: StableBuffer> Part<B> {
    /// The bytes of `buffer` in `range`, or as many of them as the buffer has: none if the range is
    /// behind its end, or ends before it starts.
    pub fn new(buffer: B, range: Range<usize>) -> Self {
        let start = range.start.min(buffer.byte_len());
        let len = range.end.min(buffer.byte_len()).saturating_sub(start);
        Self { buffer, start, len }
    }

    /// The whole buffer.
    pub fn into_inner(self) -> B {
        self.buffer
    }
}

// SAFETY: a part of a stable buffer is stable. `new` has checked that it is inside.
unsafe impl<B: StableBuffer> StableBuffer for Part<B> {
    fn stable_ptr(&self) -> *const u8 {
        self.buffer.stable_ptr().wrapping_add(self.start)
    }

    fn byte_len(&self) -> usize {
        self.len
    }

    fn registered(&self) -> Option<RegisteredBuffer> {
        self.buffer.registered()
    }
}

// SAFETY: as above.
unsafe impl<B: StableBufferMut> StableBufferMut for Part<B> {
    fn stable_mut_ptr(&mut self) -> *mut u8 {
        self.buffer.stable_mut_ptr().wrapping_add(self.start)
    }
}

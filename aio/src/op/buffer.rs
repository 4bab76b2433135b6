//! Buffers that an operation may own.
#![expect(unsafe_code, reason = "the promise that the memory of a buffer does not move with it")]

use std::rc::Rc;
use std::sync::Arc;

/// A buffer that the kernel can read from while an operation owns it.
///
/// Implemented for the usual owners of bytes. Implement it for your own, such as a range of guest
/// memory that keeps its mapping alive.
///
/// # Safety
/// From the first call of `stable_ptr` until the buffer is dropped, also if the buffer is moved:
/// `byte_len` bytes from `stable_ptr` are valid for reads, and nothing writes to them, unless the
/// writer and the kernel may race (as guest memory that the guest may write to at any time; it must
/// then never be behind a Rust reference). Both methods return the same each time.
pub unsafe trait StableBuffer: 'static {
    /// The first byte.
    fn stable_ptr(&self) -> *const u8;

    /// The length in bytes. All of them are initialised.
    fn byte_len(&self) -> usize;
}

/// A buffer that the kernel can write to while an operation owns it.
///
/// # Safety
/// As for [`StableBuffer`], and the bytes are valid for writes, and nothing else accesses them.
/// The pointer is the one of [`stable_ptr`](StableBuffer::stable_ptr).
pub unsafe trait StableBufferMut: StableBuffer {
    /// The first byte, to write to.
    fn stable_mut_ptr(&mut self) -> *mut u8;
}

macro_rules! on_the_heap {
    ($($owner:ty),*) => {$(
        // SAFETY: the bytes are on the heap or static, and do not move with their owner. Nothing
        // writes to them while it is not borrowed.
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

on_the_heap!(Vec<u8>, Box<[u8]>, Rc<[u8]>, Arc<[u8]>, String, &'static [u8], &'static str, &'static mut [u8]);

macro_rules! exclusive {
    ($($owner:ty),*) => {$(
        // SAFETY: as above; the owner is the only one.
        unsafe impl StableBufferMut for $owner {
            fn stable_mut_ptr(&mut self) -> *mut u8 {
                self.as_mut_ptr()
            }
        }
    )*};
}

exclusive!(Vec<u8>, Box<[u8]>, &'static mut [u8]);

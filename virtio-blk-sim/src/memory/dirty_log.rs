//! The log of dirty pages: a bitmap in which a device records the guest pages that it has written.
#![expect(unsafe_code, reason = "the log is memory shared with another process")]

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

/// Size in bytes of a page of the log (`VHOST_LOG_PAGE`), whatever page size guest or host use.
const LOG_PAGE: u64 = 4096;

/// Pages of a word and of a byte of the log.
const PER_WORD: u64 = u64::BITS as u64;
const PER_BYTE: u64 = u8::BITS as u64;

/// What keeps the memory of a [`DirtyLog`] mapped.
pub trait LogOwner: Send + Sync + 'static {
    /// Returns true if a part of the memory is gone, so that marks may have been lost. Must not
    /// block.
    fn is_lost(&self) -> bool {
        false
    }
}

/// A log of dirty pages (vhost-user specification, "Migration"): bit `n % 8` of byte `n / 8` is
/// page `n` of the guest's physical memory, in pages of 4 KiB.
///
/// Whoever migrates the guest reads and clears bits at any time, and copies the pages whose bits
/// were set. So a page is marked *after* it was written. A mark that came before the write could be
/// taken, and the page copied, while the old content is still there; nobody would copy the new one.
/// The mark is an atomic OR with Release: whoever takes the bit (Acquire) sees what was written. It
/// is done even if the bit is set already, because the reader may be about to clear it.
///
/// May be used from any thread. Nothing blocks.
pub struct DirtyLog {
    /// Invariant: `len` bytes from here are mapped writable while `owner` lives, and the address is
    /// a multiple of 8.
    bits: *mut u8,
    len: usize,
    owner: Arc<dyn LogOwner>,
}

// SAFETY: the pointer refers to memory that `owner` keeps mapped, in any thread, and all accesses
// are atomic. `owner` is Send.
unsafe impl Send for DirtyLog {}
// SAFETY: same as for Send; `owner` is Sync.
unsafe impl Sync for DirtyLog {}

impl DirtyLog {
    /// Uses the `len` bytes at `bits` as a log. Returns `None` if the address is not a multiple of
    /// 8.
    ///
    /// # Safety
    /// The bytes must be mapped readable and writable until `owner` is dropped. During that time
    /// this process must access them only through this object. Another process may access them, if
    /// it changes them atomically.
    pub unsafe fn from_raw(bits: *mut u8, len: usize, owner: Arc<dyn LogOwner>) -> Option<Self> {
        bits.cast::<AtomicU64>().is_aligned().then_some(Self { bits, len, owner })
    }

    /// Returns the size of the log in bytes.
    pub fn len_bytes(&self) -> u64 {
        self.len as u64
    }

    /// Returns true if all pages before the guest address `end` have a bit.
    pub fn covers(&self, end: u64) -> bool {
        end.div_ceil(LOG_PAGE) <= self.pages()
    }

    /// Returns true if marks may have been lost; see [`LogOwner::is_lost`].
    pub fn is_lost(&self) -> bool {
        self.owner.is_lost()
    }

    /// Marks the pages of the `len` bytes at the guest address `addr`. Call it when the bytes have
    /// been written.
    ///
    /// Returns false if the log has no bit for one of the pages. Then no page is marked.
    #[must_use = "false means that pages were not marked"]
    pub fn mark(&self, addr: u64, len: u64) -> bool {
        let Some(span) = len.checked_sub(1) else { return true };
        let Some(last) = addr.checked_add(span).map(|addr| addr / LOG_PAGE) else { return false };
        if last >= self.pages() {
            return false;
        }
        let (mut page, in_words) = (addr / LOG_PAGE, PER_WORD * self.words());
        while page <= last {
            // A word where the log has one, or a byte of the rest. Each byte is always accessed in
            // the same way, so atomics of two sizes never overlap.
            let width = if page < in_words { PER_WORD } else { PER_BYTE };
            let end = last.min(page | (width - 1));
            let ones = u64::MAX >> (PER_WORD - 1 - (end - page));
            let mask = ones << (page % width);
            if width == PER_WORD {
                self.word(page / PER_WORD).fetch_or(mask.to_le(), Ordering::Release);
            } else {
                self.byte(page / PER_BYTE).fetch_or(mask as u8, Ordering::Release);
            }
            page = end + 1;
        }
        true
    }

    fn pages(&self) -> u64 {
        PER_BYTE * self.len as u64
    }

    fn words(&self) -> u64 {
        (self.len / size_of::<u64>()) as u64
    }

    /// `index` must be less than `words()`.
    fn word(&self, index: u64) -> &AtomicU64 {
        debug_assert!(index < self.words());
        let at = self.bits.wrapping_add(size_of::<u64>() * index as usize);
        // SAFETY: the word is inside the mapping and aligned (the invariant of `bits`).
        unsafe { AtomicU64::from_ptr(at.cast()) }
    }

    /// `index` must be less than `len`, and not in a word.
    fn byte(&self, index: u64) -> &AtomicU8 {
        debug_assert!(index < self.len as u64);
        // SAFETY: the byte is inside the mapping (the invariant of `bits`).
        unsafe { AtomicU8::from_ptr(self.bits.wrapping_add(index as usize)) }
    }
}

impl fmt::Debug for DirtyLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DirtyLog").field("bits", &self.bits).field("len", &self.len).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;

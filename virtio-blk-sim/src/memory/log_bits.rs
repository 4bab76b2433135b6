//! A log of dirty pages in memory of a test's own.
#![expect(unsafe_code, reason = "a log in memory of the test's own")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::dirty_log::{DirtyLog, LogOwner};

/// The bits of 256 pages.
#[derive(Default)]
pub(crate) struct LogBits([AtomicU64; 4]);

impl LogOwner for LogBits {}

impl LogBits {
    /// Returns a log that has the first `bytes` bytes of the bits.
    pub(crate) fn log(self: &Arc<Self>, bytes: usize) -> Arc<DirtyLog> {
        assert!(bytes <= size_of::<Self>());
        let owner = Arc::clone(self);
        // SAFETY: the bits are atomics inside the Arc that is the owner, and only accessed as such.
        Arc::new(unsafe { DirtyLog::from_raw(self.0.as_ptr().cast_mut().cast(), bytes, owner) }.unwrap())
    }

    /// Takes the pages.
    pub(crate) fn take(&self) -> Vec<u64> {
        let words = self.0.each_ref().map(|word| u64::from_le(word.swap(0, Ordering::AcqRel)));
        (0..256).filter(|page| words[page / 64] & 1 << (page % 64) != 0).map(|page| page as u64).collect()
    }
}

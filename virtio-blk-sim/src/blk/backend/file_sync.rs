//! Flushes of a file, and what happens after one has failed.
//!
//! When the kernel cannot write a page to the disk, it reports this to one fsync(2) of each open
//! file, and then drops the page's dirty mark. The next fsync(2) succeeds, although the data is not
//! on the disk, and may not even be in the page cache for long. So nothing that a later flush
//! returns can be believed.
//!
//! After a flush has failed, the image counts as failed: every flush, write, discard and write of
//! zeros fails with EIO, whichever queue it comes from, until the image is opened again. Reads go
//! on. A guest then remounts its file system read-only, which can be repaired, instead of going on
//! with data that is lost. Opening the image again does not bring the data back either: check the
//! file system, or restore the disk.
//!
//! A failure is reported to one of the flushes that run at the same time. The others return
//! success, perhaps earlier than the one that failed. So a successful flush is answered when all
//! flushes that overlapped with it have ended, and fails if one of them did.
//!
//! A durable write (write-through) is a write followed by a flush. One that fails in its flush
//! fails the image as well. On a loop's io_uring both are one operation. Its errors count as those
//! of the flush, except for ENOSPC, EDQUOT and EFBIG, which are almost always those of the write. A
//! durable write does not wait for others, so one that overlaps with the first failure may still
//! succeed. With direct I/O a durable write's error concerns only this write, because nothing of it
//! is in the page cache. It does not fail the image.

use std::collections::BTreeSet;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use crate::blk::device::Operation;
use crate::log;

/// Takes the result of a flush, on any thread.
type Answer = Box<dyn FnOnce(io::Result<()>) + Send>;

/// Learns of the first flush that fails, on any thread.
type Hook = Box<dyn Fn(&io::Error) + Send + Sync>;

/// The flushes of one open file, from all queues.
#[derive(Default)]
pub(super) struct Syncs {
    /// Set before any flush that fails, or is affected, is answered. The order relative to other
    /// memory does not matter.
    failed: AtomicBool,
    state: Mutex<State>,
    on_failure: OnceLock<Hook>,
}

#[derive(Default)]
struct State {
    /// The number of the next flush.
    next: u64,
    /// The flushes that the kernel works on.
    open: BTreeSet<u64>,
    /// Flushes that succeeded, while others were open whose numbers are less than `.0`.
    held: Vec<(u64, Answer)>,
}

impl std::fmt::Debug for Syncs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Syncs")
            .field("failed", &self.failed)
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("open", &self.open).field("held", &self.held.len()).finish()
    }
}

/// A flush that the kernel works on. If it is dropped, its result is not known, and others do not
/// wait for it.
#[derive(Debug)]
#[must_use = "end it when the kernel has returned"]
pub(super) struct PendingSync {
    syncs: Arc<Syncs>,
    number: u64,
}

fn lost() -> io::Error {
    io::Error::from_raw_os_error(libc::EIO)
}

impl Syncs {
    /// Sets who learns of the first flush that fails, unless somebody was set before.
    pub(super) fn on_failure(&self, hook: Hook) {
        let _ = self.on_failure.set(hook);
    }

    /// Returns true once a flush has failed.
    pub(super) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    /// Returns an error if the operation is not carried out because a flush has failed.
    pub(super) fn check(&self, operation: &Operation) -> io::Result<()> {
        let refused = !matches!(operation, Operation::In { .. }) && self.failed.load(Ordering::Relaxed);
        if refused { Err(lost()) } else { Ok(()) }
    }

    /// Call it before the kernel gets the flush or the durable write.
    pub(super) fn begin(self: &Arc<Self>) -> PendingSync {
        let mut state = self.state();
        let number = state.next;
        state.next += 1;
        state.open.insert(number);
        PendingSync { syncs: Arc::clone(self), number }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fail(&self, error: &io::Error) {
        if !self.failed.swap(true, Ordering::Relaxed) {
            log::line(format_args!(
                "disk image: a flush failed ({error}), so what was written before may be lost: from now on \
                 every write and flush fails, until the image is opened again"
            ));
            if let Some(hook) = self.on_failure.get() {
                // The request that failed is still to be answered, whatever the hook does.
                let _ = catch_unwind(AssertUnwindSafe(|| hook(error)));
            }
        }
    }

    /// Ends a flush, and answers those that waited for it.
    fn close(&self, number: u64) {
        let (answers, failed): (Vec<Answer>, bool) = {
            let mut state = self.state();
            state.open.remove(&number);
            let failed = self.failed.load(Ordering::Relaxed);
            let oldest = state.open.first().copied().unwrap_or(u64::MAX);
            let ready = state.held.extract_if(.., |(until, _)| failed || *until <= oldest);
            (ready.map(|(_, answer)| answer).collect(), failed)
        };
        for answer in answers {
            answer(if failed { Err(lost()) } else { Ok(()) });
        }
    }
}

impl PendingSync {
    /// Ends a flush. `answer` gets its result now, or later on another thread.
    pub(super) fn end(self, result: io::Result<()>, answer: impl FnOnce(io::Result<()>) + Send + 'static) {
        match result {
            Err(error) => {
                self.syncs.fail(&error);
                answer(Err(error));
            }
            Ok(()) => {
                let mut state = self.syncs.state();
                let until = state.next;
                state.held.push((until, Box::new(answer)));
            }
        }
        // Dropping `self` closes it, and answers it unless it has to wait.
    }

    /// Ends the flush of a durable write, which does not wait for others.
    pub(super) fn end_of_write(self, result: &io::Result<()>) {
        if let Err(error) = result {
            self.syncs.fail(error);
        }
    }
}

impl Drop for PendingSync {
    fn drop(&mut self) {
        self.syncs.close(self.number);
    }
}

#[cfg(test)]
mod tests;

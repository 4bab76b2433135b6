//! The place of an operation while it is in flight.
#![expect(unsafe_code, reason = "borrows the operation in its place for the moment of asking it something")]

use super::Operation;
use super::entry::{Again, Next, RingId, Sealed, outcome};
use super::multishot::MultishotOperation;
use io_uring::squeue;
use std::cell::Cell;
use std::io;

/// Where an operation stays, because the kernel may point there, until its last completion.
pub(crate) struct Place<O>(Cell<Option<O>>);

impl<O> Default for Place<O> {
    fn default() -> Self {
        Self(Cell::new(None))
    }
}

impl<O> Place<O> {
    /// Takes the operation out. The kernel must be done with it.
    pub(crate) fn take(&self) -> Option<O> {
        self.0.take()
    }
}

impl<O: Operation> Place<O> {
    /// Puts an operation here and returns its SQE, for this ring.
    ///
    /// # Safety
    /// The place is empty, and nobody else uses it during this call. If the entry is submitted,
    /// the place must neither be moved nor dropped nor used before the completion was reaped.
    pub(crate) unsafe fn put(&self, operation: O, ring: RingId) -> squeue::Entry {
        // SAFETY: valid as long as `self` is borrowed, and the only reference: code of users that
        // runs in `entry` (of their files and buffers) cannot reach this place.
        let operation = unsafe { (*self.0.as_ptr()).insert(operation) };
        operation.entry(ring, Sealed(())).0
    }

    /// Takes the operation out and makes its output, from the result of its CQE. `None` if there is
    /// no operation here.
    pub(crate) fn finish(&self, result: i32) -> Option<O::Output> {
        self.take().map(|operation| operation.complete(outcome(result), Sealed(())))
    }
}

impl<O: MultishotOperation> Place<O> {
    /// As [`put`](Self::put), until the last completion.
    ///
    /// # Safety
    /// As for `put`; but `item` may be called for each completion.
    pub(crate) unsafe fn put_multishot(&self, operation: O, ring: RingId) -> squeue::Entry {
        // SAFETY: as in `put`.
        let operation = unsafe { (*self.0.as_ptr()).insert(operation) };
        operation.entry(ring, Sealed(())).0
    }

    /// What follows the last completion.
    pub(crate) fn next(&self, result: i32) -> Next {
        self.with(|operation| operation.next(result, Sealed(()))).unwrap_or(Next::End)
    }

    /// The operation waits until it can be started again.
    pub(crate) fn wait(&self, again: &Again) {
        self.with(|operation| operation.wait(again, Sealed(())));
    }

    /// The reason for an end, from the last CQE.
    pub(crate) fn error(result: i32) -> Option<io::Error> {
        outcome(result).err()
    }

    /// The item in a CQE of the operation.
    pub(crate) fn item(&self, result: i32, flags: u32) -> Option<O::Item> {
        self.with(|operation| operation.item(result, flags, Sealed(()))).flatten()
    }

    /// `f` must not call code of users.
    fn with<R>(&self, f: impl FnOnce(&O) -> R) -> Option<R> {
        // SAFETY: valid as long as `self` is borrowed. These methods of this crate's operations
        // call no code of users, so nothing takes the operation out meanwhile.
        let operation = unsafe { (*self.0.as_ptr()).as_ref() };
        operation.map(f)
    }
}

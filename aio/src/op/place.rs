//! The place of an operation while it is in flight.
#![expect(unsafe_code, reason = "borrows the operation in its place for the moment of making its entry")]

use super::Operation;
use super::entry::{RingId, Sealed, outcome};
use io_uring::squeue;
use std::cell::Cell;

/// Where an operation stays, because the kernel may point there, until its completion.
pub(crate) struct Place<O>(Cell<Option<O>>);

impl<O> Default for Place<O> {
    fn default() -> Self {
        Self(Cell::new(None))
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
        self.0.take().map(|operation| operation.complete(outcome(result), Sealed(())))
    }
}

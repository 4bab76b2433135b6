//! An operation whose output somebody awaits.
#![expect(unsafe_code, reason = "submits the entry of an operation, which stays in its place until then")]

use super::operation::{OperationId, ring_with_room};
use super::parts::Owner;
use super::turn::AioContext;
use crate::completion::Completes;
use crate::op::{Operation, Place};
use crate::refused::Refused;
use crate::task::WakerSlot;
use io_uring::cqueue;
use std::cell::Cell;
use std::rc::Rc;
use std::task::{Poll, Waker};

/// An operation in flight, its output until that is taken, and who awaits it.
pub(crate) struct Performing<O: Operation> {
    place: Place<O>,
    output: Cell<Option<O::Output>>,
    is_over: Cell<bool>,
    waiting: WakerSlot,
}

impl<O: Operation> Owner<AioContext> for Performing<O> {
    fn complete(&self, _: &AioContext, _key: usize, result: i32, flags: u32) {
        if cqueue::more(flags) {
            return;
        }
        self.is_over.set(true);
        let output = self.place.finish(result);
        // If nobody awaits it any more, it is dropped with the last reference to this.
        self.output.set(output);
        self.waiting.wake();
    }

    fn discard(&self, _key: usize, result: i32, flags: u32) {
        if !cqueue::more(flags) {
            drop(self.place.finish(result));
        }
    }
}

impl<O: Operation> Performing<O> {
    /// Nobody awaits the output any more. Returns true if the operation was not over.
    pub(crate) fn abandon(&self) -> bool {
        self.waiting.clear();
        !self.is_over.get()
    }

    /// Takes the output. If the operation is not over, `waker` is woken when it is.
    pub(crate) fn poll_output(&self, waker: &Waker) -> Poll<O::Output> {
        if !self.is_over.get() {
            self.waiting.set(waker);
            return Poll::Pending;
        }
        self.waiting.clear();
        match self.output.take() {
            Some(output) => Poll::Ready(output),
            None => panic!("a Perform was polled after it returned the output"),
        }
    }
}

impl AioContext {
    /// Queues an operation that keeps its output. Otherwise as [`start`](Self::start).
    pub(crate) fn start_performing<O: Operation>(
        &self,
        operation: O,
    ) -> Result<(Rc<Performing<O>>, OperationId), Refused<O>> {
        let ring = match ring_with_room(&self.parts, 1) {
            Ok(ring) => ring,
            Err(error) => return Err(Refused { error, value: operation }),
        };
        let performing = Rc::new(Performing {
            place: Place::default(),
            output: Cell::new(None),
            is_over: Cell::new(false),
            waiting: WakerSlot::default(),
        });
        // SAFETY: the place is new, and the ring keeps it until the completion.
        let entry = unsafe { performing.place.put(operation, self.parts.ring_id) };
        let owner = Rc::clone(&performing);
        // SAFETY: what the entry points to is owned by the operation, in its place.
        let token = unsafe { ring.submit(entry, (owner, 0), Completes::Once, &self.parts.sources.stats) };
        Ok((performing, OperationId(token)))
    }
}

//! Operations that found no buffer in their group, and wait to be started again.
//!
//! They queue up. When buffers are free, at most as many operations are started as there are
//! buffers. Those that have data take them. Those that have none stay in the kernel, and the rest
//! of the queue goes on in the next turn, so that no buffer is idle while somebody waits for one.
//! An operation that finds no buffer once more keeps its place in the queue; one that has got a
//! buffer goes to the end. So each of them is served in its turn.

use super::entry::Again;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

/// The queue of one group.
#[derive(Default)]
pub(super) struct Waiting {
    /// By ticket: the lowest is the next.
    queue: RefCell<BTreeMap<u64, Again>>,
    tickets: Cell<u64>,
    /// A turn is going to start some of them.
    pub(super) scheduled: Cell<bool>,
    exhausted: Cell<u64>,
}

impl Waiting {
    pub(super) fn len(&self) -> usize {
        self.queue.borrow().len()
    }

    pub(super) fn exhausted(&self) -> u64 {
        self.exhausted.get()
    }

    pub(super) fn next(&self) -> Option<Again> {
        self.queue.borrow_mut().pop_first().map(|(_, again)| again)
    }

    /// An operation found no buffer. Returns its ticket, which is drawn unless it has one.
    pub(super) fn enter(&self, ticket: Option<u64>, again: Again) -> u64 {
        self.exhausted.set(self.exhausted.get().saturating_add(1));
        let ticket = ticket.unwrap_or_else(|| {
            self.tickets.set(self.tickets.get().wrapping_add(1));
            self.tickets.get()
        });
        self.queue.borrow_mut().insert(ticket, again);
        ticket
    }

    pub(super) fn leave(&self, ticket: u64) {
        self.queue.borrow_mut().remove(&ticket);
    }
}

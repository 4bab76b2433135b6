//! Operations that found no buffer in their group, and wait to be started again.
//!
//! They queue up. When buffers are free, at most as many operations are started as there are
//! buffers. Those that have data take them. Those that have none stay in the kernel, and the rest
//! of the queue goes on in the next turn, so that no buffer is idle while somebody waits for one.
//! An operation that finds no buffer once more keeps its place in the queue; one that has got a
//! buffer goes to the end. So each of them is served in its turn.

use super::entry::Again;
use super::group::{BufferGroup, LentBuffer};
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
}

/// The place of one operation at its group, in the queue or not.
#[derive(Debug)]
pub(super) struct Seat {
    group: BufferGroup,
    /// Drawn when the operation finds no buffer, and kept until it gets one.
    ticket: Cell<Option<u64>>,
}

impl Seat {
    pub(super) fn new(group: &BufferGroup) -> Self {
        Self { group: group.clone(), ticket: Cell::new(None) }
    }

    pub(super) fn group(&self) -> &BufferGroup {
        &self.group
    }

    /// The buffer that a completion of the operation names.
    pub(super) fn lend(&self, id: u16, len: u32) -> LentBuffer {
        self.ticket.set(None);
        self.group.lend(id, len)
    }

    /// The operation found no buffer.
    pub(super) fn wait(&self, again: &Again) {
        let waiting = self.group.waiting_operations();
        waiting.exhausted.set(waiting.exhausted.get().saturating_add(1));
        let ticket = self.ticket.get().unwrap_or_else(|| {
            waiting.tickets.set(waiting.tickets.get().wrapping_add(1));
            waiting.tickets.get()
        });
        self.ticket.set(Some(ticket));
        waiting.queue.borrow_mut().insert(ticket, again.clone());
        // A buffer may have returned meanwhile.
        self.group.serve_later();
    }

    /// The operation has ended.
    pub(super) fn leave(&self) {
        if let Some(ticket) = self.ticket.take() {
            let waiting = self.group.waiting_operations();
            let left = waiting.queue.borrow_mut().remove(&ticket);
            drop(left);
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.leave();
    }
}

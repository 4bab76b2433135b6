//! The place of one operation at its group of buffers.

use super::entry::Again;
use super::group::{BufferGroup, LentBuffer};
use std::cell::Cell;

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
        self.ticket.set(Some(waiting.enter(self.ticket.get(), again.clone())));
        // A buffer may have returned meanwhile.
        self.group.serve_later();
    }

    /// The operation has ended.
    pub(super) fn leave(&self) {
        if let Some(ticket) = self.ticket.take() {
            self.group.waiting_operations().leave(ticket);
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.leave();
    }
}

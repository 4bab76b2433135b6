//! What waits to be sent to a client.

use std::cell::{Cell, RefCell};
use virtio_blk_sim::Waiters;

/// If this much waits for a client, nothing is added.
const MAX_UNSENT: usize = 256 << 10;

/// Lines for one client. An answer is added whatever its size is, but only one of them: the next
/// request is read when nothing waits. So what a client can make the process keep is bounded.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    bytes: RefCell<Vec<u8>>,
    /// Bytes that were taken and are not sent.
    on_the_way: Cell<usize>,
    /// No more is sent.
    is_closed: Cell<bool>,
    changed: Waiters,
}

impl Outbox {
    /// Adds a line. Returns false if too much waits already.
    pub(super) fn push(&self, line: &str) -> bool {
        if self.is_closed.get() {
            return true;
        }
        if self.unsent() > MAX_UNSENT {
            return false;
        }
        self.bytes.borrow_mut().extend_from_slice(line.as_bytes());
        self.changed.wake();
        true
    }

    fn unsent(&self) -> usize {
        self.bytes.borrow().len() + self.on_the_way.get()
    }

    /// Takes everything, or waits for something. `None` at the end.
    pub(super) async fn take(&self) -> Option<Vec<u8>> {
        let look = || {
            if self.is_closed.get() {
                return Some(None);
            }
            let bytes = self.bytes.take();
            self.on_the_way.set(bytes.len());
            (!bytes.is_empty()).then_some(Some(bytes))
        };
        self.changed.until(look).await
    }

    /// What was taken was sent.
    pub(super) fn sent(&self) {
        self.on_the_way.set(0);
        self.changed.wake();
    }

    /// Nothing is sent any more.
    pub(super) fn close(&self) {
        self.is_closed.set(true);
        drop(self.bytes.take());
        self.changed.wake();
    }

    /// Waits until everything is sent, or nothing more can be.
    pub(super) async fn drained(&self) {
        self.changed.until(|| (self.is_closed.get() || self.unsent() == 0).then_some(())).await;
    }
}

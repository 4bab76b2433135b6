//! Whether the process is about to end.

use std::cell::Cell;

use virtio_blk_sim::Waiters;

/// Whether the process is about to end.
#[derive(Debug, Default)]
pub(crate) struct End {
    is_wanted: Cell<bool>,
    /// Nothing is waited for any more.
    is_forced: Cell<bool>,
    waiting: Waiters,
}

impl End {
    pub(crate) fn want(&self) {
        self.is_wanted.set(true);
    }

    pub(crate) fn is_wanted(&self) -> bool {
        self.is_wanted.get()
    }

    pub(crate) fn force(&self) {
        self.want();
        self.is_forced.set(true);
        self.waiting.wake();
    }

    /// Waits until nothing is to be waited for any more.
    pub(crate) async fn forced(&self) {
        self.waiting.until(|| self.is_forced.get().then_some(())).await;
    }
}

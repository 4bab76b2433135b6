//! What other threads hold of a context: wake it, give it work, stop it.

use super::parts::Sent;
use super::shared::Shared;
use super::turn::AioContext;
use crate::bottom_half::{Node, Work};
use crate::sync::Arc as ListArc;
use std::sync::Arc;

/// A context as other threads see it. Cheap to clone. May outlive the context, and then does
/// nothing. Does nothing in a forked child either.
#[derive(Clone, Debug)]
pub struct Handle {
    shared: Arc<Shared<Sent<AioContext>>>,
}

const _: fn() = || {
    fn assert_send_and_sync<T: Send + Sync>() {}
    assert_send_and_sync::<Handle>();
};

impl Handle {
    /// Wakes the loop: a blocking poll returns (perhaps without progress), or the next one does not
    /// block. Any thread; lock-free; at most one write(2), and none if the loop is awake. Seldom
    /// needed: everything that other threads can do to a loop wakes it.
    pub fn notify(&self) {
        self.shared.notify();
    }

    /// Runs a closure once in the home thread, in its next turn or, if many are scheduled, in one
    /// of the next (a turn runs at most 1024). Any thread; never blocks; two allocations.
    ///
    /// Closures of one thread run in the order in which it scheduled them.
    ///
    /// Returns false if the context was dropped before this call (for an
    /// [`IoThread`](crate::IoThread): its loop has ended), or if this is a forked child. Then the
    /// closure has been dropped. If the context is dropped after that, and before the closure's
    /// turn, the closure is dropped without being run.
    pub fn schedule(&self, work: impl FnOnce(&AioContext) + Send + 'static) -> bool {
        if !self.shared.is_alive() {
            return false;
        }
        let node = ListArc::new(Node::new(Work::sent(Box::new(work) as Sent<AioContext>)));
        Node::schedule(&node, &self.shared.bottom_halves);
        self.shared.notify();
        self.shared.drop_if_closed();
        true
    }

    /// Returns true while the context exists. Any thread; it may be dropped just after that.
    pub fn is_alive(&self) -> bool {
        self.shared.is_alive()
    }

    /// Returns true if both lead to the same context.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }

    /// Makes [`AioContext::run`] return after the turn it is in. A request that finds no `run` ends
    /// the next one. Any thread; wakes the loop, as [`notify`](Self::notify), and does not wait.
    pub fn stop(&self) {
        self.shared.request_stop();
    }
}

impl AioContext {
    /// A handle for other threads. No allocation, no system call.
    pub fn handle(&self) -> Handle {
        Handle { shared: Arc::clone(&self.parts.shared) }
    }
}

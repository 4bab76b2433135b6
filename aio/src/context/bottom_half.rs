//! Bottom halves, as users hold them.

use super::parts::{Callback, Deferred, Sent};
use super::shared::Shared;
use super::turn::AioContext;
use crate::bottom_half::{BottomHalves, HalfKey, Node, Work};
use crate::sync::Arc as ListArc;
use std::borrow::Cow;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

type Halves = BottomHalves<Callback<AioContext>, Sent<AioContext>, Deferred<AioContext>>;

/// A bottom half. Dropping it deletes it, and a pending schedule with it.
///
/// Belongs to the home thread; [`handle`](Self::handle) returns a handle for other threads.
#[must_use = "dropping a bottom half deletes it"]
pub struct BottomHalf {
    halves: Rc<Halves>,
    key: HalfKey,
    handle: BottomHalfHandle,
}

impl BottomHalf {
    /// Names the bottom half, for [`AioContext::dump`] and
    /// [`SlowCallback`](crate::SlowCallback). It takes the place of an earlier name.
    #[must_use = "dropping a bottom half deletes it"]
    pub fn named(self, name: impl Into<Cow<'static, str>>) -> Self {
        self.halves.set_name(self.key, name.into());
        self
    }

    /// Runs the callback in the next turn (a nested one, if that comes first). Scheduling it again
    /// before it runs changes nothing. No system call, no allocation.
    pub fn schedule(&self) {
        // The home thread is not asleep: nobody has to be woken, unless an outer loop will sleep.
        Node::schedule(&self.handle.node, &self.handle.shared.bottom_halves);
        self.nudge();
    }

    /// Runs the callback when the loop turns for another reason, or after 10 ms. Such a run is not
    /// progress. No effect if it is scheduled already.
    pub fn schedule_idle(&self) {
        Node::schedule_idle(&self.handle.node, &self.handle.shared.bottom_halves);
        self.nudge();
    }

    /// See [`Agenda::nudge`](crate::agenda::Agenda::nudge).
    #[inline]
    fn nudge(&self) {
        if self.handle.shared.is_outer_sleep() {
            self.halves.nudge();
        }
    }

    /// Cancels a pending schedule. Does nothing if none is pending, and may be called by the
    /// callback itself. No system call.
    pub fn cancel(&self) {
        self.handle.node.cancel();
    }

    /// A handle for other threads. No allocation. It does not keep the bottom half.
    pub fn handle(&self) -> BottomHalfHandle {
        self.handle.clone()
    }
}

impl Drop for BottomHalf {
    fn drop(&mut self) {
        self.handle.node.cancel();
        // Outside of any borrow: the callback's captures may call back into the context.
        drop(self.halves.remove(self.key));
    }
}

impl fmt::Debug for BottomHalf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BottomHalf").field("node", &self.handle.node).finish_non_exhaustive()
    }
}

/// Schedules a [`BottomHalf`] from any thread. Cheap to clone. Does nothing once the bottom half or
/// its context was dropped, nor in a forked child.
#[derive(Clone, Debug)]
pub struct BottomHalfHandle {
    node: ListArc<Node<Work<Sent<AioContext>>>>,
    shared: Arc<Shared<Sent<AioContext>>>,
}

const _: fn() = || {
    fn assert_send_and_sync<T: Send + Sync>() {}
    assert_send_and_sync::<BottomHalfHandle>();
};

impl BottomHalfHandle {
    /// Runs the callback in the home thread's next turn, and wakes the home thread if it sleeps.
    /// Lock-free; at most one write(2), none if the loop is awake. What this thread wrote before is
    /// visible to the callback.
    pub fn schedule(&self) {
        Node::schedule(&self.node, &self.shared.bottom_halves);
        self.shared.notify();
    }

    /// Cancels a pending schedule. A callback that has begun is not stopped. Lock-free; no system
    /// call, and the loop is not woken.
    pub fn cancel(&self) {
        self.node.cancel();
    }
}

impl AioContext {
    /// Makes a bottom half; its callback runs when it is scheduled. No system call. A panic of the
    /// callback unwinds out of [`poll`](Self::poll).
    ///
    /// The callback may turn the loop. If the bottom half is scheduled meanwhile, the callback is
    /// entered again from there; that is why it is `Fn`.
    pub fn bottom_half(&self, callback: impl Fn(&AioContext) + 'static) -> BottomHalf {
        let halves = Rc::clone(&self.parts.bottom_halves);
        let key = halves.create(Rc::new(callback));
        let node = ListArc::new(Node::new(Work::Half(key)));
        BottomHalf { halves, key, handle: BottomHalfHandle { node, shared: Arc::clone(&self.parts.shared) } }
    }

    /// Runs a closure once in the next turn, as QEMU's aio_bh_schedule_oneshot. One allocation, no
    /// system call. Closures and bottom halves run in the order in which this thread scheduled
    /// them. If the context is dropped before that turn, the closure is dropped without being run.
    /// From another thread: [`Handle::schedule`](crate::Handle::schedule).
    pub fn defer(&self, closure: impl FnOnce(&AioContext) + 'static) {
        self.parts.bottom_halves.defer(Box::new(closure));
    }
}

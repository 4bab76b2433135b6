//! The lock-free list on which any thread puts bottom halves, and from which the home thread takes them all.
//!
//! A Treiber stack of reference-counted nodes. A node is on it at most once: the thread that sets PENDING pushes it, and
//! PENDING is cleared by the home thread after the node has left. That is also what makes scheduling coalesce.

use crate::sync::{Arc, AtomicPtr, AtomicU32, Ordering};
use std::ptr;

/// On the list, or taken and about to be looked at.
const PENDING: u32 = 1;
/// To be run. PENDING without it: cancelled.
const SCHEDULED: u32 = 2;
/// Run when the loop runs, but do not wake it: see [`Node::schedule_idle`].
const IDLE: u32 = 4;

/// A bottom half as other threads see it.
#[derive(Debug)]
pub(crate) struct Node<T> {
    state: AtomicU32,
    next: AtomicPtr<Node<T>>,
    pub(crate) value: T,
}

/// What the home thread finds when it dequeues a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    Cancelled,
    Idle,
    Now,
}

impl Due {
    fn of(state: u32) -> Self {
        match (state & SCHEDULED != 0, state & IDLE != 0) {
            (false, _) => Self::Cancelled,
            (true, true) => Self::Idle,
            (true, false) => Self::Now,
        }
    }
}

impl<T> Node<T> {
    pub(crate) fn new(value: T) -> Self {
        Self { state: AtomicU32::new(0), next: AtomicPtr::new(ptr::null_mut()), value }
    }

    /// Schedules the node; puts it on `list` unless it is there. Any thread, lock-free.
    pub(crate) fn schedule(this: &Arc<Self>, list: &List<T>) {
        Self::enlist(this, list, |state| (state | PENDING | SCHEDULED) & !IDLE);
    }

    /// The same as an idle one, unless it is scheduled already.
    pub(crate) fn schedule_idle(this: &Arc<Self>, list: &List<T>) {
        Self::enlist(this, list, |state| {
            if state & SCHEDULED != 0 { state } else { state | PENDING | SCHEDULED | IDLE }
        });
    }

    fn enlist(this: &Arc<Self>, list: &List<T>, change: impl Fn(u32) -> u32) {
        let mut state = this.state.load(Ordering::Relaxed);
        // AcqRel: what this thread wrote before is released to `dequeue`, also when the node is on the list already.
        while let Err(now) =
            this.state.compare_exchange_weak(state, change(state), Ordering::AcqRel, Ordering::Relaxed)
        {
            state = now;
        }
        if state & PENDING == 0 {
            list.push(Arc::clone(this));
        }
    }

    /// Takes the schedule back; the node leaves the list when its turn comes. Any thread.
    pub(crate) fn cancel(&self) {
        self.state.fetch_and(!SCHEDULED, Ordering::AcqRel);
    }

    /// Home thread, after the node has left the list: what to do with it. From here on it can be scheduled anew.
    pub(crate) fn dequeue(&self) -> Due {
        Due::of(self.state.fetch_and(!(PENDING | SCHEDULED | IDLE), Ordering::AcqRel))
    }

    /// What [`dequeue`](Self::dequeue) would say.
    pub(crate) fn due(&self) -> Due {
        Due::of(self.state.load(Ordering::Acquire))
    }
}

/// The head of the stack. Holds one reference to each node on it.
#[derive(Debug)]
pub(crate) struct List<T> {
    head: AtomicPtr<Node<T>>,
}

impl<T> List<T> {
    pub(crate) fn new() -> Self {
        Self { head: AtomicPtr::new(ptr::null_mut()) }
    }

    fn push(&self, node: Arc<Node<T>>) {
        let node = Arc::into_raw(node).cast_mut();
        let mut head = self.head.load(Ordering::Relaxed);
        loop {
            // SAFETY: the reference that `into_raw` gave up keeps the node alive; it is the list's from the exchange on,
            // and until then only this thread can reach `next`, because it is the one that set PENDING.
            unsafe { &*node }.next.store(head, Ordering::Relaxed);
            // Release: publishes `next`; pairs with the acquire of `take` and `peek`.
            match self.head.compare_exchange_weak(head, node, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => head = now,
            }
        }
    }

    /// Home thread: takes every node, and gives each to `each`, the one that was pushed last first.
    pub(crate) fn take(&self, mut each: impl FnMut(Arc<Node<T>>)) {
        if self.is_empty() {
            return;
        }
        let mut node = self.head.swap(ptr::null_mut(), Ordering::Acquire);
        while !node.is_null() {
            // SAFETY: the list's own reference, given up by `push`, taken exactly once by the swap above.
            let owned = unsafe { Arc::from_raw(node) };
            node = owned.next.load(Ordering::Relaxed);
            each(owned);
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.head.load(Ordering::Acquire).is_null()
    }

    /// Home thread: the most urgent node on the list; stops at the first that is due now.
    pub(crate) fn peek(&self) -> Due {
        let mut most = Due::Cancelled;
        let mut node = self.head.load(Ordering::Acquire);
        while !node.is_null() {
            // SAFETY: only the home thread, which we are, takes nodes off; the list's reference keeps each alive.
            let current = unsafe { &*node };
            match current.due() {
                Due::Now => return Due::Now,
                Due::Idle => most = Due::Idle,
                Due::Cancelled => {}
            }
            node = current.next.load(Ordering::Relaxed);
        }
        most
    }
}

impl<T> Drop for List<T> {
    fn drop(&mut self) {
        self.take(drop);
    }
}

#[cfg(all(test, loom))]
mod loom_tests;

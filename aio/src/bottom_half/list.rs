//! The lock-free list that any thread puts bottom halves on, and from which the home thread takes
//! all of them, in the order in which they were put there.
//!
//! A Treiber stack of reference-counted nodes. A node is on it at most once: the thread that sets
//! PENDING pushes it, and the home thread clears PENDING after the node left the list. That is also
//! what makes scheduling coalesce.
#![expect(unsafe_code, reason = "the lock-free list hands references to its nodes through raw pointers")]

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

/// What the home thread finds when it dequeues a node, the least urgent first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
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

    /// Schedules the node, and puts it on `list` unless it is there already. Any thread, lock-free.
    pub(crate) fn schedule(this: &Arc<Self>, list: &List<T>) {
        Self::enlist(this, list, |state| (state | PENDING | SCHEDULED) & !IDLE);
    }

    /// The same, to run when the loop turns anyway. No effect if it is scheduled already.
    pub(crate) fn schedule_idle(this: &Arc<Self>, list: &List<T>) {
        Self::enlist(this, list, |state| {
            if state & SCHEDULED != 0 { state } else { state | PENDING | SCHEDULED | IDLE }
        });
    }

    fn enlist(this: &Arc<Self>, list: &List<T>, change: impl Fn(u32) -> u32) {
        let mut state = this.state.load(Ordering::Relaxed);
        // AcqRel: what this thread wrote before is released to `dequeue`, also if the node is on
        // the list already.
        while let Err(now) =
            this.state.compare_exchange_weak(state, change(state), Ordering::AcqRel, Ordering::Relaxed)
        {
            state = now;
        }
        if state & PENDING == 0 {
            list.push(Arc::clone(this));
        }
    }

    /// Cancels the schedule. The node leaves the list with the next turn. Any thread.
    pub(crate) fn cancel(&self) {
        self.state.fetch_and(!SCHEDULED, Ordering::AcqRel);
    }

    /// Home thread, after the node left the list: what to do with it. It can be scheduled again
    /// from here on.
    pub(crate) fn dequeue(&self) -> Due {
        Due::of(self.state.fetch_and(!(PENDING | SCHEDULED | IDLE), Ordering::AcqRel))
    }

    /// What [`dequeue`](Self::dequeue) would return.
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
            // SAFETY: the reference that `into_raw` gave up keeps the node alive. It belongs to the
            // list from the exchange on; until then only this thread uses `next`, because it set
            // PENDING.
            unsafe { &*node }.next.store(head, Ordering::Relaxed);
            // Release: publishes `next`; pairs with the acquire of `take` and `peek`.
            match self.head.compare_exchange_weak(head, node, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => head = now,
            }
        }
    }

    /// Takes every node and passes each to `each`, in the order in which they were pushed. Any
    /// thread.
    pub(crate) fn take(&self, mut each: impl FnMut(Arc<Node<T>>)) {
        if self.is_empty() {
            return;
        }
        let mut node = reversed(self.head.swap(ptr::null_mut(), Ordering::Acquire));
        while !node.is_null() {
            // SAFETY: the list's own reference, given up by `push`, taken exactly once by the swap
            // above.
            let owned = unsafe { Arc::from_raw(node) };
            node = owned.next.load(Ordering::Relaxed);
            each(owned);
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.head.load(Ordering::Acquire).is_null()
    }

    /// Home thread: how urgent the list is. Stops at the first node that is due now.
    pub(crate) fn peek(&self) -> Due {
        let mut most = Due::Cancelled;
        let mut node = self.head.load(Ordering::Acquire);
        while !node.is_null() {
            // SAFETY: only the home thread, which we are, takes nodes off; the list's reference
            // keeps each alive.
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

/// Turns around a stack that was taken off the list, and returns its new first node.
fn reversed<T>(mut node: *mut Node<T>) -> *mut Node<T> {
    let mut behind = ptr::null_mut();
    while !node.is_null() {
        // SAFETY: whoever took the stack owns its references, and PENDING, which is still set,
        // keeps everybody else from `next`.
        let next = unsafe { &*node }.next.load(Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { &*node }.next.store(behind, Ordering::Relaxed);
        (behind, node) = (node, next);
    }
    behind
}

impl<T> Drop for List<T> {
    fn drop(&mut self) {
        self.take(drop);
    }
}

#[cfg(all(test, loom))]
mod loom_tests;

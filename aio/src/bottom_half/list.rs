//! The lock-free list of scheduled bottom halves. Any thread adds to it; the home thread takes all
//! of them, in the order in which they were added.
//!
//! A Treiber stack of reference-counted nodes. A node is on it at most once: the thread that sets
//! PENDING pushes it, and the home thread clears PENDING after the node left the list. For the same
//! reason, scheduling a node several times runs it once.
#![expect(unsafe_code, reason = "the lock-free list passes references to its nodes as raw pointers")]

use crate::sync::{Arc, AtomicPtr, AtomicU32, Ordering};
use std::ptr;

/// The node is on the list, or was taken and is about to be examined.
const PENDING: u32 = 1;
/// The node is to be run. PENDING without this means cancelled.
const SCHEDULED: u32 = 2;
/// Run it when the loop turns anyway, but do not wake the loop: see [`Node::schedule_idle`].
const IDLE: u32 = 4;

/// A bottom half as other threads see it.
#[derive(Debug)]
pub(crate) struct Node<T> {
    state: AtomicU32,
    next: AtomicPtr<Node<T>>,
    pub(crate) value: T,
}

/// What the home thread finds when it dequeues a node, ordered from least to most urgent.
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

    /// Schedules the node, and adds it to `list` unless it is already there. May be called from any
    /// thread; lock-free.
    pub(crate) fn schedule(this: &Arc<Self>, list: &List<T>) {
        Self::enlist(this, list, |state| (state | PENDING | SCHEDULED) & !IDLE);
    }

    /// Like `schedule`, but does not wake the loop: the node runs when the loop turns anyway. No
    /// effect if it is already scheduled.
    pub(crate) fn schedule_idle(this: &Arc<Self>, list: &List<T>) {
        Self::enlist(this, list, |state| {
            if state & SCHEDULED != 0 { state } else { state | PENDING | SCHEDULED | IDLE }
        });
    }

    fn enlist(this: &Arc<Self>, list: &List<T>, change: impl Fn(u32) -> u32) {
        let mut state = this.state.load(Ordering::Relaxed);
        // AcqRel: this thread's earlier writes are released to `dequeue`, even if the node is
        // already on the list.
        while let Err(now) =
            this.state.compare_exchange_weak(state, change(state), Ordering::AcqRel, Ordering::Relaxed)
        {
            state = now;
        }
        if state & PENDING == 0 {
            list.push(Arc::clone(this));
        }
    }

    /// Cancels the schedule. The next turn removes the node from the list. May be called from any
    /// thread.
    pub(crate) fn cancel(&self) {
        self.state.fetch_and(!SCHEDULED, Ordering::AcqRel);
    }

    /// Called by the home thread after the node left the list. Returns what to do with it. From
    /// here on it can be scheduled again.
    pub(crate) fn dequeue(&self) -> Due {
        Due::of(self.state.fetch_and(!(PENDING | SCHEDULED | IDLE), Ordering::AcqRel))
    }

    /// Returns what [`dequeue`](Self::dequeue) would return, without changing the node.
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
            // SAFETY: the reference released by `into_raw` keeps the node alive. It belongs to the
            // list from the exchange on. Until then only this thread accesses `next`, because it
            // set PENDING.
            unsafe { &*node }.next.store(head, Ordering::Relaxed);
            // Release: publishes `next`; pairs with the acquire of `take` and `peek`.
            match self.head.compare_exchange_weak(head, node, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => head = now,
            }
        }
    }

    /// Takes every node and passes each to `each`, in the order in which they were pushed. May be
    /// called from any thread.
    pub(crate) fn take(&self, mut each: impl FnMut(Arc<Node<T>>)) {
        if self.is_empty() {
            return;
        }
        let mut node = reversed(self.head.swap(ptr::null_mut(), Ordering::Acquire));
        while !node.is_null() {
            // SAFETY: this is the list's own reference, released by `push` and taken exactly once
            // by the swap above.
            let owned = unsafe { Arc::from_raw(node) };
            node = owned.next.load(Ordering::Relaxed);
            each(owned);
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.head.load(Ordering::Acquire).is_null()
    }

    /// Called by the home thread. Returns the most urgent state on the list. Stops at the first
    /// node that is due now.
    pub(crate) fn peek(&self) -> Due {
        let mut most = Due::Cancelled;
        let mut node = self.head.load(Ordering::Acquire);
        while !node.is_null() {
            // SAFETY: only the home thread removes nodes, and this runs on it; the list's reference
            // keeps each node alive.
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

    /// Called by the home thread. Passes every node to `visit`, which must not take from the list.
    /// The last that was pushed comes first.
    pub(crate) fn each(&self, mut visit: impl FnMut(&Node<T>)) {
        let mut node = self.head.load(Ordering::Acquire);
        while !node.is_null() {
            // SAFETY: as in `peek`.
            let current = unsafe { &*node };
            visit(current);
            node = current.next.load(Ordering::Relaxed);
        }
    }
}

/// Reverses a stack that was taken off the list, and returns its new first node.
fn reversed<T>(mut node: *mut Node<T>) -> *mut Node<T> {
    let mut behind = ptr::null_mut();
    while !node.is_null() {
        // SAFETY: the thread that took the stack owns its references. PENDING is still set, so no
        // other thread accesses `next`.
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

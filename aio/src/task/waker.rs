//! What the wakers of a task point to.
//!
//! A wake in the home thread puts the task's slot on the queue of ready tasks: no atomic
//! read-modify-write, no system call. Another thread cannot touch that queue. It puts the node on
//! a lock-free list, the same kind that bottom halves are scheduled with, and makes the loop look
//! at it, which costs one write(2) if the loop sleeps.
#![expect(unsafe_code, reason = "the vtable of a waker whose data pointer is an Arc")]

use super::home::HomeCell;
use crate::agenda::{Agenda, Item};
use crate::bottom_half::{List, Node};
use crate::sync::{Arc, AtomicBool, Ordering, fence};
use std::collections::VecDeque;
use std::fmt;
use std::mem::ManuallyDrop;
use std::rc::Rc;
use std::sync::atomic;
use std::task::{RawWaker, RawWakerVTable, Waker};

/// The node that the wakers of one task share.
pub(crate) type TaskNode = Node<Target>;

/// Where a wake goes.
pub(crate) struct Target {
    pub(super) hub: std::sync::Arc<Hub>,
    pub(super) slot: usize,
    /// The slot is on the queue of ready tasks, or must not be put there any more. Home thread
    /// only.
    pub(super) queued: atomic::AtomicBool,
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Target").field("slot", &self.slot).finish_non_exhaustive()
    }
}

/// What the nodes of one context share.
pub(super) struct Hub {
    pub(super) local: HomeCell<Local>,
    /// Nodes that other threads woke.
    pub(super) woken: List<Target>,
    /// The context was dropped: nobody will take from the list any more.
    closed: AtomicBool,
    /// Makes the loop call [`Tasks::receive`](super::Tasks::receive).
    wake_loop: Box<dyn Fn() + Send + Sync>,
}

/// The home thread's part.
#[derive(Debug, Default)]
pub(super) struct Local {
    /// Slots of ready tasks.
    ready: VecDeque<usize>,
    /// `None` once the context was dropped.
    agenda: Option<Rc<Agenda>>,
}

impl Hub {
    pub(super) fn new(agenda: &Rc<Agenda>, wake_loop: Box<dyn Fn() + Send + Sync>) -> Self {
        let local = Local { ready: VecDeque::new(), agenda: Some(Rc::clone(agenda)) };
        Self { local: HomeCell::new(local), woken: List::new(), closed: AtomicBool::new(false), wake_loop }
    }

    #[inline(always)]
    fn wake(&self, node: &Arc<TaskNode>) {
        match self.local.get() {
            Some(local) => local.borrow_mut().push(&node.value),
            None => self.wake_from_another_thread(node),
        }
    }

    #[cold]
    fn wake_from_another_thread(&self, node: &Arc<TaskNode>) {
        Node::schedule(node, &self.woken);
        (self.wake_loop)();
        // Either this fence comes before the one in `close`, which then finds the node on the list,
        // or `closed` is seen here. A node that stayed on the list would keep itself alive.
        fence(Ordering::SeqCst);
        if self.closed.load(Ordering::Relaxed) {
            self.woken.take(drop);
        }
    }

    /// Home thread: puts a slot on the queue.
    pub(super) fn push(&self, target: &Target) {
        if let Some(local) = self.local.get() {
            local.borrow_mut().push(target);
        }
    }

    /// Home thread: from here on a wake does nothing.
    pub(super) fn close(&self) {
        if let Some(local) = self.local.get() {
            if let Some(agenda) = &local.borrow().agenda {
                agenda.set(Item::Tasks, false);
            }
            local.take();
        }
        self.closed.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        self.woken.take(drop);
    }
}

impl Local {
    #[inline]
    fn push(&mut self, target: &Target) {
        if target.queued.load(Ordering::Relaxed) {
            return;
        }
        let Some(agenda) = &self.agenda else { return };
        target.queued.store(true, Ordering::Relaxed);
        self.ready.push_back(target.slot);
        agenda.set(Item::Tasks, true);
        agenda.nudge();
    }

    /// Takes the first slot off the queue.
    #[inline(always)]
    pub(super) fn pop(&mut self) -> Option<usize> {
        let slot = self.ready.pop_front();
        if self.ready.is_empty()
            && let Some(agenda) = &self.agenda
        {
            agenda.set(Item::Tasks, false);
        }
        slot
    }

    /// How many slots are on the queue.
    #[inline]
    pub(super) fn ready(&self) -> usize {
        self.ready.len()
    }
}

/// A waker of the task that has this node. Can be sent to other threads.
pub(super) fn waker(node: &Arc<TaskNode>) -> Waker {
    // SAFETY: the data pointer owns one reference to the node, as `VTABLE` expects.
    unsafe { Waker::from_raw(raw(Arc::clone(node))) }
}

fn raw(node: Arc<TaskNode>) -> RawWaker {
    RawWaker::new(Arc::into_raw(node).cast(), &VTABLE)
}

/// A static, so that it has one address and `will_wake` recognises two wakers of one task.
static VTABLE: RawWakerVTable = RawWakerVTable::new(
    // SAFETY: here and below, the data pointer comes from `raw` and owns a reference.
    |data| unsafe { raw(Arc::clone(&borrowed(data))) },
    |data| {
        // SAFETY: as above; this call takes the reference over.
        let node = unsafe { Arc::from_raw(data.cast::<TaskNode>()) };
        node.value.hub.wake(&node);
    },
    |data| {
        // SAFETY: as above.
        let node = unsafe { borrowed(data) };
        node.value.hub.wake(&node);
    },
    // SAFETY: as above; this call takes the reference over.
    |data| drop(unsafe { Arc::from_raw(data.cast::<TaskNode>()) }),
);

/// The node of a waker, without a reference of its own.
///
/// # Safety
/// `data` comes from [`raw`], and its reference outlives what this returns.
unsafe fn borrowed(data: *const ()) -> ManuallyDrop<Arc<TaskNode>> {
    // SAFETY: the caller's promise. The reference is not dropped here.
    ManuallyDrop::new(unsafe { Arc::from_raw(data.cast()) })
}

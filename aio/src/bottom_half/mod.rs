//! Bottom halves: callbacks that run in the home thread's next turn, scheduled from anywhere.
//!
//! The home thread moves the shared list to its run queue and works the queue until it is empty. A bottom half that is
//! scheduled meanwhile lands on the list, so it runs in the next turn; a nested poll appends to the same queue and so
//! runs what its parent had left. Their order is not specified.
#![expect(unsafe_code, reason = "the lock-free list hands references to its nodes through raw pointers")]

mod list;

use crate::agenda::{Agenda, Item};
use crate::context::AioContext;
use crate::handle::Shared;
use crate::handler::Callback;
use crate::stats::Counters;
use crate::sync::Arc;
pub(crate) use list::{Due, List, Node};
use slab::Slab;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::rc::Rc;
use std::sync::{Mutex, PoisonError};

/// What a node stands for.
pub(crate) enum Work {
    /// A [`BottomHalf`]: slot and version in the home thread's table, where the callback is.
    Entry { slot: usize, version: u64 },
    /// A closure from another thread, run once.
    Once(Mutex<Option<Box<OnceCallback>>>),
}

pub(crate) type OnceCallback = dyn FnOnce(&AioContext) + Send;

/// A closure of the home thread, run once.
type Deferred = Box<dyn FnOnce(&AioContext)>;

impl fmt::Debug for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Entry { .. } => "Entry",
            Self::Once(_) => "Once",
        })
    }
}

enum Runnable {
    Node(Arc<Node<Work>>),
    Deferred(Deferred),
}

struct Entry {
    version: u64,
    callback: Rc<Callback>,
}

/// The home thread's side.
#[derive(Default)]
pub(crate) struct BottomHalves {
    entries: RefCell<Slab<Entry>>,
    versions: Cell<u64>,
    /// Scheduled by the home thread itself, once, for the next turn.
    deferred: RefCell<VecDeque<Deferred>>,
    /// What this turn (and its nested ones) still has to run.
    queue: RefCell<VecDeque<Runnable>>,
    agenda: Rc<Agenda>,
}

impl fmt::Debug for BottomHalves {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BottomHalves").field("entries", &self.entries.borrow().len()).finish_non_exhaustive()
    }
}

impl BottomHalves {
    pub(crate) fn new(agenda: &Rc<Agenda>) -> Rc<Self> {
        Rc::new(Self { agenda: Rc::clone(agenda), ..Self::default() })
    }

    pub(crate) fn create(
        self: &Rc<Self>,
        shared: &std::sync::Arc<Shared>,
        callback: Rc<Callback>,
    ) -> BottomHalf {
        let version = self.versions.get() + 1;
        self.versions.set(version);
        let slot = self.entries.borrow_mut().insert(Entry { version, callback });
        let node = Arc::new(Node::new(Work::Entry { slot, version }));
        BottomHalf {
            halves: Rc::clone(self),
            handle: BottomHalfHandle { node, shared: std::sync::Arc::clone(shared) },
        }
    }

    pub(crate) fn defer(&self, callback: Deferred) {
        self.deferred.borrow_mut().push_back(callback);
        self.agenda.set(Item::BottomHalves, true);
    }

    /// How soon the next turn has to look here.
    pub(crate) fn due(&self, list: &List<Work>) -> Due {
        if !self.deferred.borrow().is_empty() {
            return Due::Now;
        }
        let mut most = list.peek();
        for runnable in &*self.queue.borrow() {
            match (runnable, most) {
                (_, Due::Now) => break,
                (Runnable::Deferred(_), _) => most = Due::Now,
                (Runnable::Node(node), Due::Cancelled) => most = node.due(),
                (Runnable::Node(node), Due::Idle) if node.due() == Due::Now => most = Due::Now,
                _ => {}
            }
        }
        most
    }

    /// Runs everything that was scheduled before this call. True if one of them was not idle.
    #[inline(never)]
    pub(crate) fn run(&self, context: &AioContext, list: &List<Work>, stats: &Counters) -> bool {
        self.agenda.set(Item::BottomHalves, true);
        {
            let mut queue = self.queue.borrow_mut();
            list.take(|node| queue.push_back(Runnable::Node(node)));
            queue.extend(self.deferred.borrow_mut().drain(..).map(Runnable::Deferred));
        }
        let mut progress = false;
        loop {
            let Some(runnable) = self.queue.borrow_mut().pop_front() else {
                self.agenda.set(Item::BottomHalves, !self.deferred.borrow().is_empty());
                return progress;
            };
            let node = match runnable {
                Runnable::Deferred(callback) => {
                    stats.bottom_halves.bump();
                    progress = true;
                    callback(context);
                    continue;
                }
                Runnable::Node(node) => node,
            };
            let due = node.dequeue();
            if due == Due::Cancelled {
                continue;
            }
            match &node.value {
                Work::Entry { slot, version } => {
                    let entries = self.entries.borrow();
                    let entry = entries.get(*slot).filter(|e| e.version == *version);
                    let Some(callback) = entry.map(|e| Rc::clone(&e.callback)) else {
                        continue;
                    };
                    drop(entries);
                    stats.bottom_halves.bump();
                    callback(context);
                }
                Work::Once(cell) => {
                    let callback = cell.lock().unwrap_or_else(PoisonError::into_inner).take();
                    let Some(callback) = callback else { continue };
                    stats.bottom_halves.bump();
                    callback(context);
                }
            }
            progress |= due == Due::Now;
        }
    }

    /// Drops every callback, outside of any borrow.
    pub(crate) fn clear(&self) {
        let gone = (self.entries.take(), self.deferred.take(), self.queue.take());
        drop(gone);
    }
}

/// A bottom half. Dropping it deletes it: a schedule that is pending is void.
///
/// This one belongs to the home thread; [`handle`](Self::handle) gives one for other threads.
#[must_use = "dropping a bottom half deletes it"]
pub struct BottomHalf {
    halves: Rc<BottomHalves>,
    handle: BottomHalfHandle,
}

impl BottomHalf {
    /// Runs the callback in the next turn (a nested one, if that comes first). Scheduling it again before it runs changes
    /// nothing. No system call, no allocation.
    pub fn schedule(&self) {
        // The home thread is not asleep: nobody has to be woken.
        Node::schedule(&self.handle.node, &self.handle.shared.bottom_halves);
    }

    /// Runs the callback when the loop turns for another reason, or after 10 ms. Such a run is not progress. No effect
    /// if it is scheduled already.
    pub fn schedule_idle(&self) {
        Node::schedule_idle(&self.handle.node, &self.handle.shared.bottom_halves);
    }

    /// Takes a pending schedule back.
    pub fn cancel(&self) {
        self.handle.node.cancel();
    }

    /// A handle for other threads.
    pub fn handle(&self) -> BottomHalfHandle {
        self.handle.clone()
    }
}

impl Drop for BottomHalf {
    fn drop(&mut self) {
        self.handle.node.cancel();
        if let Work::Entry { slot, version } = self.handle.node.value {
            let mut entries = self.halves.entries.borrow_mut();
            if entries.get(slot).is_some_and(|e| e.version == version) {
                let entry = entries.remove(slot);
                drop(entries);
                // The callback's captures may call back into the context.
                drop(entry);
            }
        }
    }
}

impl fmt::Debug for BottomHalf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BottomHalf").field("node", &self.handle.node).finish_non_exhaustive()
    }
}

/// Schedules a [`BottomHalf`] from any thread. Does nothing once the bottom half or its context is gone.
#[derive(Clone, Debug)]
pub struct BottomHalfHandle {
    node: Arc<Node<Work>>,
    shared: std::sync::Arc<Shared>,
}

impl BottomHalfHandle {
    /// Runs the callback in the home thread's next turn, and wakes the home thread if it sleeps. Lock-free; at most one
    /// write(2), none if the loop is awake. What this thread wrote before is visible to the callback.
    pub fn schedule(&self) {
        Node::schedule(&self.node, &self.shared.bottom_halves);
        self.shared.notify();
    }

    /// Takes a pending schedule back. A callback that has begun is not stopped.
    pub fn cancel(&self) {
        self.node.cancel();
    }
}

//! The table of tasks, and the queue of those that are ready.

use super::spawned::{Outcome, Run};
use super::waker::{Hub, Target, TaskNode, waker};
use crate::agenda::Agenda;
use crate::bottom_half::Node;
use crate::sync::Arc;
use std::any::Any;
use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Waker;

/// A turn polls as many tasks as were ready when it came to them, but no more than this.
const MOST_PER_TURN: usize = 1024;
/// If fewer were ready, it also polls those that become ready meanwhile, until it has made so many
/// polls.
const CHAINED_PER_TURN: usize = 64;

/// The tasks of one context. Home thread.
pub(crate) struct Tasks {
    hub: std::sync::Arc<Hub>,
    table: RefCell<Table>,
}

#[derive(Default)]
struct Table {
    slots: Vec<Slot>,
    free: Vec<usize>,
    closed: bool,
}

/// One task, or room for one.
struct Slot {
    /// `None` if the node of the last task was left to the wakers that still have it.
    node: Option<Arc<TaskNode>>,
    /// The waker that the task is polled with. Whoever polls it has taken it out of here.
    waker: Option<Waker>,
    task: Option<Rc<dyn Run>>,
    /// The task was woken while it is being polled, and came to the front of the queue in a nested
    /// turn.
    again: bool,
}

/// A task that was taken off the queue, to be polled.
pub(crate) struct Runnable {
    slot: usize,
    task: Rc<dyn Run>,
    waker: Waker,
}

impl Runnable {
    /// Polls the future: runs user code, and catches its panics. Must be followed by
    /// [`Tasks::put_back`].
    pub(crate) fn run(&self) -> Outcome {
        self.task.run(&self.waker)
    }
}

/// A task's place in the table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ticket(usize);

impl Tasks {
    /// `wake_loop` is called by other threads after they woke a task. It makes the home thread call
    /// [`receive`](Self::receive), and keeps it from sleeping before.
    pub(crate) fn new(agenda: &Rc<Agenda>, wake_loop: Box<dyn Fn() + Send + Sync>) -> Rc<Self> {
        Rc::new(Self { hub: std::sync::Arc::new(Hub::new(agenda, wake_loop)), table: RefCell::default() })
    }

    /// Adds a task, which is to be polled once it is woken. `None`, and the caller cancels it, if
    /// the context was dropped.
    pub(crate) fn insert(&self, task: Rc<dyn Run>) -> Option<Ticket> {
        let mut table = self.table.borrow_mut();
        if table.closed {
            return None;
        }
        let slot = table.free.pop().unwrap_or(table.slots.len());
        if slot == table.slots.len() {
            table.slots.push(Slot { node: None, waker: None, task: None, again: false });
        }
        let entry = table.slots.get_mut(slot)?;
        if entry.node.is_none() {
            let hub = std::sync::Arc::clone(&self.hub);
            let node = Arc::new(Node::new(Target { hub, slot, queued: AtomicBool::new(false) }));
            entry.waker = Some(waker(&node));
            entry.node = Some(node);
        }
        entry.task = Some(task);
        Some(Ticket(slot))
    }

    /// Makes a task ready that was not finished.
    pub(crate) fn wake(&self, ticket: Ticket) {
        if let Some(node) = self.table.borrow().slots.get(ticket.0).and_then(|slot| slot.node.as_ref()) {
            self.hub.push(&node.value);
        }
    }

    /// A waker of a task that was not finished.
    pub(crate) fn waker(&self, ticket: Ticket) -> Option<Waker> {
        self.table.borrow().slots.get(ticket.0).and_then(|slot| slot.node.as_ref()).map(waker)
    }

    /// A turn begins to poll tasks. Returns how many polls it may make.
    pub(crate) fn begin(&self) -> usize {
        self.hub.ready().clamp(CHAINED_PER_TURN, MOST_PER_TURN)
    }

    /// The next task to poll.
    pub(crate) fn next(&self) -> Option<Runnable> {
        loop {
            let slot = self.hub.pop()?;
            let mut table = self.table.borrow_mut();
            let Some(entry) = table.slots.get_mut(slot) else { continue };
            let Some(task) = &entry.task else {
                entry.unqueue();
                continue;
            };
            match entry.waker.take() {
                Some(waker) => {
                    let task = Rc::clone(task);
                    entry.unqueue();
                    return Some(Runnable { slot, task, waker });
                }
                // It stays marked as queued, so this happens once in a poll.
                None => entry.again = true,
            }
        }
    }

    /// After a task was polled. Returns the payload of a panic that is to go on.
    pub(crate) fn put_back(&self, runnable: Runnable, outcome: Outcome) -> Option<Box<dyn Any + Send>> {
        let Runnable { slot, task, waker } = runnable;
        let mut table = self.table.borrow_mut();
        let entry = table.slots.get_mut(slot)?;
        entry.waker = Some(waker);
        let again = std::mem::take(&mut entry.again);
        if again {
            entry.unqueue();
        }
        match outcome {
            Outcome::Pending => {
                if again && let Some(node) = &entry.node {
                    self.hub.push(&node.value);
                }
                None
            }
            Outcome::Finished(payload) => {
                let last = table.vacate(slot);
                drop(table);
                // The future is gone already, so no user code runs here.
                drop((task, last));
                payload
            }
        }
    }

    /// Takes a task out that is not being polled.
    pub(crate) fn remove(&self, ticket: Ticket) -> Option<Rc<dyn Run>> {
        self.table.borrow_mut().vacate(ticket.0)
    }

    /// Makes ready what other threads have woken.
    pub(crate) fn receive(&self) {
        self.hub.woken.take(|node| {
            // From here on it can be woken again, and the poll that follows sees what the waking
            // thread wrote before.
            node.dequeue();
            self.hub.push(&node.value);
        });
    }

    /// The context is dropped: takes the tasks out, for the caller to cancel. Those that are being
    /// polled further up the stack stay until they return. From here on none can be added.
    pub(crate) fn close(&self) -> Vec<Rc<dyn Run>> {
        self.hub.close();
        let mut table = self.table.borrow_mut();
        table.closed = true;
        let mut tasks = Vec::new();
        for slot in 0..table.slots.len() {
            let Some(entry) = table.slots.get(slot) else { continue };
            if entry.waker.is_some() {
                tasks.extend(table.vacate(slot));
            } else {
                tasks.extend(entry.task.clone());
            }
        }
        tasks
    }
}

impl Table {
    /// Empties a slot.
    fn vacate(&mut self, slot: usize) -> Option<Rc<dyn Run>> {
        let entry = self.slots.get_mut(slot)?;
        let task = entry.task.take()?;
        if let Some(node) = &entry.node
            && Arc::strong_count(node) > 2
        {
            // A waker of this task is still somewhere, or on its way from another thread. It keeps
            // the node, which wakes nobody from here on.
            node.value.queued.store(true, Ordering::Relaxed);
            (entry.node, entry.waker) = (None, None);
        }
        if self.closed {
            (entry.node, entry.waker) = (None, None);
        }
        self.free.push(slot);
        Some(task)
    }
}

impl Slot {
    fn unqueue(&self) {
        if let Some(node) = &self.node {
            node.value.queued.store(false, Ordering::Relaxed);
        }
    }
}

impl fmt::Debug for Tasks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let table = self.table.borrow();
        f.debug_struct("Tasks")
            .field("tasks", &(table.slots.len() - table.free.len()))
            .finish_non_exhaustive()
    }
}

//! The table of tasks, and the queue of those that are ready.

use super::spawned::{Outcome, Run, Standing};
use super::waker::{Hub, Local, Target, TaskNode, waker};
use crate::agenda::Agenda;
use crate::bottom_half::{Due, Node};
use crate::profile::{Record, Slot as RecordSlot};
use crate::sync::Arc;
use std::any::Any;
use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::BTreeMap;
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
    /// Of tasks that have a name or were observed, by slot.
    records: BTreeMap<usize, Recorded>,
    closed: bool,
}

/// One task, or room for one.
#[derive(Default)]
struct Slot {
    /// `None` if the node of the last task was left to the wakers that still have it.
    node: Option<Arc<TaskNode>>,
    /// For the next task.
    waker: Option<Waker>,
    task: Option<Rc<dyn Run>>,
}

/// The name of a task, and what was counted for it.
struct Recorded {
    record: RecordSlot,
    /// A reference of its own, so that `vacate` need not look for a record as long as nobody else
    /// has the node.
    _node: Arc<TaskNode>,
}

/// A task that was taken off the queue, to be polled.
pub(crate) struct Runnable {
    slot: usize,
    task: Rc<dyn Run>,
}

impl Runnable {
    /// Polls the future: runs user code, and catches its panics. To be followed by
    /// [`Tasks::polled`].
    #[inline(always)]
    pub(crate) fn run(&self) -> Outcome {
        self.task.run()
    }

    /// See [`Run::standing`].
    pub(crate) fn standing(&self) -> Option<Standing> {
        self.task.standing()
    }
}

/// Tasks are being polled. Which thread this is was asked once, at the beginning.
pub(crate) struct Phase<'a> {
    tasks: &'a Tasks,
    local: &'a RefCell<Local>,
}

impl Phase<'_> {
    /// How many polls a turn may make that begins now.
    #[inline(always)]
    pub(crate) fn most(&self) -> usize {
        self.local.borrow().ready().clamp(CHAINED_PER_TURN, MOST_PER_TURN)
    }

    /// The next task to poll. `Item::Tasks` is set as long as there may be one.
    #[inline(always)]
    pub(crate) fn next(&self) -> Option<Runnable> {
        loop {
            let slot = self.local.borrow_mut().pop()?;
            let table = self.tasks.table.borrow();
            let Some(entry) = table.slots.get(slot) else { continue };
            if let Some(node) = &entry.node {
                node.value.queued.store(false, Ordering::Relaxed);
            }
            if let Some(task) = &entry.task {
                return Some(Runnable { slot, task: Rc::clone(task) });
            }
        }
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

    /// A place for a task, and the waker that it is to be polled with. `None` if the context was
    /// dropped.
    pub(crate) fn reserve(&self) -> Option<(Ticket, Waker)> {
        let mut table = self.table.borrow_mut();
        if table.closed {
            return None;
        }
        let slot = table.free.pop().unwrap_or(table.slots.len());
        if slot == table.slots.len() {
            table.slots.push(Slot::default());
        }
        let entry = table.slots.get_mut(slot)?;
        let waker = entry.waker.take().unwrap_or_else(|| {
            let hub = std::sync::Arc::clone(&self.hub);
            let node = Arc::new(Node::new(Target { hub, slot, queued: AtomicBool::new(false) }));
            waker(entry.node.insert(node))
        });
        Some((Ticket(slot), waker))
    }

    /// Puts a task into its place. It is polled once it is woken.
    pub(crate) fn put(&self, ticket: Ticket, task: Rc<dyn Run>) {
        if let Some(entry) = self.table.borrow_mut().slots.get_mut(ticket.0) {
            entry.task = Some(task);
        }
    }

    /// Makes a task ready that was not finished.
    pub(crate) fn wake(&self, ticket: Ticket) {
        if let Some(node) = self.table.borrow().slots.get(ticket.0).and_then(|slot| slot.node.as_ref()) {
            self.hub.push(&node.value);
        }
    }

    /// Begins to poll tasks. `None` in a thread that is not the home thread.
    #[inline(always)]
    pub(crate) fn begin(&self) -> Option<Phase<'_>> {
        Some(Phase { tasks: self, local: self.hub.local.get()? })
    }

    /// After a task was polled. Returns the payload of a panic that is to go on.
    #[inline(always)]
    pub(crate) fn polled(&self, runnable: &Runnable, outcome: Outcome) -> Option<Box<dyn Any + Send>> {
        match outcome {
            Outcome::Pending => None,
            Outcome::Again => {
                self.wake(Ticket(runnable.slot));
                None
            }
            Outcome::Finished(payload) => {
                drop(self.remove(Ticket(runnable.slot)));
                payload
            }
        }
    }

    /// Takes a task out that is over or was never polled. Its place is free, unless that has
    /// happened already.
    pub(crate) fn remove(&self, ticket: Ticket) -> Option<Rc<dyn Run>> {
        self.table.borrow_mut().vacate(ticket.0)
    }

    /// Names a task that is not over. No effect if the context was dropped.
    pub(crate) fn set_name(&self, ticket: Ticket, name: Cow<'static, str>) {
        if let Some(record) = self.table.borrow_mut().record(ticket.0) {
            record.set_name(name);
        }
    }

    /// The record of a task that is to be polled; `None` if it is no task of the user.
    pub(crate) fn record(&self, runnable: &Runnable) -> Option<Rc<Record>> {
        runnable.standing()?;
        Some(self.table.borrow_mut().record(runnable.slot)?.get_or_make())
    }

    /// Calls `visit` with every task.
    pub(crate) fn each(&self, mut visit: impl FnMut(&RecordSlot, Standing)) {
        let (table, unrecorded) = (&*self.table.borrow(), RecordSlot::default());
        for (slot, entry) in table.slots.iter().enumerate() {
            let (Some(task), Some(node)) = (&entry.task, &entry.node) else { continue };
            let is_woken = node.value.queued.load(Ordering::Relaxed) || node.due() == Due::Now;
            let standing = match task.standing() {
                Some(Standing::Waiting) if is_woken => Standing::Ready,
                Some(standing) => standing,
                None => continue,
            };
            visit(table.records.get(&slot).map_or(&unrecorded, |recorded| &recorded.record), standing);
        }
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

    /// The context is dropped: takes the tasks out, for the caller to cancel. From here on none can
    /// be added.
    pub(crate) fn close(&self) -> Vec<Rc<dyn Run>> {
        self.hub.close();
        let mut table = self.table.borrow_mut();
        table.closed = true;
        let slots = std::mem::take(&mut table.slots);
        table.free.clear();
        table.records.clear();
        slots.into_iter().filter_map(|slot| slot.task).collect()
    }
}

impl Table {
    /// The record of the task in a slot, which is made if there is none.
    fn record(&mut self, slot: usize) -> Option<&RecordSlot> {
        let node = self.slots.get(slot)?.node.as_ref()?;
        let recorded = self
            .records
            .entry(slot)
            .or_insert_with(|| Recorded { record: RecordSlot::default(), _node: Arc::clone(node) });
        Some(&recorded.record)
    }

    /// Empties a slot.
    fn vacate(&mut self, slot: usize) -> Option<Rc<dyn Run>> {
        let entry = self.slots.get_mut(slot)?;
        let task = entry.task.take()?;
        entry.waker = task.take_waker();
        if let Some(node) = &entry.node
            && Arc::strong_count(node) > 2
        {
            drop(self.records.remove(&slot));
            if Arc::strong_count(node) > 2 {
                // A waker of this task is still somewhere, or on its way from another thread. It
                // keeps the node, which wakes nobody from here on.
                node.value.queued.store(true, Ordering::Relaxed);
                (entry.node, entry.waker) = (None, None);
            }
        }
        self.free.push(slot);
        Some(task)
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

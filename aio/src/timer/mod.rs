//! Timers with nanosecond deadlines on two clocks: real time, and a virtual one that an emulator stops and steps.
//!
//! Armed timers sit in one indexed heap for each clock. A turn takes the clock once, moves what has expired to a queue,
//! and runs the queue; so a callback that arms its timer in the past runs again in the *next* turn, and a nested poll
//! runs what its parent had left. The nearest deadline is the timeout of the loop's own wait: no timerfd, no system call.

mod heap;

use crate::agenda::{Agenda, Item};
use crate::context::AioContext;
use crate::handler::Callback;
use crate::stats::Counters;
use crate::sys::{TimeoutNs, monotonic_ns};
use heap::{Deadline, Heap};
use slab::Slab;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

/// What a deadline is measured against. Nanoseconds since an unspecified start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Clock {
    /// CLOCK_MONOTONIC of the host.
    Realtime,
    /// The context's [`VirtualClock`].
    Virtual,
}

/// Where a timer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Idle,
    /// In its clock's heap, at this index.
    Armed(u32),
    /// Expired, in the queue.
    Due,
}

struct Entry {
    version: u64,
    clock: Clock,
    place: Place,
    /// Valid unless idle.
    at_ns: u64,
    /// When it was armed; names this arming in the queue.
    order: u64,
    callback: Rc<Callback>,
}

#[derive(Default)]
struct Tables {
    entries: Slab<Entry>,
    realtime: Heap,
    virtual_: Heap,
    orders: u64,
    versions: u64,
}

impl Tables {
    fn heap(&mut self, clock: Clock) -> (&mut Heap, &mut Slab<Entry>) {
        match clock {
            Clock::Realtime => (&mut self.realtime, &mut self.entries),
            Clock::Virtual => (&mut self.virtual_, &mut self.entries),
        }
    }

    fn arm(&mut self, slot: usize, at_ns: u64) {
        self.orders += 1;
        let order = self.orders;
        let Some(entry) = self.entries.get_mut(slot) else {
            return;
        };
        let (clock, place) = (entry.clock, entry.place);
        (entry.at_ns, entry.order) = (at_ns, order);
        let (heap, entries) = self.heap(clock);
        let member = Deadline { at_ns, order, slot: slot as u32 };
        match place {
            Place::Armed(index) => heap.change(index, member, |slot, index| put(entries, slot, index)),
            Place::Idle | Place::Due => heap.push(member, |slot, index| put(entries, slot, index)),
        }
    }

    fn cancel(&mut self, slot: usize) {
        let Some(entry) = self.entries.get_mut(slot) else {
            return;
        };
        let (clock, place) = (entry.clock, std::mem::replace(&mut entry.place, Place::Idle));
        if let Place::Armed(index) = place {
            let (heap, entries) = self.heap(clock);
            heap.remove(index, |slot, index| put(entries, slot, index));
        }
    }

    /// Moves what has expired at `now_ns` from a heap to `due`.
    fn expire(&mut self, clock: Clock, now_ns: u64, due: &mut VecDeque<(u32, u64)>) {
        let (heap, entries) = self.heap(clock);
        while let Some(first) = heap.first().filter(|d| d.at_ns <= now_ns).copied() {
            heap.remove(0, |slot, index| put(entries, slot, index));
            if let Some(entry) = entries.get_mut(first.slot as usize) {
                entry.place = Place::Due;
            }
            due.push_back((first.slot, first.order));
        }
    }
}

fn put(entries: &mut Slab<Entry>, slot: u32, index: u32) {
    if let Some(entry) = entries.get_mut(slot as usize) {
        entry.place = Place::Armed(index);
    }
}

/// The timers of one context.
#[derive(Default)]
pub(crate) struct Timers {
    tables: RefCell<Tables>,
    /// Expired and not yet run: slot and order of arming.
    due: RefCell<VecDeque<(u32, u64)>>,
    pub(crate) virtual_clock: VirtualClock,
    agenda: Rc<Agenda>,
}

impl fmt::Debug for Timers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Timers").field("timers", &self.tables.borrow().entries.len()).finish_non_exhaustive()
    }
}

impl Timers {
    pub(crate) fn new(agenda: &Rc<Agenda>) -> Rc<Self> {
        Rc::new(Self { agenda: Rc::clone(agenda), ..Self::default() })
    }

    pub(crate) fn create(self: &Rc<Self>, clock: Clock, callback: Rc<Callback>) -> Timer {
        let mut tables = self.tables.borrow_mut();
        tables.versions += 1;
        let version = tables.versions;
        let slot =
            tables.entries.insert(Entry { version, clock, place: Place::Idle, at_ns: 0, order: 0, callback });
        Timer { timers: Rc::clone(self), slot, version, clock }
    }

    /// Nanoseconds to the nearest deadline of a clock that runs; 0 if one has passed.
    pub(crate) fn timeout(&self) -> TimeoutNs {
        let tables = self.tables.borrow();
        if !self.due.borrow().is_empty() {
            return Some(0);
        }
        self.agenda.set(Item::Timers, tables.realtime.first().is_some() || tables.virtual_.first().is_some());
        let left = |heap: &Heap, now: &dyn Fn() -> u64| heap.first().map(|d| d.at_ns.saturating_sub(now()));
        let realtime = left(&tables.realtime, &monotonic_ns);
        let virtual_ = left(&tables.virtual_, &|| self.virtual_clock.now_ns())
            // A stopped clock gets nowhere; what it has passed already is due all the same.
            .filter(|ns| *ns == 0 || self.virtual_clock.is_running());
        match (realtime, virtual_) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// Runs what has expired. True if anything ran.
    #[inline(never)]
    pub(crate) fn run(&self, context: &AioContext, stats: &Counters) -> bool {
        {
            let mut tables = self.tables.borrow_mut();
            let mut due = self.due.borrow_mut();
            if tables.realtime.first().is_some() {
                tables.expire(Clock::Realtime, monotonic_ns(), &mut due);
            }
            if tables.virtual_.first().is_some() {
                tables.expire(Clock::Virtual, self.virtual_clock.now_ns(), &mut due);
            }
        }
        let mut progress = false;
        loop {
            let Some((slot, order)) = self.due.borrow_mut().pop_front() else {
                return progress;
            };
            let mut tables = self.tables.borrow_mut();
            // Cancelled, dropped or armed anew since it expired: this arming is void.
            let entry = tables.entries.get_mut(slot as usize);
            let Some(entry) = entry.filter(|e| e.place == Place::Due && e.order == order) else {
                continue;
            };
            entry.place = Place::Idle;
            let callback = Rc::clone(&entry.callback);
            drop(tables);
            stats.timers.bump();
            progress = true;
            callback(context);
        }
    }

    /// Drops every callback, outside of any borrow.
    pub(crate) fn clear(&self) {
        self.due.borrow_mut().clear();
        let tables = self.tables.take();
        drop(tables);
    }
}

/// A timer; idle until it is armed. Dropping it disarms it. Home thread.
///
/// Arming and cancelling are O(log n) in the armed timers, allocate nothing once as many timers have been armed, and make
/// no system call. Deadlines are honoured to the nanosecond as far as the kernel's timers go: see
/// [`Builder::timer_slack_ns`](crate::Builder::timer_slack_ns).
#[must_use = "dropping a timer disarms it"]
pub struct Timer {
    timers: Rc<Timers>,
    slot: usize,
    version: u64,
    clock: Clock,
}

impl Timer {
    /// Arms the timer for `at_ns` of its clock, in place of any deadline it had. A deadline that has passed runs it in
    /// the next turn; inside its own callback that is not the turn that runs it now.
    pub fn arm_at(&self, at_ns: u64) {
        self.timers.agenda.set(Item::Timers, true);
        self.with(|tables| tables.arm(self.slot, at_ns));
    }

    /// Arms the timer for a time from now. Deadlines beyond 584 years are at the end of time.
    pub fn arm_after(&self, delay: Duration) {
        let delay_ns = u64::try_from(delay.as_nanos()).unwrap_or(u64::MAX);
        self.arm_at(self.now_ns().saturating_add(delay_ns));
    }

    /// Arms the timer for `at_ns` unless it is armed for an earlier time (QEMU's mod_anticipate).
    pub fn anticipate_at(&self, at_ns: u64) {
        if self.deadline_ns().is_none_or(|armed| at_ns < armed) {
            self.arm_at(at_ns);
        }
    }

    /// Disarms the timer: its callback does not run, even if it has expired in this very turn.
    pub fn cancel(&self) {
        self.with(|tables| tables.cancel(self.slot));
    }

    /// True from arming until the callback begins.
    pub fn is_pending(&self) -> bool {
        self.deadline_ns().is_some()
    }

    /// When the timer runs, on its clock; `None` if it is not armed.
    pub fn deadline_ns(&self) -> Option<u64> {
        let tables = self.timers.tables.borrow();
        let entry = tables.entries.get(self.slot).filter(|e| e.version == self.version)?;
        (entry.place != Place::Idle).then_some(entry.at_ns)
    }

    /// The time of the timer's clock.
    pub fn now_ns(&self) -> u64 {
        match self.clock {
            Clock::Realtime => monotonic_ns(),
            Clock::Virtual => self.timers.virtual_clock.now_ns(),
        }
    }

    /// Does nothing once the context has been dropped.
    fn with(&self, change: impl FnOnce(&mut Tables)) {
        let mut tables = self.timers.tables.borrow_mut();
        if tables.entries.get(self.slot).is_some_and(|e| e.version == self.version) {
            change(&mut tables);
        }
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        let mut gone = None;
        self.with(|tables| {
            tables.cancel(self.slot);
            gone = Some(tables.entries.remove(self.slot));
        });
        // The callback's captures may call back into the context.
        drop(gone);
    }
}

impl fmt::Debug for Timer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Timer").field("clock", &self.clock).field("deadline_ns", &self.deadline_ns()).finish()
    }
}

/// Guest time: runs with the host's monotonic clock while it is started, stands still while it is stopped, and can be
/// stepped forward in both states. A context's virtual clock begins at zero, stopped.
///
/// A timer on it is due when the clock reads its deadline or more, running or not.
#[derive(Debug, Default)]
pub struct VirtualClock {
    /// The reading when the clock was last started or stepped.
    base_ns: Cell<u64>,
    /// Real time at that moment, while running.
    started_ns: Cell<Option<u64>>,
}

impl VirtualClock {
    /// The reading.
    pub fn now_ns(&self) -> u64 {
        let running = self.started_ns.get().map_or(0, |started| monotonic_ns().saturating_sub(started));
        self.base_ns.get().saturating_add(running)
    }

    /// Lets it run from its present reading. No effect if it runs.
    pub fn start(&self) {
        if !self.is_running() {
            self.started_ns.set(Some(monotonic_ns()));
        }
    }

    /// Stops it at its present reading.
    pub fn stop(&self) {
        self.base_ns.set(self.now_ns());
        self.started_ns.set(None);
    }

    /// Moves it forward. What this expires runs in the next turn.
    pub fn step(&self, by: Duration) {
        let by_ns = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
        self.base_ns.set(self.base_ns.get().saturating_add(by_ns));
    }

    /// True between [`start`](Self::start) and [`stop`](Self::stop).
    pub fn is_running(&self) -> bool {
        self.started_ns.get().is_some()
    }
}

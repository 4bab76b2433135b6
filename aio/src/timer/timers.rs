//! The table of timers: armed ones in a heap for each clock, expired ones in a queue.
//!
//! Generic over what a timer holds, usually its callback. It hands out what is due and calls
//! nobody.

use super::clock::{Clock, VirtualClock};
use super::heap::{Deadline, Heap};
use crate::agenda::{Agenda, Item};
use crate::profile::Slot;
use crate::request::{Request, Target, Wanted};
use crate::sys::{TimeoutNs, monotonic_ns};
use crate::turn_queue::{Mark, TurnQueue};
use slab::Slab;
use std::borrow::Cow;
use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

/// Where a timer is: idle, expired and in the queue, or else in its clock's heap at this index.
/// One word, so that an entry is small.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place(u32);

impl Place {
    const IDLE: Self = Self(u32::MAX);
    const DUE: Self = Self(u32::MAX - 1);

    /// The index in the heap.
    #[inline]
    fn armed(self) -> Option<u32> {
        (self.0 < Self::DUE.0).then_some(self.0)
    }
}

struct Entry<T> {
    /// The version of its key, and `HAS_HANDLE` if it has one.
    version: u64,
    clock: Clock,
    place: Place,
    /// Valid unless idle.
    at_ns: u64,
    /// When it was armed; names this arming in the queue.
    order: u64,
    /// What other threads want of it. Set while it has `HAS_HANDLE`.
    request: Option<Arc<Request>>,
    value: T,
    record: Slot,
}

/// Marks a timer that other threads have a handle of. Its key is not found by the usual comparison
/// of versions, so only the calls for such a timer look for requests.
const HAS_HANDLE: u64 = 1 << 63;

struct Tables<T> {
    entries: Slab<Entry<T>>,
    realtime: Heap,
    virtual_: Heap,
    orders: u64,
    versions: u64,
}

impl<T> Tables<T> {
    fn heap(&mut self, clock: Clock) -> (&mut Heap, &mut Slab<Entry<T>>) {
        match clock {
            Clock::Realtime => (&mut self.realtime, &mut self.entries),
            Clock::Virtual => (&mut self.virtual_, &mut self.entries),
        }
    }

    fn create(&mut self, clock: Clock, value: T) -> TimerKey {
        self.versions += 1;
        let version = self.versions;
        let place = Place::IDLE;
        let (at_ns, order, record) = (0, 0, Slot::default());
        let request = None;
        let slot = self.entries.insert(Entry { version, clock, place, at_ns, order, request, value, record });
        TimerKey { slot, version, clock }
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
        match place.armed() {
            Some(index) => heap.change(index, member, |slot, index| put(entries, slot, index)),
            None => heap.push(member, |slot, index| put(entries, slot, index)),
        }
    }

    fn cancel(&mut self, slot: usize) {
        let Some(entry) = self.entries.get_mut(slot) else {
            return;
        };
        let (clock, place) = (entry.clock, std::mem::replace(&mut entry.place, Place::IDLE));
        if let Some(index) = place.armed() {
            let (heap, entries) = self.heap(clock);
            heap.remove(index, |slot, index| put(entries, slot, index));
        }
    }

    /// Carries out what other threads want of a timer. Returns false if there is no such timer, or
    /// if it has no handle.
    #[cold]
    fn carry_out(&mut self, target: Target) -> bool {
        let entry = self.entries.get(target.slot);
        let Some(entry) = entry.filter(|e| e.version == target.version | HAS_HANDLE) else {
            return false;
        };
        if let Some(wanted) = entry.request.as_ref().and_then(|request| request.take()) {
            self.follow(target.slot, wanted);
        }
        true
    }

    fn follow(&mut self, slot: usize, wanted: Wanted) {
        match wanted {
            Wanted::Armed { at_ns } => self.arm(slot, at_ns),
            Wanted::Cancelled => self.cancel(slot),
        }
    }

    /// Moves what expired by `now_ns` from a heap to `due`.
    #[inline(always)]
    fn expire(&mut self, clock: Clock, now_ns: u64, due: &TurnQueue<(u32, u64)>) {
        let (heap, entries) = self.heap(clock);
        while let Some(first) = heap.first().filter(|d| d.at_ns <= now_ns).copied() {
            heap.remove(0, |slot, index| put(entries, slot, index));
            if let Some(entry) = entries.get_mut(first.slot as usize) {
                entry.place = Place::DUE;
            }
            due.push((first.slot, first.order));
        }
    }
}

impl<T> Default for Tables<T> {
    fn default() -> Self {
        Self {
            entries: Slab::new(),
            realtime: Heap::default(),
            virtual_: Heap::default(),
            orders: 0,
            versions: 0,
        }
    }
}

fn put<T>(entries: &mut Slab<Entry<T>>, slot: u32, index: u32) {
    if let Some(entry) = entries.get_mut(slot as usize) {
        entry.place = Place(index);
    }
}

/// Identity of a timer in the table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TimerKey {
    slot: usize,
    version: u64,
    pub(crate) clock: Clock,
}

impl TimerKey {
    fn target(self) -> Target {
        Target { slot: self.slot, version: self.version }
    }
}

/// The timers of one context. `H` is what other threads need to reach the loop.
pub(crate) struct Timers<T, H> {
    pub(crate) home: H,
    tables: RefCell<Tables<T>>,
    /// Expired and not yet run: slot and order of arming.
    due: TurnQueue<(u32, u64)>,
    pub(crate) virtual_clock: Arc<VirtualClock>,
    agenda: Rc<Agenda>,
}

impl<T, H> fmt::Debug for Timers<T, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Timers").field("timers", &self.tables.borrow().entries.len()).finish_non_exhaustive()
    }
}

impl<T, H> Timers<T, H> {
    pub(crate) fn new(agenda: &Rc<Agenda>, virtual_clock: Arc<VirtualClock>, home: H) -> Rc<Self> {
        Rc::new(Self {
            home,
            tables: RefCell::default(),
            due: TurnQueue::default(),
            virtual_clock,
            agenda: Rc::clone(agenda),
        })
    }

    /// Puts an idle timer into the table.
    pub(crate) fn create(&self, clock: Clock, value: T) -> TimerKey {
        self.tables.borrow_mut().create(clock, value)
    }

    /// The same, and arms it.
    pub(crate) fn create_armed(&self, clock: Clock, value: T, at_ns: u64) -> TimerKey {
        self.agenda.set(Item::Timers, true);
        let mut tables = self.tables.borrow_mut();
        let key = tables.create(clock, value);
        tables.arm(key.slot, at_ns);
        drop(tables);
        if self.agenda.has(Item::OuterSleep) {
            self.nudge_if_first(key);
        }
        key
    }

    /// Arms a timer for `at_ns` of its clock, in place of any deadline that it had. Does nothing
    /// for a timer that was removed.
    pub(crate) fn arm(&self, key: TimerKey, at_ns: u64) {
        self.agenda.set(Item::Timers, true);
        self.with(key, |tables| tables.arm(key.slot, at_ns));
        if self.agenda.has(Item::OuterSleep) {
            self.nudge_if_first(key);
        }
    }

    /// Arms a timer that has expired for what `next` makes of its last deadline, unless other
    /// threads have wanted something else of it since.
    pub(crate) fn arm_next(&self, key: TimerKey, next: impl FnOnce(u64) -> u64) {
        self.agenda.set(Item::Timers, true);
        {
            let tables = &mut *self.tables.borrow_mut();
            let entry = tables.entries.get(key.slot).filter(|e| e.version & !HAS_HANDLE == key.version);
            let Some(entry) = entry else { return };
            // One look: what is wanted after it comes after this arming, too.
            match entry.request.as_ref().and_then(|request| request.take()) {
                Some(wanted) => tables.follow(key.slot, wanted),
                None => tables.arm(key.slot, next(entry.at_ns)),
            }
        }
        if self.agenda.has(Item::OuterSleep) {
            self.nudge_if_first(key);
        }
    }

    /// An outer loop sleeps until the first deadline of its last `prepare`.
    #[cold]
    fn nudge_if_first(&self, key: TimerKey) {
        let tables = &mut *self.tables.borrow_mut();
        let (heap, _) = tables.heap(key.clock);
        if heap.first().is_some_and(|first| first.slot as usize == key.slot) {
            self.agenda.nudge();
        }
    }

    pub(crate) fn cancel(&self, key: TimerKey) {
        self.with(key, |tables| tables.cancel(key.slot));
    }

    /// Takes a timer out. The caller drops what it held, outside of any borrow.
    pub(crate) fn remove(&self, key: TimerKey) -> Option<T> {
        let mut removed = None;
        self.with(key, |tables| {
            tables.cancel(key.slot);
            removed = Some(tables.entries.remove(key.slot).value);
        });
        removed
    }

    /// When the timer runs, on its clock; `None` if it is not armed.
    pub(crate) fn deadline_ns(&self, key: TimerKey) -> Option<u64> {
        let mut deadline_ns = None;
        self.with(key, |tables| {
            let entry = tables.entries.get(key.slot).filter(|entry| entry.place != Place::IDLE);
            deadline_ns = entry.map(|entry| entry.at_ns);
        });
        deadline_ns
    }

    /// Where other threads put what they want of a timer. They inform the loop, which calls
    /// [`carry_out`](Self::carry_out). Until then every other call for the timer does that first,
    /// so the calls of all threads have one order.
    pub(crate) fn request(&self, key: TimerKey) -> Arc<Request> {
        let target = key.target();
        let new = || Arc::new(Request::new(target));
        let mut tables = self.tables.borrow_mut();
        match tables.entries.get_mut(key.slot) {
            Some(entry) if entry.version | HAS_HANDLE == key.version | HAS_HANDLE => {
                entry.version |= HAS_HANDLE;
                Arc::clone(entry.request.get_or_insert_with(new))
            }
            _ => new(),
        }
    }

    /// Carries out what other threads want of a timer. Calls no user code.
    pub(crate) fn carry_out(&self, request: &Request) {
        self.agenda.set(Item::Timers, true);
        self.tables.borrow_mut().carry_out(request.target);
    }

    pub(crate) fn now_ns(&self, clock: Clock) -> u64 {
        match clock {
            Clock::Realtime => monotonic_ns(),
            Clock::Virtual => self.virtual_clock.now_ns(),
        }
    }

    fn with(&self, key: TimerKey, change: impl FnOnce(&mut Tables<T>)) {
        let mut tables = self.tables.borrow_mut();
        if tables.entries.get(key.slot).is_some_and(|e| e.version == key.version) {
            change(&mut tables);
        } else if tables.carry_out(key.target()) {
            // What was wanted before this call comes first.
            self.agenda.set(Item::Timers, true);
            change(&mut tables);
        }
    }

    /// Nanoseconds to the nearest deadline of a clock that runs; 0 if one has passed.
    pub(crate) fn timeout(&self) -> TimeoutNs {
        let tables = self.tables.borrow();
        if !self.due.is_empty() {
            return Some(0);
        }
        if tables.realtime.first().or(tables.virtual_.first()).is_none() {
            self.agenda.set(Item::Timers, false);
            return None;
        }
        let realtime = tables.realtime.first().map(|d| d.at_ns.saturating_sub(monotonic_ns()));
        let virtual_ = tables.virtual_.first().and_then(|d| {
            let clock = self.virtual_clock.read();
            let left_ns = d.at_ns.saturating_sub(clock.now_ns);
            // A stopped clock reaches no deadline; one that it passed already is due all the same.
            (left_ns == 0 || clock.is_running).then_some(left_ns)
        });
        match (realtime, virtual_) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// Queues what has expired. Returns where a turn that begins now has to end.
    pub(crate) fn expire(&self) -> Mark {
        let mut tables = self.tables.borrow_mut();
        if tables.realtime.first().is_some() {
            tables.expire(Clock::Realtime, monotonic_ns(), &self.due);
        }
        if tables.virtual_.first().is_some() {
            tables.expire(Clock::Virtual, self.virtual_clock.now_ns(), &self.due);
        }
        self.due.mark(usize::MAX)
    }

    /// The next expired timer in front of `mark`: what `take` takes from its value, and `look` from
    /// its record. It is idle from here on.
    #[inline]
    pub(crate) fn next<V, R>(
        &self,
        mark: Mark,
        take: impl FnOnce(&mut T) -> V,
        look: impl FnOnce(&Slot) -> R,
    ) -> Option<(V, R)> {
        while let Some((slot, order)) = self.due.pop(mark) {
            let mut tables = self.tables.borrow_mut();
            // Cancelled, dropped or armed again since it expired: this arming is void.
            let entry = tables.entries.get_mut(slot as usize);
            let Some(entry) = entry.filter(|e| e.place == Place::DUE && e.order == order) else {
                continue;
            };
            entry.place = Place::IDLE;
            return Some((take(&mut entry.value), look(&entry.record)));
        }
        None
    }

    /// Names a timer.
    pub(crate) fn set_name(&self, key: TimerKey, name: Cow<'static, str>) {
        self.look(key, |record| record.set_name(name));
    }

    /// Looks at the record of a timer, unless it was removed.
    pub(crate) fn look<R>(&self, key: TimerKey, look: impl FnOnce(&Slot) -> R) -> Option<R> {
        let tables = self.tables.borrow();
        let entry = tables.entries.get(key.slot).filter(|e| e.version & !HAS_HANDLE == key.version)?;
        Some(look(&entry.record))
    }

    /// Looks at what a timer holds that has no handle; `None` if it was removed. `look` must not
    /// clone or drop it.
    #[inline]
    pub(crate) fn value<R>(&self, key: TimerKey, look: impl FnOnce(&mut T) -> R) -> Option<R> {
        let mut tables = self.tables.borrow_mut();
        let entry = tables.entries.get_mut(key.slot).filter(|entry| entry.version == key.version)?;
        Some(look(&mut entry.value))
    }

    /// All timers: record, clock, and deadline if it is armed.
    pub(crate) fn each(&self, mut visit: impl FnMut(&Slot, Clock, Option<u64>)) {
        for (_, entry) in &self.tables.borrow().entries {
            let deadline_ns = (entry.place != Place::IDLE).then_some(entry.at_ns);
            visit(&entry.record, entry.clock, deadline_ns);
        }
    }

    /// Takes every timer out.
    pub(crate) fn take_all(&self) -> Vec<T> {
        self.due.take_all();
        let tables = &mut *self.tables.borrow_mut();
        (tables.realtime, tables.virtual_) = Default::default();
        // Versions go on, so the keys of these timers find none that is made later.
        tables.entries.drain().map(|entry| entry.value).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(timers: &Timers<&'static str, ()>, mark: Mark) -> Option<&'static str> {
        timers.next(mark, |name| *name, |_| ()).map(|(name, ())| name)
    }

    #[test]
    fn a_timer_armed_in_the_past_by_its_own_callback_waits_for_the_next_turn() {
        let timers = Timers::new(&Rc::default(), Arc::default(), ());
        let key = timers.create(Clock::Virtual, "tick");
        timers.arm(key, 0);
        for _ in 0..3 {
            let mark = timers.expire();
            assert_eq!(next(&timers, mark), Some("tick"));
            timers.arm(key, 0);
            assert_eq!(next(&timers, mark), None);
        }
        timers.expire();
        timers.cancel(key);
        assert_eq!(next(&timers, timers.expire()), None, "cancelled after it expired");
        assert_eq!((timers.remove(key), timers.remove(key)), (Some("tick"), None));
    }

    #[test]
    fn what_expired_is_handed_out_by_deadline_and_then_in_order_of_arming() {
        let timers = Timers::new(&Rc::default(), Arc::default(), ());
        let keys = ["a", "b", "c"].map(|name| timers.create(Clock::Virtual, name));
        for (key, at_ns) in keys.into_iter().zip([7, 5, 5]) {
            timers.arm(key, at_ns);
        }
        assert_eq!(timers.timeout(), None, "the clock stands still");
        timers.virtual_clock.step(std::time::Duration::from_nanos(6));
        assert_eq!(timers.timeout(), Some(0));
        let mark = timers.expire();
        assert_eq!([(); 3].map(|()| next(&timers, mark)), [Some("b"), Some("c"), None]);
        assert_eq!(timers.deadline_ns(keys[0]), Some(7));
    }

    #[test]
    fn a_timer_armed_again_before_it_ran_keeps_no_place_in_the_queue() {
        let timers = Timers::new(&Rc::default(), Arc::default(), ());
        let keys = ["a", "b"].map(|name| timers.create(Clock::Virtual, name));
        timers.virtual_clock.step(std::time::Duration::from_nanos(9));
        for (key, at_ns) in keys.into_iter().zip([1, 2]) {
            timers.arm(key, at_ns);
        }
        timers.expire();
        timers.arm(keys[0], 3);
        // A nested turn: both have expired, and "b" has the earlier deadline now.
        let mark = timers.expire();
        assert_eq!([(); 3].map(|()| next(&timers, mark)), [Some("b"), Some("a"), None]);
    }
}

//! Who watches the callbacks of a turn: nobody, or the profile and the hook for slow callbacks.
//!
//! A turn is generic over its [`Watcher`]. The usual one is [`Off`], which compiles to nothing.
//! [`On`] is used by turns of a context whose agenda has
//! [`Item::Observed`](crate::agenda::Item::Observed).

use crate::agenda::{Agenda, Item};
use crate::profile::{CallbackKind, Figures, Record, Slot, Tally};
use crate::sys::monotonic_ns;
use crate::trace;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::rc::Rc;
use std::time::Duration;

/// A callback that took longer than the limit of [`AioContext::on_slow_callback`].
///
/// [`AioContext::on_slow_callback`]: crate::AioContext::on_slow_callback
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct SlowCallback<'a> {
    /// The name that the handler, timer, bottom half or task was given.
    pub name: Option<&'a str>,
    /// What was called.
    pub kind: CallbackKind,
    /// How long the call took, nested turns and preemption included (CLOCK_MONOTONIC).
    pub took: Duration,
}

impl fmt::Display for SlowCallback<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, kind, took } = self;
        match name {
            Some(name) => write!(f, "the callback of {kind} '{name}' took {took:?}"),
            None => write!(f, "the callback of a {kind} without a name took {took:?}"),
        }
    }
}

/// What a turn does around each callback.
pub(super) trait Watcher<C> {
    /// What it remembers of a callback while that runs.
    type Record;

    /// For a callback with a slot for its record.
    fn record(slot: &Slot) -> Self::Record;

    /// For a callback whose record has to be looked for.
    fn find_record(find: impl FnOnce() -> Option<Rc<Record>>) -> Self::Record;

    /// For a callback without one.
    fn no_record() -> Self::Record;

    /// Calls. `counts` tells from the result whether a callback ran.
    fn call<R>(
        context: &C,
        kind: impl FnOnce() -> CallbackKind,
        record: Self::Record,
        counts: impl FnOnce(&R) -> bool,
        call: impl FnOnce() -> R,
    ) -> R;
}

/// Nobody watches.
pub(super) enum Off {}

impl<C> Watcher<C> for Off {
    type Record = ();

    #[inline(always)]
    fn record(_: &Slot) {}

    #[inline(always)]
    fn find_record(_: impl FnOnce() -> Option<Rc<Record>>) {}

    #[inline(always)]
    fn no_record() {}

    #[inline(always)]
    fn call<R>(
        _: &C,
        _: impl FnOnce() -> CallbackKind,
        (): (),
        _: impl FnOnce(&R) -> bool,
        call: impl FnOnce() -> R,
    ) -> R {
        call()
    }
}

/// The [`Observer`] of the context watches.
pub(super) enum On {}

impl<C: Observed> Watcher<C> for On {
    type Record = Option<Rc<Record>>;

    fn record(slot: &Slot) -> Self::Record {
        Some(slot.get_or_make())
    }

    fn find_record(find: impl FnOnce() -> Option<Rc<Record>>) -> Self::Record {
        find()
    }

    fn no_record() -> Self::Record {
        None
    }

    fn call<R>(
        context: &C,
        kind: impl FnOnce() -> CallbackKind,
        record: Self::Record,
        counts: impl FnOnce(&R) -> bool,
        call: impl FnOnce() -> R,
    ) -> R {
        let kind = kind();
        let start_ns = monotonic_ns();
        let result = call();
        if counts(&result) {
            let took_ns = monotonic_ns().saturating_sub(start_ns);
            context.observer().called(context, kind, record.as_deref(), took_ns);
        }
        result
    }
}

/// A context with an observer.
pub(super) trait Observed: Sized {
    fn observer(&self) -> &Observer<Self>;
}

/// A kind of turn. The argument is that of [`poll`](crate::AioContext::poll).
pub(super) type Turn<C> = fn(&C, bool) -> io::Result<bool>;

/// A hook of a user for slow callbacks.
pub(super) type Hook<C> = Rc<dyn Fn(&C, &SlowCallback<'_>)>;

/// The hook that is set, and when it is called.
pub(super) struct Slow<C> {
    pub(super) limit_ns: u64,
    pub(super) hook: Hook<C>,
}

/// The profile of one context, and its hook for slow callbacks.
pub(super) struct Observer<C> {
    profiling: Cell<bool>,
    /// The number of the last profile; zero if there was none.
    profile: Cell<u64>,
    kinds: [Tally; CallbackKind::ALL.len()],
    slow: RefCell<Option<Slow<C>>>,
    /// What `poll` does if busy polling or the observer is on. A pointer, because choosing costs a
    /// context that only busy polls nothing then.
    pub(super) turn: Cell<Turn<C>>,
    agenda: Rc<Agenda>,
}

impl<C> Observer<C> {
    pub(super) fn new(agenda: &Rc<Agenda>, turn: Turn<C>) -> Self {
        Self {
            profiling: Cell::new(false),
            profile: Cell::new(0),
            kinds: Default::default(),
            slow: RefCell::new(None),
            turn: Cell::new(turn),
            agenda: Rc::clone(agenda),
        }
    }

    /// Switches the profile on or off. A profile that begins counts from zero.
    pub(super) fn set_profiling(&self, on: bool) {
        if on && !self.profiling.get() {
            self.profile.set(self.profile.get() + 1);
        }
        self.profiling.set(on);
        self.update_agenda();
    }

    pub(super) fn is_profiling(&self) -> bool {
        self.profiling.get()
    }

    /// Sets or removes the hook for slow callbacks. The caller drops the old one, outside of any
    /// borrow.
    pub(super) fn set_slow(&self, slow: Option<Slow<C>>) -> Option<Slow<C>> {
        let old = self.slow.replace(slow);
        self.update_agenda();
        old
    }

    fn update_agenda(&self) {
        let on = self.profiling.get() || self.slow.borrow().is_some();
        self.agenda.set(Item::Observed, on);
    }

    /// Whether turns are observed.
    pub(super) fn is_on(&self) -> bool {
        self.agenda.has(Item::Observed)
    }

    /// The figures of all callbacks of a kind.
    pub(super) fn of_kind(&self, kind: CallbackKind) -> Figures {
        self.kinds.get(kind as usize).map_or_else(Figures::default, |tally| self.figures(tally))
    }

    /// The figures of one callback.
    pub(super) fn figures(&self, tally: &Tally) -> Figures {
        tally.figures(self.profile.get())
    }

    /// A callback has returned. Runs the hook if it took too long.
    fn called(&self, context: &C, kind: CallbackKind, record: Option<&Record>, took_ns: u64) {
        let name = record.and_then(|record| record.name.as_deref());
        trace::aio_dispatch(kind.as_str(), name, took_ns);
        if self.profiling.get() {
            let profile = self.profile.get();
            if let Some(tally) = self.kinds.get(kind as usize) {
                tally.add(profile, took_ns);
            }
            if let Some(record) = record {
                record.tally.add(profile, took_ns);
            }
        }
        // A statement of its own: the hook may do anything, so nothing may be borrowed while it
        // runs.
        let (hook, limit_ns) = match &*self.slow.borrow() {
            Some(slow) if took_ns > slow.limit_ns => (Rc::clone(&slow.hook), slow.limit_ns),
            _ => return,
        };
        trace::slow_callback(kind.as_str(), name, took_ns, limit_ns);
        hook(context, &SlowCallback { name, kind, took: Duration::from_nanos(took_ns) });
    }
}

//! Who watches the callbacks of a turn: nobody, or the profile and the hook for slow callbacks.
//!
//! A turn is generic over its [`Watcher`]. The usual one is [`Off`], which compiles to nothing.
//! [`On`] is used by turns of a context whose agenda has
//! [`Item::Observed`](crate::agenda::Item::Observed).

use super::panics::resume_after;
use crate::agenda::{Agenda, Item};
use crate::profile::{CallbackKind, Ended, Figures, Name, Record, Slot, Tally, Took};
use crate::sys::monotonic_ns;
use crate::trace;
use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::Duration;

/// A callback that held the loop up for longer than the limit of
/// [`AioContext::on_slow_callback`](crate::AioContext::on_slow_callback).
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct SlowCallback<'a> {
    /// The name that the handler, timer, bottom half or task was given, or that the callback gave
    /// itself ([`name_callback`](crate::AioContext::name_callback)).
    pub name: Option<&'a str>,
    /// What was called.
    pub kind: CallbackKind,
    /// How long the call took, nested turns and preemption included (CLOCK_MONOTONIC).
    pub took: Duration,
    /// The same without nested turns: the time for which the loop was held up.
    pub own: Duration,
}

impl fmt::Display for SlowCallback<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, kind, took, own } = self;
        match name {
            Some(name) => write!(f, "the callback of {kind} '{name}' took {own:?}")?,
            None => write!(f, "the callback of {} without a name took {own:?}", kind.with_article())?,
        }
        match took.saturating_sub(*own) {
            Duration::ZERO => Ok(()),
            nested => write!(f, ", and {nested:?} in nested turns"),
        }
    }
}

/// What a turn does around each callback.
pub(super) trait Watcher<C> {
    /// What it remembers of a callback while that runs.
    type Record;

    /// For a callback with a slot for its record.
    fn record(slot: &Slot, kind: impl FnOnce() -> CallbackKind) -> Self::Record;

    /// For a callback whose record has to be looked for.
    fn find_record(kind: CallbackKind, find: impl FnOnce() -> Option<Rc<Record>>) -> Self::Record;

    /// Calls. `counts` tells from the result whether a callback ran; if the call panics, one did.
    /// What `call` owns is dropped within the time of the call. A ready handler is not: that would
    /// cost the usual turn an instruction.
    fn call<R>(
        context: &C,
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
    fn record(_: &Slot, _: impl FnOnce() -> CallbackKind) {}

    #[inline(always)]
    fn find_record(_: CallbackKind, _: impl FnOnce() -> Option<Rc<Record>>) {}

    #[inline(always)]
    fn call<R>(_: &C, (): (), _: impl FnOnce(&R) -> bool, call: impl FnOnce() -> R) -> R {
        call()
    }
}

/// The [`Observer`] of the context watches.
pub(super) enum On {}

impl<C: Observed> Watcher<C> for On {
    type Record = (CallbackKind, Option<Rc<Record>>);

    fn record(slot: &Slot, kind: impl FnOnce() -> CallbackKind) -> Self::Record {
        (kind(), Some(slot.get_or_make()))
    }

    fn find_record(kind: CallbackKind, find: impl FnOnce() -> Option<Rc<Record>>) -> Self::Record {
        (kind, find())
    }

    fn call<R>(
        context: &C,
        (kind, record): Self::Record,
        counts: impl FnOnce(&R) -> bool,
        call: impl FnOnce() -> R,
    ) -> R {
        let observer = context.observer();
        let outer = observer.call.begin();
        let start_ns = monotonic_ns();
        let result = catch_unwind(AssertUnwindSafe(call));
        let ns = monotonic_ns().saturating_sub(start_ns);
        let Frame { nested_ns, name, .. } = observer.call.end(outer);
        let took = Took { ns, own_ns: ns.saturating_sub(nested_ns) };
        let report = || observer.called(context, kind, record.as_deref(), name, took);
        match result {
            Ok(result) => {
                if counts(&result) {
                    report();
                }
                result
            }
            Err(payload) => resume_after(payload, report),
        }
    }
}

/// What is remembered of the innermost callback that runs.
#[derive(Debug, Default)]
struct Frame {
    /// A callback runs.
    is_open: bool,
    /// The time of nested turns that have ended.
    nested_ns: u64,
    /// The name that it gave itself.
    name: Name,
}

/// The innermost callback that runs. The frames of the others are on the stack.
#[derive(Default)]
struct Call(RefCell<Frame>);

impl Call {
    /// A callback begins. Returns the frame of the one around it.
    fn begin(&self) -> Frame {
        self.0.replace(Frame { is_open: true, ..Frame::default() })
    }

    /// It has ended.
    fn end(&self, outer: Frame) -> Frame {
        self.0.replace(outer)
    }
}

/// A nested turn. Its time is not that of the callback around it.
pub(super) struct Nested<'a> {
    call: &'a Call,
    start_ns: Option<u64>,
}

impl Drop for Nested<'_> {
    fn drop(&mut self) {
        if let Some(start_ns) = self.start_ns {
            let ns = monotonic_ns().saturating_sub(start_ns);
            let nested_ns = &mut self.call.0.borrow_mut().nested_ns;
            *nested_ns = nested_ns.saturating_add(ns);
        }
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
    /// Of names whose callbacks are gone.
    ended: Rc<Ended>,
    call: Call,
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
            ended: Rc::default(),
            call: Call::default(),
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

    /// What was counted under names whose callbacks are gone.
    pub(super) fn each_ended(&self, visit: impl FnMut(CallbackKind, &Cow<'static, str>, Figures)) {
        self.ended.each(self.profile.get(), visit);
    }

    /// Names the callback that runs.
    pub(super) fn name_callback(&self, name: Cow<'static, str>) {
        let mut frame = self.call.0.borrow_mut();
        if frame.is_open {
            frame.name = Some(name);
        }
    }

    /// To be held while the loop turns inside a callback.
    pub(super) fn nested(&self) -> Nested<'_> {
        let start_ns = self.call.0.borrow().is_open.then(monotonic_ns);
        Nested { call: &self.call, start_ns }
    }

    /// A callback has returned. Runs the hook if it took too long.
    fn called(&self, context: &C, kind: CallbackKind, record: Option<&Record>, own: Name, took: Took) {
        // The name that it was given wins.
        let given = record.and_then(|record| record.name.as_deref());
        let own = own.filter(|_| given.is_none());
        let name = given.or(own.as_deref());
        trace::aio_dispatch(kind.as_str(), name, took.ns, took.own_ns);
        if self.profiling.get() {
            let profile = self.profile.get();
            if let Some(tally) = self.kinds.get(kind as usize) {
                tally.add(profile, took);
            }
            if let Some(record) = record {
                record.add(kind, profile, took, &self.ended);
            }
            if let Some(own) = &own {
                self.ended.add(kind, own.clone(), profile, took);
            }
        }
        // A statement of its own: the hook may do anything, so nothing may be borrowed while it
        // runs.
        let (hook, limit_ns) = match &*self.slow.borrow() {
            Some(slow) if took.own_ns > slow.limit_ns => (Rc::clone(&slow.hook), slow.limit_ns),
            _ => return,
        };
        trace::slow_callback(kind.as_str(), name, took.ns, took.own_ns, limit_ns);
        let [took, own] = [took.ns, took.own_ns].map(Duration::from_nanos);
        hook(context, &SlowCallback { name, kind, took, own });
    }
}

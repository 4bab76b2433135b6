//! What a turn has to look at besides the kernel and the handlers: a few bits, so that the usual
//! turn, which has nothing else to do, learns it from one load.
//!
//! A bit may be set although there is nothing behind it. Whoever finds nothing clears it. Home
//! thread only: what other threads schedule is on the list of bottom halves.
//!
//! An embedded context has one more bit while an outer loop sleeps in its place: whoever adds
//! something then has to interrupt that sleep (`nudge`).

use std::cell::{Cell, OnceCell};
use std::fmt;

/// One of the things that a turn may have to look at.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Item {
    /// Completions that were reaped.
    Completions = 1,
    /// Closures and bottom halves that are in the home thread's own queue.
    BottomHalves = 2,
    /// Timers that are armed or expired.
    Timers = 4,
    /// The context busy polls.
    BusyPolling = 8,
    /// Tasks that are ready.
    Tasks = 16,
    /// Callbacks are observed: a profile, or a hook for slow ones.
    Observed = 64,
    /// An outer loop sleeps, or is about to.
    OuterSleep = 32,
}

/// The set of items.
#[derive(Default)]
pub(crate) struct Agenda {
    items: Cell<u8>,
    /// Ends the sleep of an outer loop.
    interrupt: OnceCell<Box<dyn Fn()>>,
}

impl fmt::Debug for Agenda {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Agenda").field(&self.items).finish()
    }
}

impl Agenda {
    #[inline]
    pub(crate) fn set(&self, item: Item, present: bool) {
        let others = self.items.get() & !(item as u8);
        self.items.set(others | if present { item as u8 } else { 0 });
    }

    /// Sets what ends the sleep of an outer loop. It must not be user code, and it may be called
    /// several times for one sleep. The first one stays.
    pub(crate) fn set_interrupt(&self, interrupt: impl Fn() + 'static) {
        let _ = self.interrupt.set(Box::new(interrupt));
    }

    /// Called by the home thread after it added something that the next turn has to look at. If an
    /// outer loop may sleep over it, its sleep is interrupted.
    #[inline]
    pub(crate) fn nudge(&self) {
        if self.has(Item::OuterSleep) {
            self.interrupt_outer_sleep();
        }
    }

    #[cold]
    fn interrupt_outer_sleep(&self) {
        if let Some(interrupt) = self.interrupt.get() {
            interrupt();
        }
    }

    #[inline]
    pub(crate) fn has(&self, item: Item) -> bool {
        self.items.get() & item as u8 != 0
    }

    /// Returns true if one of two items is present.
    #[inline]
    pub(crate) fn has_either(&self, a: Item, b: Item) -> bool {
        self.items.get() & (a as u8 | b as u8) != 0
    }

    /// Returns true if a turn is not made in the usual way.
    #[inline]
    pub(crate) fn is_unusual(&self) -> bool {
        self.items.get() & (Item::BusyPolling as u8 | Item::Observed as u8 | Item::OuterSleep as u8) != 0
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.items.get() == 0
    }
}

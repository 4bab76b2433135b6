//! What a turn has to look at besides the kernel and the handlers: a few bits, so that the usual
//! turn, which has nothing else to do, learns it from one load.
//!
//! A bit may be set although there is nothing behind it. Whoever finds nothing clears it. Home
//! thread only: what other threads schedule is on the list of bottom halves.

use std::cell::Cell;

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
}

/// The set of items.
#[derive(Debug, Default)]
pub(crate) struct Agenda(Cell<u8>);

impl Agenda {
    #[inline]
    pub(crate) fn set(&self, item: Item, present: bool) {
        let others = self.0.get() & !(item as u8);
        self.0.set(others | if present { item as u8 } else { 0 });
    }

    #[inline]
    pub(crate) fn has(&self, item: Item) -> bool {
        self.0.get() & item as u8 != 0
    }

    /// Returns true if one of two items is present.
    #[inline]
    pub(crate) fn has_either(&self, a: Item, b: Item) -> bool {
        self.0.get() & (a as u8 | b as u8) != 0
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.0.get() == 0
    }
}

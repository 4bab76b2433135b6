//! What a turn has to look at besides the kernel and the handlers: a few bits, so that the usual turn, which finds none of it,
//! learns so from one load.
//!
//! A bit that is set may be set for nothing; who finds nothing behind it takes it back. Home thread only: what other threads
//! schedule is on the list of bottom halves.

use std::cell::Cell;

/// One of the things that a turn may have to look at.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Item {
    /// Completions that have been reaped.
    Completions = 1,
    /// Closures and bottom halves that are the home thread's already.
    BottomHalves = 2,
    /// Timers that are armed or have expired.
    Timers = 4,
    /// The context busy polls.
    BusyPolling = 8,
}

/// The items that there are.
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

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.0.get() == 0
    }
}

//! Where a future leaves the waker of whoever awaits it.

use std::cell::Cell;
use std::fmt;
use std::task::Waker;

/// One waker, or none. Home thread. A waker may be of any executor, so nothing is borrowed while
/// it is cloned, woken or dropped.
#[derive(Default)]
pub(crate) struct WakerSlot(Cell<Option<Waker>>);

impl WakerSlot {
    /// Leaves a waker, in place of the one before. Costs nothing more if it is the same.
    #[inline]
    pub(crate) fn set(&self, waker: &Waker) {
        let old = self.0.take();
        let new = match old {
            Some(old) if old.will_wake(waker) => old,
            _ => waker.clone(),
        };
        self.0.set(Some(new));
    }

    /// Wakes it. It stays for the next time, because whoever awaits one event usually awaits the
    /// next.
    #[inline]
    pub(crate) fn wake(&self) {
        let Some(waker) = self.0.take() else { return };
        waker.wake_by_ref();
        let newer = self.0.take();
        self.0.set(newer.or(Some(waker)));
    }

    /// Forgets the waker.
    pub(crate) fn clear(&self) {
        drop(self.0.take());
    }
}

impl fmt::Debug for WakerSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WakerSlot")
    }
}

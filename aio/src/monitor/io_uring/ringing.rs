//! Rings of others that ride on the next enter.
#![expect(unsafe_code, reason = "pushes an SQE that points to a static")]

use super::ring_monitor::UringMonitor;
use crate::stats::Counters;
use crate::sys::eventfd::EventFd;
use std::sync::Arc;

impl<T> UringMonitor<T> {
    /// Keeps an eventfd for [`ring_bell`](Self::ring_bell). `None` if this kernel cannot do that.
    pub(crate) fn add_bell(&self, eventfd: Arc<EventFd>) -> Option<usize> {
        let can = self.ring.borrow().skips_completions() && !self.is_down.get();
        can.then(|| self.bells.add(eventfd))
    }

    /// Rings with the next enter, which the caller knows to be near. Returns false if that cannot
    /// be done now.
    #[inline]
    pub(crate) fn ring_bell(&self, key: usize, stats: &Counters) -> bool {
        // A queue without room is one that an enter is needed for, or one of an outer loop.
        let is_free = self.backlog.borrow().is_empty() && self.ring.borrow().room() > 0;
        if !is_free || self.is_down.get() {
            return false;
        }
        let (taken, place) = self.ring.borrow().places();
        let Some(entry) = self.bells.entry(key, taken, place) else { return false };
        // SAFETY: it points to a static. The descriptor stays open until `remove_bell`, which
        // leaves none of these entries behind.
        unsafe { self.queue(entry, stats) };
        true
    }

    /// At the end of the turns: rings what rides on an enter that may not come.
    pub(crate) fn flush_rings(&self, stats: &Counters) {
        let mut ring = self.ring.borrow_mut();
        if self.bells.any_waits(ring.places().0) && !self.is_down.get() {
            stats.syscalls_enter.bump();
            let _ = ring.enter(Some(0));
        }
    }

    /// Forgets an eventfd.
    pub(crate) fn remove_bell(&self, key: usize, stats: &Counters) {
        let Some(bell) = self.bells.remove(key) else { return };
        // An entry that the kernel has not seen names the descriptor, whose number may soon be that
        // of another file.
        let mut ring = self.ring.borrow_mut();
        if !bell.waits(ring.places().0) {
            return;
        }
        stats.syscalls_enter.bump();
        let _ = ring.enter(Some(0));
        if bell.waits(ring.places().0) {
            // The kernel does not take it now, for one because the CQ overflowed.
            std::mem::forget(bell);
        }
    }
}

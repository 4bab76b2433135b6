//! [`Ringer`]: an eventfd of somebody else is rung in the system call in which the loop sleeps.

use super::parts::Parts;
use super::turn::AioContext;
use crate::agenda::Item;
use crate::notifier::EventNotifier;
use std::cell::RefCell;
use std::fmt;
use std::io;
use std::rc::{Rc, Weak};
use std::sync::Arc;

/// Rings an eventfd that somebody else waits for, such as the call of a vhost-user frontend, in the
/// io_uring_enter(2) in which the loop goes to sleep.
///
/// A device that has answered and has nothing else to do makes two system calls otherwise: one to
/// ring, and one to sleep. Made by [`AioContext::ringer`]. Home thread.
pub struct Ringer {
    context: Weak<Parts<AioContext>>,
    bell: RefCell<Option<Bell>>,
}

/// The notifier that was rung last, and its place at the monitor.
struct Bell {
    notifier: EventNotifier,
    key: Option<usize>,
}

impl fmt::Debug for Ringer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let notifier = self.bell.borrow().as_ref().map(|bell| bell.notifier.clone());
        f.debug_struct("Ringer").field("notifier", &notifier).finish_non_exhaustive()
    }
}

impl AioContext {
    /// After the last turn: rings what would ride on the next one.
    pub(crate) fn flush_rings(&self) {
        if self.parts.is_current() {
            self.parts.monitor.flush_rings(&self.parts.sources.stats);
        }
    }

    /// Makes a [`Ringer`] for one notifier at a time. No system call.
    pub fn ringer(&self) -> Ringer {
        Ringer { context: Rc::downgrade(&self.parts), bell: RefCell::default() }
    }
}

impl Ringer {
    /// Rings `notifier` as [`EventNotifier::notify`] does, at the latest when the loop turns again,
    /// when [`run`](AioContext::run) or [`block_on`](AioContext::block_on) returns, or when the
    /// context is dropped. Who turns the loop by [`poll`](AioContext::poll) must not wait for
    /// what the ring leads to before the next turn.
    ///
    /// To be called by a callback of the loop. If the loop would sleep next, the ring rides on that
    /// system call. If it has anything else to do before, or is embedded, or has no ring, or if
    /// `notifier` was rung in this turn already, this is `notify`.
    ///
    /// A loop that lingers or busy polls does not sleep next. With `rests` it does not linger after
    /// this turn, if at most one device could be polled and none is without a pause: say so if
    /// nothing can be found in memory before the other side has woken up.
    ///
    /// The notifier is kept open until another one is rung, or this is dropped.
    ///
    /// # Errors
    /// As for [`EventNotifier::notify`].
    #[inline]
    pub fn ring(&self, notifier: &EventNotifier, rests: bool) -> io::Result<()> {
        if self.rides(notifier, rests) { Ok(()) } else { notifier.notify() }
    }

    /// Returns false if it has to be rung now.
    fn rides(&self, notifier: &EventNotifier, rests: bool) -> bool {
        let Some(parts) = self.context.upgrade() else { return false };
        let Some(ring) = parts.monitor.ring() else { return false };
        if !parts.is_current() || parts.outer.is_embedded.get() || parts.timeout() == Some(0) {
            return false;
        }
        if parts.has(Item::BusyPolling) && !(rests && parts.sources.busy.may_rest()) {
            return false;
        }
        let is_known = |bell: &Bell| Arc::ptr_eq(bell.notifier.eventfd(), notifier.eventfd());
        if !self.bell.borrow().as_ref().is_some_and(is_known) {
            self.forget(&parts);
            let key = ring.add_bell(Arc::clone(notifier.eventfd()));
            self.bell.replace(Some(Bell { notifier: notifier.clone(), key }));
        }
        let key = self.bell.borrow().as_ref().and_then(|bell| bell.key);
        let rides = key.is_some_and(|key| ring.ring_bell(key, &parts.sources.stats));
        if rides && parts.has(Item::BusyPolling) {
            parts.sources.busy.rest();
        }
        rides
    }

    fn forget(&self, parts: &Parts<AioContext>) {
        if let Some(Bell { key: Some(key), notifier: _notifier }) = self.bell.take()
            && let Some(ring) = parts.monitor.ring()
            && parts.is_current()
        {
            ring.remove_bell(key, &parts.sources.stats);
        }
    }
}

impl Drop for Ringer {
    /// What was rung is on its way when this returns, or when the context was dropped.
    fn drop(&mut self) {
        if let Some(parts) = self.context.upgrade() {
            self.forget(&parts);
        }
    }
}

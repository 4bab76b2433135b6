//! One handler.

use crate::busy_poll;
use crate::monitor::{Readiness, Watched};
use crate::profile::Slot;
use std::cell::Cell;
use std::fmt;
use std::ops::Deref;
use std::rc::Rc;

/// A registered descriptor and what is to be done when it is ready.
///
/// The order of the fields matters: what an event touches comes first and shares a cache line,
/// because the cache was used by the kernel in the meantime.
#[repr(C)]
pub(crate) struct Handler<A> {
    pub(crate) action: A,
    pub(crate) watched: Watched,
    pub(crate) processing: Cell<Processing>,
    pub(crate) busy: busy_poll::State,
    pub(crate) record: Slot,
}

/// Whether the handler's callback is on the stack.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Processing {
    #[default]
    No,
    /// It is being called, so busy polling leaves it alone: a nested poll would enter it again and
    /// again.
    Yes,
    /// The same, and its doorbell was switched on meanwhile: look at its device once it returns.
    LookAfter,
}

impl<A> Handler<A> {
    pub(crate) fn new(watched: Watched, action: A) -> Self {
        let (processing, busy) = Default::default();
        Self { action, watched, processing, busy, record: Slot::default() }
    }

    /// Before anybody else answers the doorbell of a handler that was removed: rings it again for
    /// what was taken from its eventfd on the handler's behalf and was not dispatched. Calls no
    /// user code.
    ///
    /// Returns true if busy polling had found work for it.
    pub(crate) fn hand_back(&self) -> bool {
        let ready = self.watched.take_ready();
        // Whatever the method is: an eventfd with EFD_AUTORESET is reset by every delivery, and
        // whoever made it may not have told us. If the count is still there, the two coalesce.
        if ready.intersects(Readiness::IN) {
            self.ring_again();
        }
        ready.intersects(Readiness::POLLED)
    }

    /// Rings the doorbell for its next handler.
    pub(crate) fn ring_again(&self) {
        if let Some(eventfd) = &self.watched.eventfd {
            // The eventfd is open, and a full counter is no error: a caller could not do anything.
            let _ = eventfd.ring();
        }
    }
}

impl<A> fmt::Debug for Handler<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handler").field("watched", &self.watched).finish_non_exhaustive()
    }
}

/// A counted reference to a handler.
pub(crate) struct HandlerRef<A>(Rc<Handler<A>>);

impl<A> HandlerRef<A> {
    pub(super) fn new(handler: Handler<A>) -> Self {
        Self(Rc::new(handler))
    }
}

impl<A> Clone for HandlerRef<A> {
    #[inline]
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

impl<A> Deref for HandlerRef<A> {
    type Target = Handler<A>;

    #[inline]
    fn deref(&self) -> &Handler<A> {
        &self.0
    }
}

impl<A> AsRef<Watched> for HandlerRef<A> {
    #[inline]
    fn as_ref(&self) -> &Watched {
        &self.0.watched
    }
}

impl<A> fmt::Debug for HandlerRef<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<A> busy_poll::Member for HandlerRef<A> {
    fn state(&self) -> &busy_poll::State {
        &self.0.busy
    }

    fn is(&self, other: &Self) -> bool {
        Rc::ptr_eq(&self.0, &other.0)
    }
}

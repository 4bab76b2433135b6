//! Handlers: what the loop calls when a descriptor is ready.
//!
//! A handler lives in a slot of a slab and is named by a [`Token`]. Readiness is collected as bits in the handler, which is
//! queued once, so a nested poll that sees the same readiness again merges with what its parent collected, and dispatches
//! it in the parent's place.

mod readiness;
mod registration;
mod table;

pub(crate) use self::readiness::Watch;
pub use self::readiness::{Interest, Readiness};
pub use self::registration::{AddError, HandlerId, Registration};
pub(crate) use self::table::Handlers;
use crate::action::Action;
use crate::busy_poll::{self, BusyPolled};
use crate::context::AioContext;
use crate::monitor;
use crate::token::Token;
use std::cell::Cell;
use std::fmt;
use std::os::fd::RawFd;

pub(crate) type Callback = dyn Fn(&AioContext);

/// A registered descriptor and what is to be done when it is ready.
///
/// In this order: what an event touches comes first and shares a cache line, which in the meantime has gone to the kernel.
#[repr(C)]
pub(crate) struct Handler {
    pub(crate) action: Box<dyn Action>,
    pub(crate) token: Token,
    /// Collected and not yet dispatched; not empty exactly while the handler is queued.
    ready: Cell<Readiness>,
    pub(crate) watch: Cell<Watch>,
    pub(crate) fd: RawFd,
    /// What the monitor remembers of this handler.
    pub(crate) monitor: monitor::HandlerState,
    pub(crate) busy: busy_poll::HandlerState,
}

impl fmt::Debug for Handler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handler").field("fd", &self.fd).field("watch", &self.watch).finish_non_exhaustive()
    }
}

impl Handler {
    pub(crate) fn new(
        token: Token,
        fd: RawFd,
        watch: Watch,
        state: monitor::HandlerState,
        action: Box<dyn Action>,
    ) -> Self {
        Self {
            token,
            fd,
            watch: Cell::new(watch),
            ready: Cell::new(Readiness::EMPTY),
            monitor: state,
            busy: Default::default(),
            action,
        }
    }

    /// The readiness to dispatch, taken as the handler leaves the queue.
    #[inline]
    pub(crate) fn take_ready(&self) -> Readiness {
        self.ready.replace(Readiness::EMPTY)
    }

    /// Collected and not dispatched.
    pub(crate) fn is_ready(&self) -> bool {
        !self.ready.get().is_empty()
    }

    /// What an fd handler is told of it: its interest may have changed since.
    pub(crate) fn masked(&self, ready: Readiness) -> Readiness {
        match self.watch.get() {
            Watch::Level(interest) => ready.masked(interest),
            _ => ready,
        }
    }

    /// After the handler has left its slot: what was taken from its eventfd on its behalf, or seen in its device's memory
    /// while the doorbell was off, and has not been dispatched is rung again, for whoever answers the doorbell next.
    pub(crate) fn hand_back(&self, doorbell_was_off: bool) {
        let ready = self.ready.replace(Readiness::EMPTY);
        let Some(doorbell) = self.action.doorbell() else {
            return;
        };
        // Whatever the method: an eventfd with EFD_AUTORESET is reset by every delivery, and whoever made it may not have
        // told us. If the count is still there, the two coalesce.
        let taken = ready.intersects(Readiness::IN);
        let seen = ready.intersects(Readiness::POLLED)
            || doorbell_was_off && self.action.device().is_some_and(BusyPolled::is_ready);
        if taken || seen {
            // The eventfd is open, and a full counter is no error: there is nothing that a caller could mend.
            let _ = doorbell.notify();
        }
    }
}

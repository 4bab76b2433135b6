//! The contract between a monitor and the table of handlers above it: a watched descriptor, and
//! where a wait puts what it collected.

use super::readiness::{Readiness, Watch};
use crate::stats::Counters;
use crate::sys::eventfd::EventFd;
use crate::token::Token;
use std::cell::Cell;
use std::os::fd::RawFd;
use std::sync::Arc;

/// A descriptor under its token, as a monitor sees it.
///
/// The fields that an event touches come first. Together with the action in front of them they fit
/// into one cache line (see `Handler`).
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Watched {
    pub(crate) token: Token,
    pub(crate) fd: RawFd,
    pub(crate) watch: Cell<Watch>,
    /// Collected and not yet dispatched. Not empty exactly while the handler is queued.
    pub(crate) ready: Cell<Readiness>,
    pub(super) state: State,
    /// The eventfd, if this is a doorbell.
    pub(crate) eventfd: Option<Arc<EventFd>>,
}

impl Watched {
    pub(crate) fn new(token: Token, target: Target, state: State) -> Self {
        let Target { fd, watch, eventfd, .. } = target;
        let (watch, ready) = (Cell::new(watch), Cell::new(Readiness::EMPTY));
        Self { token, fd, watch, ready, state, eventfd }
    }

    /// A descriptor that no monitor watches.
    #[cfg(test)]
    pub(crate) fn for_tests(token: Token, target: Target) -> Self {
        Self::new(token, target, State::Epoll)
    }

    /// Takes the collected readiness, as the handler leaves the queue.
    #[inline]
    pub(crate) fn take_ready(&self) -> Readiness {
        self.ready.replace(Readiness::EMPTY)
    }

    /// Returns true if readiness was collected and not dispatched yet.
    pub(crate) fn is_ready(&self) -> bool {
        !self.ready.get().is_empty()
    }

    /// The part of `ready` that an fd handler asked for. Its interest may have changed since.
    pub(crate) fn masked(&self, ready: Readiness) -> Readiness {
        match self.watch.get() {
            Watch::Level(interest) => ready.masked(interest),
            _ => ready,
        }
    }
}

/// What to watch, and how.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) fd: RawFd,
    pub(crate) watch: Watch,
    /// It is open and can be polled, so nobody needs to ask the kernel.
    pub(crate) known: bool,
    /// The eventfd, if this is a doorbell.
    pub(crate) eventfd: Option<Arc<EventFd>>,
}

/// What a monitor remembers of a watched descriptor: one variant for each monitor.
#[derive(Debug)]
pub(crate) enum State {
    Poll(PollState),
    Epoll,
    IoUring(RingState),
}

/// ppoll: where the descriptor is in the array. `None` once it was removed.
#[derive(Debug)]
pub(crate) struct PollState(pub(super) Cell<Option<u32>>);

/// io_uring: the poll or read that the kernel holds for the descriptor.
#[derive(Debug)]
pub(crate) struct RingState {
    /// Key of the READ, if one was started.
    pub(super) read: Cell<Option<u32>>,
    pub(super) arm: Cell<Arm>,
    /// The last poll ended for POLLRDHUP alone, which nobody asked for.
    pub(super) half_closed: Cell<bool>,
}

impl RingState {
    /// Returns true if the kernel has a poll or a read for the descriptor, or will get it with the
    /// next enter.
    pub(super) fn is_armed(&self) -> bool {
        matches!(self.arm.get(), Arm::Armed | Arm::Ending | Arm::Changing)
    }
}

/// Where a descriptor's poll or read is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arm {
    /// Not in the kernel, and not to be armed: removed, or the descriptor failed.
    Idle,
    /// To be submitted by the next wait.
    Queued,
    /// In the kernel (or in the SQ). One completion without F_MORE will end it.
    Armed,
    /// Armed, to be cancelled by the next wait and armed again in another way.
    Ending,
    /// Armed and cancelled, to be armed again with another interest once the cancellation
    /// completed.
    Changing,
}

/// The registered handlers, as a wait uses them. None may be added or removed while it is borrowed.
pub(crate) trait Table {
    /// A live handler.
    type Handler: AsRef<Watched>;

    /// The live handler of a token. `None` if it was removed.
    fn get(&self, token: Token) -> Option<&Self::Handler>;

    /// All live handlers.
    fn each(&self, visit: impl FnMut(&Watched));
}

/// Where a wait puts what it collected, and counts what it did.
pub(crate) trait Sink {
    /// A live handler.
    type Handler: AsRef<Watched>;

    /// A borrow of the table.
    type Live<'a>: Table<Handler = Self::Handler>
    where
        Self: 'a;

    /// Borrows the table for lookups.
    fn live(&self) -> Self::Live<'_>;

    /// Records readiness, and queues the handler for dispatch unless it is queued already.
    fn mark(&self, handler: &Self::Handler, readiness: Readiness);

    /// The counters.
    fn stats(&self) -> &Counters;
}

const _: () = {
    // An event touches the fields in front of `eventfd`; with a boxed action and the two counts of
    // its `Rc` they are to share a cache line.
    assert!(size_of::<Watched>() <= 40);
};

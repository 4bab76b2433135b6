//! The contract of the ways to wait for an eventfd.

use super::syscall::Calls;
use std::io;

/// How long [`Waiter::wait`] waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Patience {
    /// Until there is an event.
    Forever,
    /// Not at all.
    Now,
}

/// Waits for one eventfd in one way. Made and used on one thread, for the sake of the rings.
pub(crate) trait Waiter {
    /// Returns true once the eventfd was signalled since the last time, cleared in the method's own way. A doorbell:
    /// never lost, maybe spurious, signals coalesce. False only for [`Patience::Now`].
    fn wait(&mut self, patience: Patience, calls: &mut Calls) -> io::Result<bool>;
}

//! The trait of the ways to wait for an eventfd.

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

/// Waits for one eventfd in one way. Created and used on one thread, because rings require that.
pub(crate) trait Waiter {
    /// Returns true after the eventfd was signalled since the last call, and clears it in the
    /// method's own way. As with a doorbell, a signal is never lost, several signals may be
    /// reported as one, and a wake-up may be spurious. Returns false only for [`Patience::Now`].
    fn wait(&mut self, patience: Patience, calls: &mut Calls) -> io::Result<bool>;
}

//! What a timer does when it has expired.

use std::rc::Rc;
use std::task::Waker;

/// What is in the table of timers: a callback, or the waker of whoever awaits the time.
pub(super) enum Expiry<C> {
    Call(Rc<dyn Fn(&C)>),
    /// Wakes once. `None` from then on.
    Wake(Option<Waker>),
}

impl<C> Expiry<C> {
    /// What is to be done now. The timer keeps a callback, for the next time.
    #[inline]
    pub(super) fn take(&mut self) -> Self {
        match self {
            Self::Call(callback) => Self::Call(Rc::clone(callback)),
            Self::Wake(waker) => Self::Wake(waker.take()),
        }
    }

    /// Does it: runs code of the user.
    #[inline]
    pub(super) fn run(self, context: &C) {
        match self {
            Self::Call(callback) => callback(context),
            Self::Wake(Some(waker)) => waker.wake(),
            Self::Wake(None) => {}
        }
    }
}

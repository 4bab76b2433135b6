//! What a user holds of a handler.

use super::{Interest, Watch};
use crate::context::Inner;
use crate::token::Token;
use std::fmt;
use std::io;
use std::rc::Weak;

/// Names a handler of one context; may be sent to other threads. See [`AioContext::remove`](crate::AioContext::remove).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HandlerId(pub(crate) Token);

/// A registered handler; dropping it removes the handler, whose callback will not be entered again.
///
/// Belongs to the home thread. From another thread, schedule [`AioContext::remove`](crate::AioContext::remove) with the
/// [`id`](Self::id) through the context's [`Handle`](crate::Handle).
#[must_use = "dropping a registration removes its handler"]
pub struct Registration {
    pub(crate) context: Weak<Inner>,
    pub(crate) token: Token,
}

impl Registration {
    /// The handler's name.
    pub fn id(&self) -> HandlerId {
        HandlerId(self.token)
    }

    /// True until the handler is removed or replaced, or its context dropped.
    pub fn is_live(&self) -> bool {
        self.context.upgrade().is_some_and(|c| c.sink.handlers.get(self.token).is_some())
    }

    /// Changes what an fd handler hears of, from the next wait on. Readiness that was collected already is masked.
    ///
    /// # Errors
    /// `NotFound` if the handler has been removed or replaced, `InvalidInput` for a notifier, and what epoll_ctl(2)
    /// says.
    pub fn set_interest(&self, interest: Interest) -> io::Result<()> {
        let gone = || io::Error::new(io::ErrorKind::NotFound, "this handler has been removed or replaced");
        let context = self.context.upgrade().ok_or_else(gone)?;
        let handler = context.sink.handlers.get(self.token).ok_or_else(gone)?;
        match handler.watch.get() {
            Watch::Level(old) if handler.action.notifier().is_none() => {
                if old == interest {
                    return Ok(());
                }
                handler.watch.set(Watch::Level(interest));
                context
                    .monitor
                    .modify(&handler, &context.sink.stats)
                    .inspect_err(|_| handler.watch.set(Watch::Level(old)))
            }
            _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "a notifier is always and only readable")),
        }
    }

    /// Leaves the handler registered until the context is dropped, or [`AioContext::remove`](crate::AioContext::remove) is called.
    pub fn detach(self) -> HandlerId {
        let id = self.id();
        let mut this = std::mem::ManuallyDrop::new(self);
        // Only the weak pointer needs dropping; removing the handler is what this call avoids.
        this.context = Weak::new();
        id
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        if let Some(context) = self.context.upgrade() {
            context.remove_handler(self.token);
        }
    }
}

impl fmt::Debug for Registration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registration").field("live", &self.is_live()).finish_non_exhaustive()
    }
}

/// A registration that failed: why, and the handler back, unharmed.
pub struct AddError<H> {
    /// Why.
    pub error: io::Error,
    /// The handler that could not be registered.
    pub handler: H,
}

impl<H> fmt::Debug for AddError<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AddError").field("error", &self.error).finish_non_exhaustive()
    }
}

impl<H> fmt::Display for AddError<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.error, f)
    }
}

impl<H> std::error::Error for AddError<H> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

impl<H> From<AddError<H>> for io::Error {
    fn from(e: AddError<H>) -> Self {
        e.error
    }
}

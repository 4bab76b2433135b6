//! The manager of subscribers, as a user holds it.

use super::home;
use super::key::SubscriberId;
use super::member::Member;
use super::ops::Ops;
use super::registry::Registry;
use super::subscribe::Subscriber;
use crate::context::{AioContext, Panics, resume_after};
use crate::refused::Refused;
use std::any::Any;
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

/// The subscribers of a context: the counterpart of event-manager's `EventManager`, without the
/// loop, which is the context's.
///
/// Any number of managers may share a context, also with handlers that are registered with the
/// context itself. Home thread. All methods may be called from any callback, also from the `init`
/// and the `process` of a subscriber; share the manager in an `Rc` for that.
///
/// Dropping it removes all subscribers: first all descriptors leave the loop, then each subscriber
/// is dropped, or when the call returns that it is in. If the `Drop` of one panics, the others are
/// dropped nevertheless, and then the panic goes on. A subscriber that owns its own manager (in an
/// `Rc`) keeps both from being dropped: give it a `Weak`.
pub struct Subscribers {
    pub(super) registry: Rc<Registry>,
    /// False while a closure of another thread looks at it.
    is_owner: bool,
}

impl Subscribers {
    /// A manager without subscribers. No system call.
    pub fn new(context: &AioContext) -> Self {
        Self { registry: Rc::new(Registry::new(context)), is_owner: true }
    }

    /// The same manager, without removing anything when this is dropped.
    pub(super) fn view(registry: Rc<Registry>) -> Self {
        Self { registry, is_owner: false }
    }

    /// Takes a subscriber and calls its [`init`](Subscriber::init). Call this where event-manager
    /// has `add_subscriber`.
    ///
    /// If `init` panics, its descriptors leave the loop and the subscriber is dropped before the
    /// panic goes on. If it [unsubscribes](Ops::unsubscribe), the subscriber is dropped and the id
    /// is unknown when this returns.
    ///
    /// # Errors
    /// `NotConnected` if the context was dropped, or this manager, by a closure that another thread
    /// has scheduled. The subscriber comes back.
    pub fn add<S: Subscriber>(&self, subscriber: S) -> Result<SubscriberId<S>, Refused<S>> {
        let context = match self.registry.context.upgrade() {
            Some(context) if !self.registry.is_closed() => context,
            _ => return Err(Refused { error: no_loop(), value: subscriber }),
        };
        let (key, member) = self.registry.insert(|key| Member::<S>::new(Rc::clone(&self.registry), key));
        let init = || member.call(&context, Box::new(subscriber), |subscriber, ops| subscriber.init(ops));
        if let Err(panic) = catch_unwind(AssertUnwindSafe(init)) {
            resume_after(panic, || {
                if let Some(target) = self.registry.remove(key) {
                    target.discard();
                }
            });
        }
        Ok(SubscriberId::new(key))
    }

    /// Removes a subscriber and returns it. Its descriptors have left the loop then, and events
    /// that this turn has collected for them are dropped.
    ///
    /// # Errors
    /// `NotFound` if this manager does not have it (any more); `ResourceBusy` if it is being
    /// called, by this thread further up the stack, and cannot be returned: see
    /// [`unsubscribe`](Self::unsubscribe). Nothing is changed then.
    pub fn remove<S: Subscriber>(&self, id: SubscriberId<S>) -> io::Result<S> {
        let member = self.member(id)?;
        let subscriber = member.take().ok_or_else(is_called)?;
        drop(self.registry.remove(id.key));
        Ok(*subscriber)
    }

    /// Removes a subscriber and drops it, also while it is being called: its descriptors are
    /// removed at once, and it is dropped when the call returns.
    ///
    /// # Errors
    /// `NotFound` if this manager does not have it (any more).
    pub fn unsubscribe<S: Subscriber>(&self, id: SubscriberId<S>) -> io::Result<()> {
        let target = self.registry.remove(id.key).ok_or_else(unknown_subscriber)?;
        target.discard();
        Ok(())
    }

    /// Calls `call` with a subscriber and its [`Ops`], and returns what it returns. This is
    /// event-manager's `subscriber_mut` and `event_ops` in one. Events of the subscriber are kept
    /// back meanwhile, as during `process`. If `call` panics, the subscriber stays.
    ///
    /// # Errors
    /// `NotFound` if this manager does not have it (any more); `ResourceBusy` if it is being
    /// called already; `NotConnected` if the context was dropped. `call` is not called then.
    pub fn with<S: Subscriber, R>(
        &self,
        id: SubscriberId<S>,
        call: impl FnOnce(&mut S, &mut Ops<'_>) -> R,
    ) -> io::Result<R> {
        let member = self.member(id)?;
        let context = self.registry.context.upgrade().ok_or_else(no_loop)?;
        let subscriber = member.take().ok_or_else(is_called)?;
        Ok(member.call(&context, subscriber, call))
    }

    /// Returns true until the subscriber is removed.
    pub fn contains<S: Subscriber>(&self, id: SubscriberId<S>) -> bool {
        self.registry.get(id.key).is_some()
    }

    fn member<S: Subscriber>(&self, id: SubscriberId<S>) -> io::Result<Rc<Member<S>>> {
        let target = self.registry.get(id.key).ok_or_else(unknown_subscriber)?;
        // The id has the type with which it was made.
        Rc::<dyn Any>::downcast(target).map_err(|_| unknown_subscriber())
    }
}

impl Drop for Subscribers {
    fn drop(&mut self) {
        if !self.is_owner {
            return;
        }
        home::unlist(&self.registry);
        let mut panics = Panics::default();
        let targets = self.registry.close();
        targets.iter().for_each(|target| panics.catch(|| target.discard()));
        panics.resume();
    }
}

impl fmt::Debug for Subscribers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscribers").field("len", &self.registry.len()).finish_non_exhaustive()
    }
}

fn no_loop() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "this event loop, or this manager, was dropped")
}

fn unknown_subscriber() -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, "this manager does not have the subscriber")
}

fn is_called() -> io::Error {
    io::Error::new(io::ErrorKind::ResourceBusy, "the subscriber is being called")
}

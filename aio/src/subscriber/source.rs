//! One descriptor of a subscriber: watched, or kept back while the subscriber is being called.
//!
//! ```text
//!            an event during a call                    the call returns
//! watched ──────────────────────────► kept back ───────────────────────────► watched
//!
//! fd handler   watched for nothing, or not at all     watched again: it is level-triggered,
//!              if it would be reported anyway          so what is still there is reported again
//! notifier     watched on; the ring was taken          rung again
//! ```

use super::key::Key;
use crate::context::{AioContext, Registration};
use crate::monitor::{Interest, Readiness};
use crate::notifier::EventNotifier;
use std::any::Any;
use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::rc::Rc;

/// Who gets the events of a source: a subscriber, whatever its type is.
pub(super) trait Target: Any {
    /// A source is ready.
    fn event(&self, context: &AioContext, source: &Rc<Source>, readiness: Readiness);

    /// It leaves its manager: it gets no more events.
    fn leave(&self);

    /// Drops the subscriber, now, or when the call returns that it is in. Runs user code.
    fn discard(&self);
}

/// A descriptor that a subscriber has added.
pub(super) struct Source {
    pub(super) owner: Key,
    pub(super) fd: RawFd,
    data: Cell<u32>,
    interest: Cell<Interest>,
    /// The notifier behind the descriptor, if it was added as one.
    bell: Option<EventNotifier>,
    is_kept: Cell<bool>,
    is_removed: Cell<bool>,
    /// `None` while it is not watched.
    registration: RefCell<Option<Registration>>,
    name: RefCell<Option<Cow<'static, str>>>,
}

impl Source {
    /// A descriptor, not watched yet.
    pub(super) fn descriptor(owner: Key, fd: RawFd, interest: Interest, data: u32) -> Self {
        Self {
            owner,
            fd,
            data: Cell::new(data),
            interest: Cell::new(interest),
            bell: None,
            is_kept: Cell::new(false),
            is_removed: Cell::new(false),
            registration: RefCell::new(None),
            name: RefCell::new(None),
        }
    }

    /// A notifier, not watched yet.
    pub(super) fn notifier(owner: Key, notifier: &EventNotifier, data: u32) -> Self {
        let source = Self::descriptor(owner, notifier.as_raw_fd(), Interest::READABLE, data);
        Self { bell: Some(notifier.clone()), ..source }
    }

    pub(super) fn data(&self) -> u32 {
        self.data.get()
    }

    pub(super) fn is_removed(&self) -> bool {
        self.is_removed.get()
    }

    /// Has the loop watch it. May run hooks of a handler outside of the manager that has the same
    /// descriptor number and is replaced, so the source may be removed when this returns: that is
    /// an error.
    pub(super) fn watch(self: &Rc<Self>, context: &AioContext, target: &Rc<dyn Target>) -> io::Result<()> {
        let (source, target) = (Rc::clone(self), Rc::clone(target));
        let registration = match &self.bell {
            Some(bell) => context
                .add_notifier(bell, move |context| target.event(context, &source, Readiness::IN))?
                .into_registration(),
            None => {
                let interest = self.interest.get();
                context.add_raw_fd(self.fd, interest, move |context, ready| {
                    target.event(context, &source, ready);
                })?
            }
        };
        if self.is_removed() {
            return Err(unknown_descriptor());
        }
        if let Some(name) = &*self.name.borrow() {
            registration.set_name(name.clone());
        }
        // One that was there is dead: the number has a new handler.
        drop(self.registration.replace(Some(registration)));
        Ok(())
    }

    /// Changes interest and data, both or none.
    pub(super) fn modify(
        self: &Rc<Self>,
        context: &AioContext,
        target: &Rc<dyn Target>,
        interest: Interest,
        data: u32,
    ) -> io::Result<()> {
        if self.bell.is_some() && interest != Interest::READABLE {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "a notifier is always and only readable",
            ));
        }
        // One that is kept back is watched for its new interest when the call returns.
        if self.bell.is_none() && !self.is_kept.get() {
            let before = self.interest.replace(interest);
            let changed = self.set_interest(interest);
            let changed = changed.unwrap_or_else(|| self.watch(context, target));
            changed.inspect_err(|_| self.interest.set(before))?;
        }
        self.interest.set(interest);
        self.data.set(data);
        Ok(())
    }

    /// Names its handler, also those that it gets later.
    pub(super) fn set_name(&self, name: Cow<'static, str>) {
        if let Some(registration) = &*self.registration.borrow() {
            registration.set_name(name.clone());
        }
        self.name.replace(Some(name));
    }

    /// `None` if it is not watched.
    fn set_interest(&self, interest: Interest) -> Option<io::Result<()>> {
        let registration = self.registration.borrow();
        registration.as_ref().map(|registration| registration.set_interest(interest))
    }

    /// Keeps an event back, and has the loop not report it again until [`resume`](Self::resume).
    /// Returns true if it was not kept back before.
    #[cold]
    pub(super) fn keep_back(&self, readiness: Readiness) -> bool {
        if self.bell.is_none() {
            // Errors and hang-ups are reported whatever the interest is.
            let always_reported = readiness.is_error() || readiness.is_hang_up();
            let is_silent =
                !always_reported && self.set_interest(Interest::NONE).is_some_and(|changed| changed.is_ok());
            if !is_silent {
                let registration = self.registration.take();
                drop(registration);
            }
        }
        !self.is_kept.replace(true)
    }

    /// Has the loop report it again.
    #[cold]
    pub(super) fn resume(self: &Rc<Self>, context: &AioContext, target: &Rc<dyn Target>) -> io::Result<()> {
        if !self.is_kept.replace(false) || self.is_removed() {
            return Ok(());
        }
        if let Some(bell) = &self.bell {
            return bell.notify();
        }
        match self.set_interest(self.interest.get()) {
            Some(Ok(())) => return Ok(()),
            // A handler outside of the manager took its number, and is not to lose it again.
            Some(Err(error)) if error.kind() == io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let registration = self.registration.take();
        drop(registration);
        self.watch(context, target)
    }

    /// Ends it. A ring that was kept back stays for the notifier's next handler.
    pub(super) fn remove(&self) {
        self.is_removed.set(true);
        let registration = self.registration.take();
        drop(registration);
        if self.is_kept.replace(false)
            && let Some(bell) = &self.bell
        {
            // The eventfd is open, and a full counter is no error: a caller could not do anything.
            let _ = bell.notify();
        }
    }
}

/// The descriptor number is not one of this subscriber.
pub(super) fn unknown_descriptor() -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, "this subscriber has not added a descriptor of this number")
}

//! What a subscriber may do with its descriptors.

use super::key::Key;
use super::registry::Registry;
use super::source::Source;
use crate::context::AioContext;
use crate::monitor::Interest;
use crate::notifier::EventNotifier;
use std::borrow::Cow;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::rc::Rc;

/// The descriptors of one subscriber, and its context. Handed to
/// [`Subscriber::init`](super::Subscriber::init) and
/// [`Subscriber::process`](super::Subscriber::process), and by
/// [`Subscribers::with`](super::Subscribers::with). event-manager calls this `EventOps`.
///
/// Changes are in force at once: what is added is heard in the next turn, and events that this turn
/// has collected for a descriptor that is removed are dropped.
pub struct Ops<'a> {
    context: &'a AioContext,
    registry: &'a Registry,
    key: Key,
}

impl<'a> Ops<'a> {
    pub(super) fn new(context: &'a AioContext, registry: &'a Registry, key: Key) -> Self {
        Self { context, registry, key }
    }

    /// Has `process` called in every turn in which `fd` is ready (level-triggered, on every
    /// monitor), with `data`. The descriptor stays the subscriber's: [`remove`](Self::remove) it
    /// first, then close it.
    ///
    /// If it is closed first, the manager still has its number, and refuses the next descriptor
    /// that gets the same one.
    ///
    /// # Errors
    /// `AlreadyExists` if a subscriber of this manager has added a descriptor of this number;
    /// nothing is changed then. `NotFound` if this subscriber was removed from its manager. Else as
    /// for [`AioContext::add_fd`].
    pub fn add(&self, fd: &impl AsFd, interest: Interest, data: u32) -> io::Result<()> {
        self.insert(Source::descriptor(self.key, fd.as_fd().as_raw_fd(), interest, data))
    }

    /// Has `process` called after the notifier was rung, with `data`: at least once after the last
    /// ring, perhaps once for many rings, perhaps without need. The loop resets the notifier, or
    /// nobody has to ([`Reset`](crate::Reset)); `process` must not read it.
    ///
    /// Rings before this call count. The notifier's eventfd stays open until it is removed here.
    ///
    /// # Errors
    /// As for [`add`](Self::add), and `Unsupported` if the notifier's reset mode names a method
    /// that this context cannot do.
    pub fn add_notifier(&self, notifier: &EventNotifier, data: u32) -> io::Result<()> {
        self.insert(Source::notifier(self.key, notifier, data))
    }

    /// Replaces the interest and the data of a descriptor that this subscriber has added, from the
    /// next wait on. What this turn has collected is masked, and comes with the new data.
    ///
    /// Names the descriptor by its number, so a [`RawFd`](std::os::fd::RawFd) will do, such as
    /// [`Event::fd`](super::Event::fd).
    ///
    /// # Errors
    /// `NotFound` if it has not; `InvalidInput` for a notifier, unless `interest` is
    /// [`READABLE`](Interest::READABLE); and what epoll_ctl(2) returns. Nothing is changed then.
    pub fn modify(&self, fd: &impl AsRawFd, interest: Interest, data: u32) -> io::Result<()> {
        let source = self.registry.source(self.key, fd.as_raw_fd())?;
        let target = self.registry.get(self.key).ok_or_else(removed)?;
        source.modify(self.context, &target, interest, data)
    }

    /// Names a descriptor or a notifier that this subscriber has added, for
    /// [`AioContext::dump`] and [`SlowCallback`](crate::SlowCallback). It takes the place of an
    /// earlier name.
    ///
    /// # Errors
    /// `NotFound` if it has not.
    pub fn name(&self, fd: &impl AsRawFd, name: impl Into<Cow<'static, str>>) -> io::Result<()> {
        self.registry.source(self.key, fd.as_raw_fd())?.set_name(name.into());
        Ok(())
    }

    /// Removes a descriptor or a notifier that this subscriber has added. The loop and the kernel
    /// have no reference to it any more, as after dropping a
    /// [`Registration`](crate::Registration). A ring that was not processed stays for the
    /// notifier's next handler.
    ///
    /// # Errors
    /// `NotFound` if it has not.
    pub fn remove(&self, fd: &impl AsRawFd) -> io::Result<()> {
        let source = self.registry.source(self.key, fd.as_raw_fd())?;
        self.registry.release(&source);
        Ok(())
    }

    /// Removes this subscriber from its manager. Its descriptors are removed at once. It is dropped
    /// when the call returns that it is in. Does nothing if it was removed already.
    pub fn unsubscribe(&self) {
        // It is being called, so dropping it is left to who calls it.
        drop(self.registry.remove(self.key));
    }

    /// The context, for timers, bottom halves, operations, and nested turns.
    pub fn context(&self) -> &'a AioContext {
        self.context
    }

    fn insert(&self, source: Source) -> io::Result<()> {
        let target = self.registry.get(self.key).ok_or_else(removed)?;
        let source = Rc::new(source);
        self.registry.claim(&source)?;
        let mut claim = Claim { registry: self.registry, source, is_watched: false };
        claim.source.watch(self.context, &target)?;
        claim.is_watched = true;
        Ok(())
    }
}

impl fmt::Debug for Ops<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ops").field("subscriber", &self.key).finish_non_exhaustive()
    }
}

/// The number of a descriptor that is being added. Given back if that fails or panics.
struct Claim<'a> {
    registry: &'a Registry,
    source: Rc<Source>,
    is_watched: bool,
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        if !self.is_watched {
            self.registry.release(&self.source);
        }
    }
}

fn removed() -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, "this subscriber was removed from its manager")
}

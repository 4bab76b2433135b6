//! Handlers: what the loop calls when a descriptor is ready, and the table that finds them.
//!
//! A handler lives in a slot of a slab and is named by a [`Token`]. Readiness is collected as bits in the handler and
//! its token is queued once, so a nested poll that sees the same readiness again merges with what its parent
//! collected, and dispatches it in the parent's place.

use crate::action::Action;
use crate::busy_poll::{self, BusyPolled};
use crate::context::{AioContext, Inner};
use crate::monitor;
use crate::token::{Kind, Token};
use slab::Slab;
use std::cell::{Cell, Ref, RefCell};
use std::fmt;
use std::io;
use std::ops::BitOr;
use std::os::fd::RawFd;
use std::rc::{Rc, Weak};

/// What an fd handler wants to hear of. Errors and hang-ups are always reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Interest(u8);

impl Interest {
    /// Only errors and hang-ups.
    pub const NONE: Self = Self(0);
    /// Data to read, or the end of the stream.
    pub const READABLE: Self = Self(Readiness::IN.0);
    /// Room to write.
    pub const WRITABLE: Self = Self(Readiness::OUT.0);

    /// True if every bit of `other` is in `self`.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The events of poll(2); epoll's have the same values.
    pub(crate) fn poll_events(self) -> u32 {
        self.0.into()
    }
}

impl BitOr for Interest {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// Why an fd handler is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Readiness(u8);

impl Readiness {
    pub(crate) const EMPTY: Self = Self(0);
    // The values of poll(2), so that translating is masking.
    pub(crate) const IN: Self = Self(libc::POLLIN as u8);
    pub(crate) const OUT: Self = Self(libc::POLLOUT as u8);
    pub(crate) const ERROR: Self = Self(libc::POLLERR as u8);
    pub(crate) const HANG_UP: Self = Self(libc::POLLHUP as u8);
    /// Busy polling saw work in memory; the descriptor itself said nothing. Not one of poll(2)'s that [`Self::from_poll`] keeps.
    pub(crate) const POLLED: Self = Self(0x80);

    /// A read would not block: data, the end of the stream, or an error to fetch.
    pub const fn is_readable(self) -> bool {
        self.0 & (Self::IN.0 | Self::HANG_UP.0 | Self::ERROR.0) != 0
    }

    /// A write would not block: there is room, or an error to fetch.
    pub const fn is_writable(self) -> bool {
        self.0 & (Self::OUT.0 | Self::ERROR.0) != 0
    }

    /// POLLERR or POLLNVAL: fetch the error with SO_ERROR or by the next read or write.
    pub const fn is_error(self) -> bool {
        self.0 & Self::ERROR.0 != 0
    }

    /// POLLHUP: the other end has gone.
    pub const fn is_hang_up(self) -> bool {
        self.0 & Self::HANG_UP.0 != 0
    }

    pub(crate) const fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(crate) const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    pub(crate) const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// From the `revents` of poll(2); epoll's and POLL_ADD's have the same values.
    #[inline]
    pub(crate) const fn from_poll(events: u32) -> Self {
        const KEPT: u8 = Readiness::IN.0 | Readiness::OUT.0 | Readiness::ERROR.0 | Readiness::HANG_UP.0;
        let invalid = if events & libc::POLLNVAL as u32 != 0 { Self::ERROR.0 } else { 0 };
        Self(events as u8 & KEPT | invalid)
    }

    /// What a handler with this interest is told: errors and hang-ups always, the rest if it asked.
    fn masked(self, interest: Interest) -> Self {
        Self(self.0 & (interest.0 | Self::ERROR.0 | Self::HANG_UP.0))
    }
}

/// What a monitor is to do with a descriptor. Only [`Action`]s that clear the condition get `Level`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Watch {
    /// Report it in every turn in which it is ready.
    Level(Interest),
    /// Report each new write once.
    Edge,
    /// Keep a READ of the eventfd in flight and report its completion.
    RingRead,
    /// The same with one multishot read.
    RingReadMultishot,
}

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

/// The handlers of one context, and the queue of those that are ready.
#[derive(Default)]
pub(crate) struct Handlers {
    slots: RefCell<Slab<Rc<Handler>>>,
    /// Slot by descriptor number. Only to find the handler that a new one replaces; never to dispatch.
    by_fd: RefCell<Vec<Option<u32>>>,
    versions: Cell<u32>,
    /// How many are ready.
    ready: Cell<usize>,
    /// The first of those. Usually it is the only one, and the queue is not touched.
    first: Cell<Option<Rc<Handler>>>,
    /// The others. All of them are live: a handler that is removed leaves the queue.
    others: RefCell<Queue>,
}

impl fmt::Debug for Handlers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handlers").field("slots", &self.slots).finish_non_exhaustive()
    }
}

impl Handlers {
    /// The token that the next [`insert`](Self::insert) will use; ENOSPC when all 2^28 slots are taken.
    pub(crate) fn next_token(&self) -> io::Result<Token> {
        let slot = self.slots.borrow().vacant_key();
        if slot >= Token::MAX_SLOTS {
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        let version = self.versions.get().wrapping_add(1);
        self.versions.set(version);
        Ok(Token::new(Kind::Handler, slot, version))
    }

    /// Puts a handler, which a monitor watches already, into the slot of its token.
    pub(crate) fn insert(&self, handler: Handler) {
        let (token, fd) = (handler.token, handler.fd);
        let slot = self.slots.borrow_mut().insert(Rc::new(handler));
        debug_assert_eq!(slot, token.slot());
        let fd = fd as usize;
        let mut by_fd = self.by_fd.borrow_mut();
        if by_fd.len() <= fd {
            by_fd.resize(fd + 1, None);
        }
        by_fd[fd] = Some(slot as u32);
    }

    /// The live handler of a token.
    pub(crate) fn get(&self, token: Token) -> Option<Rc<Handler>> {
        self.slots.borrow().get(token.slot()).filter(|h| h.token == token).cloned()
    }

    /// The live handlers, to look some up. None may come or go meanwhile.
    #[inline]
    pub(crate) fn live(&self) -> Live<'_> {
        Live(self.slots.borrow())
    }

    /// The live handler that watches this descriptor number.
    pub(crate) fn get_by_fd(&self, fd: RawFd) -> Option<Rc<Handler>> {
        let slot = (*self.by_fd.borrow().get(usize::try_from(fd).ok()?)?)?;
        self.slots.borrow().get(slot as usize).cloned()
    }

    /// Takes a handler out; its token is stale from here on.
    pub(crate) fn remove(&self, token: Token) -> Option<Rc<Handler>> {
        let mut slots = self.slots.borrow_mut();
        slots.get(token.slot()).filter(|h| h.token == token)?;
        let handler = slots.remove(token.slot());
        let mut by_fd = self.by_fd.borrow_mut();
        if let Some(slot) = by_fd.get_mut(handler.fd as usize)
            && *slot == Some(token.slot() as u32)
        {
            *slot = None;
        }
        if handler.is_ready() {
            self.unqueue(&handler);
        }
        Some(handler)
    }

    /// Takes a handler that is ready out of the queue; its readiness stays, for [`Handler::hand_back`].
    #[cold]
    fn unqueue(&self, handler: &Rc<Handler>) {
        let mut others = self.others.borrow_mut();
        let first = self.first.take().filter(|first| !Rc::ptr_eq(first, handler));
        others.remove(handler);
        let first = first.or_else(|| others.pop());
        self.ready.set(others.len() + usize::from(first.is_some()));
        self.first.set(first);
    }

    /// Takes all handlers out.
    pub(crate) fn clear(&self) -> Vec<Rc<Handler>> {
        self.ready.set(0);
        self.first.set(None);
        self.others.take();
        self.by_fd.borrow_mut().clear();
        self.slots.borrow_mut().drain().collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.borrow().len()
    }

    /// A copy of all live handlers, for the monitor that has to start afresh.
    pub(crate) fn all(&self) -> Vec<Rc<Handler>> {
        self.slots.borrow().iter().map(|(_, h)| Rc::clone(h)).collect()
    }

    /// Records readiness of a live handler.
    #[inline(always)]
    pub(crate) fn mark(&self, handler: &Rc<Handler>, readiness: Readiness) {
        let before = handler.ready.get();
        handler.ready.set(before.union(readiness));
        if !before.is_empty() {
            return;
        }
        match self.ready.replace(self.ready.get() + 1) {
            0 => self.first.set(Some(Rc::clone(handler))),
            _ => self.others.borrow_mut().incoming.push(Rc::clone(handler)),
        }
    }

    #[inline]
    pub(crate) fn next_ready(&self) -> Option<Rc<Handler>> {
        let left = self.ready.get().checked_sub(1)?;
        self.ready.set(left);
        match left {
            0 => self.first.take(),
            _ => self.first.replace(self.others.borrow_mut().pop()),
        }
    }

    #[inline]
    pub(crate) fn any_ready(&self) -> bool {
        self.ready.get() != 0
    }
}

/// First in, first out, of two stacks: shorter code than a ring buffer's.
#[derive(Default)]
struct Queue {
    incoming: Vec<Rc<Handler>>,
    /// Those that come before, the first of them at the end.
    outgoing: Vec<Rc<Handler>>,
}

impl Queue {
    #[inline]
    fn pop(&mut self) -> Option<Rc<Handler>> {
        if self.outgoing.is_empty() {
            self.turn_over();
        }
        self.outgoing.pop()
    }

    #[inline(never)]
    fn turn_over(&mut self) {
        std::mem::swap(&mut self.incoming, &mut self.outgoing);
        self.outgoing.reverse();
    }

    fn len(&self) -> usize {
        self.incoming.len() + self.outgoing.len()
    }

    fn remove(&mut self, handler: &Rc<Handler>) {
        let is_other = |other: &Rc<Handler>| !Rc::ptr_eq(other, handler);
        self.incoming.retain(is_other);
        self.outgoing.retain(is_other);
    }
}

/// A look at the live handlers.
pub(crate) struct Live<'a>(Ref<'a, Slab<Rc<Handler>>>);

impl Live<'_> {
    /// The handler of a token; `None` if it has gone.
    #[inline]
    pub(crate) fn get(&self, token: Token) -> Option<&Rc<Handler>> {
        self.0.get(token.slot()).filter(|handler| handler.token == token)
    }
}

/// Names a handler of one context; may be sent to other threads. See [`AioContext::remove`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HandlerId(pub(crate) Token);

/// A registered handler; dropping it removes the handler, whose callback will not be entered again.
///
/// Belongs to the home thread. From another thread, schedule [`AioContext::remove`] with the
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

    /// Leaves the handler registered until the context is dropped, or [`AioContext::remove`] is called.
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

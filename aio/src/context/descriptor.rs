//! Handlers of descriptors and notifiers: adding them, and what a user holds of them.

use super::action::{Device, OnFd, OnPolledBell, on_bell};
use super::dispatch::{Action, Hooks};
use super::parts::{Parts, bell_target};
use super::turn::AioContext;
use crate::monitor::{Interest, Readiness, Target, Watch};
use crate::notifier::EventNotifier;
use crate::refused::Refused;
use crate::reset::{Method, Obstacle};
use crate::sys::eventfd::EventFd;
use crate::token::Token;
use std::borrow::Cow;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::rc::{Rc, Weak};
use std::sync::Arc;

/// Identity of a handler of one context; may be sent to other threads. It has a version, so the id
/// of a handler that was removed removes no other one, unless 2^32 were added since. To be used
/// with the context that returned it. See [`AioContext::remove`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HandlerId(Token);

/// A registered handler. Dropping it removes the handler, whose callback will not be entered again.
///
/// Belongs to the home thread. From another thread, schedule [`AioContext::remove`] with the
/// [`id`](Self::id) through the context's [`Handle`](crate::Handle).
#[must_use = "dropping a registration removes its handler"]
pub struct Registration {
    context: Weak<Parts<AioContext>>,
    token: Token,
}

impl Registration {
    /// The handler's id, with which it can be [removed](AioContext::remove) from elsewhere.
    pub fn id(&self) -> HandlerId {
        HandlerId(self.token)
    }

    /// Names the handler, for [`AioContext::dump`] and [`SlowCallback`](crate::SlowCallback).
    /// It takes the place of an earlier name. No effect once the handler was removed.
    #[must_use = "dropping a registration removes its handler"]
    pub fn named(self, name: impl Into<Cow<'static, str>>) -> Self {
        self.set_name(name.into());
        self
    }

    pub(crate) fn set_name(&self, name: Cow<'static, str>) {
        let handler = self.context.upgrade().and_then(|context| context.sources.handlers.get(self.token));
        if let Some(handler) = handler {
            handler.record.set_name(name);
        }
    }

    /// Returns true until the handler is removed or replaced, or its context dropped.
    pub fn is_live(&self) -> bool {
        self.context.upgrade().is_some_and(|context| context.is_live(self.token))
    }

    /// Changes what an fd handler is called for, from the next wait on. Readiness that was
    /// collected already is masked. May be called by the handler itself. On epoll one system call
    /// (and on an [embeddable](crate::Builder::embeddable) poll monitor), else none.
    ///
    /// # Errors
    /// `NotFound` if the handler was removed or replaced, `InvalidInput` for a notifier, and what
    /// epoll_ctl(2) returns.
    pub fn set_interest(&self, interest: Interest) -> io::Result<()> {
        let dropped = || io::Error::new(io::ErrorKind::NotFound, "the context of this handler was dropped");
        self.context.upgrade().ok_or_else(dropped)?.set_interest(self.token, interest)
    }

    /// Leaves the handler registered until the context is dropped, or [`AioContext::remove`] is
    /// called.
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
            context.remove(self.token);
        }
    }
}

impl fmt::Debug for Registration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registration").field("live", &self.is_live()).finish_non_exhaustive()
    }
}

/// A registered notifier, and the reset method that was chosen for it. Dropping it removes the
/// handler. A ring that was not dispatched stays for the notifier's next handler, in this context
/// or another.
#[derive(Debug)]
#[must_use = "dropping a registration removes its handler"]
pub struct NotifierRegistration {
    registration: Registration,
    method: Method,
    fallback: Option<Obstacle>,
}

impl NotifierRegistration {
    /// The same as [`Registration::named`].
    #[must_use = "dropping a registration removes its handler"]
    pub fn named(self, name: impl Into<Cow<'static, str>>) -> Self {
        Self { registration: self.registration.named(name), ..self }
    }

    /// The method that was chosen: who resets the eventfd.
    pub fn method(&self) -> Method {
        self.method
    }

    /// Why [`Reset::Autoreset`](crate::Reset::Autoreset) ended with a read(2) after all; `None` if
    /// it did not.
    pub fn fallback(&self) -> Option<&str> {
        self.fallback.as_deref()
    }

    /// The registration alone, to keep it with those of descriptors. Removes nothing.
    pub fn into_registration(self) -> Registration {
        self.registration
    }

    pub(super) fn into_parts(self) -> (Registration, Method, Option<Obstacle>) {
        (self.registration, self.method, self.fallback)
    }
}

impl std::ops::Deref for NotifierRegistration {
    type Target = Registration;
    fn deref(&self) -> &Registration {
        &self.registration
    }
}

/// A device whose work shows in memory, such as a virtqueue by its avail index. Registered with
/// [`AioContext::add_polled_notifier`]. All methods run in the home thread.
///
/// A method may panic: the panic unwinds out of [`AioContext::poll`], and what was not done then is
/// done by the next turn. The device may be asked to process work that is not there after that.
///
/// ```
/// use aio::{AioContext, BusyPolled, BusyPolling, EventNotifier, Reset};
/// use std::cell::Cell;
/// use std::rc::Rc;
/// use std::sync::Arc;
/// use std::sync::atomic::{AtomicBool, AtomicU16, Ordering, fence};
///
/// /// What driver and device share.
/// #[derive(Default)]
/// struct Ring {
///     avail_index: AtomicU16,
///     no_kicks: AtomicBool,
/// }
///
/// struct Queue {
///     ring: Arc<Ring>,
///     next: Cell<u16>,
/// }
///
/// impl BusyPolled for Queue {
///     fn process(&self, _: &AioContext) {
///         while self.is_ready() {
///             self.next.set(self.next.get().wrapping_add(1)); // serves one request
///         }
///     }
///     fn is_ready(&self) -> bool {
///         self.ring.avail_index.load(Ordering::Acquire) != self.next.get()
///     }
///     fn begin(&self) {
///         self.ring.no_kicks.store(true, Ordering::Relaxed);
///     }
///     fn end(&self) {
///         self.ring.no_kicks.store(false, Ordering::Relaxed);
///         fence(Ordering::SeqCst); // the loop asks `is_ready` next, which must not come first
///     }
/// }
///
/// # fn main() -> std::io::Result<()> {
/// let ctx = AioContext::builder().busy_polling(BusyPolling::up_to_ns(32_768)).build()?;
/// let (ring, kick) = (Arc::<Ring>::default(), EventNotifier::new(Reset::Autoreset)?);
/// let queue = Rc::new(Queue { ring: Arc::clone(&ring), next: Cell::new(0) });
/// let _doorbell = ctx.add_polled_notifier(&kick, Rc::clone(&queue))?;
///
/// let driver = std::thread::spawn(move || {
///     ring.avail_index.fetch_add(1, Ordering::SeqCst);
///     if !ring.no_kicks.load(Ordering::SeqCst) {
///         kick.notify().expect("it is an eventfd");
///     }
/// });
/// while queue.next.get() == 0 {
///     ctx.poll(true)?;
/// }
/// driver.join().expect("the driver does not panic");
/// # Ok(())
/// # }
/// ```
pub trait BusyPolled: 'static {
    /// The doorbell rang, or [`is_ready`](Self::is_ready) returned true: do the work. Tolerate that
    /// there is none.
    fn process(&self, context: &AioContext);

    /// Is there work? Called very often: look at memory only, take nothing, call nothing of the
    /// context.
    fn is_ready(&self) -> bool;

    /// Polling begins: the doorbell may be switched off. Must not poll the context.
    fn begin(&self) {}

    /// Polling ends: switch the doorbell on. `is_ready` is asked once more after it. Every `begin`
    /// is followed by one `end`, also if the handler is removed or the context dropped in between;
    /// if there is work then, the doorbell is rung for the next handler. Must not poll the context.
    fn end(&self) {}
}

/// A user's device, as an action holds it.
struct Polled<D>(Rc<D>);

impl<D: BusyPolled> Hooks for Polled<D> {
    fn is_ready(&self) -> bool {
        self.0.is_ready()
    }

    fn begin(&self) {
        self.0.begin();
    }

    fn end(&self) {
        self.0.end();
    }
}

impl<D: BusyPolled> Device<AioContext> for Polled<D> {
    fn process(&self, context: &AioContext) {
        self.0.process(context);
    }
}

impl AioContext {
    /// Calls `callback` in every turn in which `fd` is ready (level-triggered, on every monitor).
    ///
    /// The handler owns the descriptor and closes it when the registration is dropped, or after the
    /// callback if that drops it. To use it in the callback, too, pass an `Rc` or an `Arc` of it.
    /// Dropping the registration leaves no reference to the file in the loop or the kernel.
    ///
    /// A callback that turns the loop ([`poll`](Self::poll)) may be entered again from there, while
    /// its descriptor is ready. That is why it is `Fn`: keep what it changes in a `Cell` or a
    /// `RefCell`, and hold no borrow while the loop turns.
    ///
    /// If a handler of this context has the same descriptor number, the new one takes its place, as
    /// with QEMU's aio_set_fd_handler, and the old registration is dead.
    ///
    /// ```
    /// # use aio::{AioContext, Interest};
    /// # use std::io::{Read, Write};
    /// # use std::{cell::Cell, os::unix::net::UnixStream, rc::Rc};
    /// # fn main() -> std::io::Result<()> {
    /// let ctx = AioContext::new()?;
    /// let (stream, mut peer) = UnixStream::pair()?;
    /// let (stream, received) = (Rc::new(stream), Rc::new(Cell::new(0)));
    /// let registration = ctx.add_fd(Rc::clone(&stream), Interest::READABLE, {
    ///     let received = Rc::clone(&received);
    ///     move |_, _| received.set((&*stream).read(&mut [0; 16]).unwrap_or(0))
    /// })?;
    /// peer.write_all(b"hello")?;
    /// while received.get() == 0 {
    ///     ctx.poll(true)?;
    /// }
    /// drop(registration); // closes the stream: the peer sees the end of it
    /// assert_eq!(peer.read(&mut [0])?, 0);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// The descriptor and the callback come back with the reason: `InvalidInput` for a closed
    /// descriptor, `PermissionDenied` for one that is always ready (most regular files, a
    /// directory, /dev/null), else what epoll_ctl(2) returns.
    pub fn add_fd<D, F>(
        &self,
        fd: D,
        interest: Interest,
        callback: F,
    ) -> Result<Registration, Refused<(D, F)>>
    where
        D: AsFd + 'static,
        F: Fn(&AioContext, Readiness) + 'static,
    {
        let target = fd_target(fd.as_fd().as_raw_fd(), interest);
        let mut held = Some((fd, callback));
        let action = || -> Box<dyn Action<Self>> {
            let (fd, callback) = take(&mut held);
            Box::new(OnFd(callback, fd))
        };
        match self.register(target, action) {
            Ok(registration) => Ok(registration),
            Err(error) => Err(Refused { error, value: take(&mut held) }),
        }
    }

    /// The same for a descriptor that somebody else owns, and must keep open while the registration
    /// lives: drop the registration first, then close the descriptor.
    ///
    /// If it is closed first, its number may be given to another file while the loop still has the
    /// handler; nothing unsafe follows from that, but one of the two is not heard.
    ///
    /// # Errors
    /// As for [`add_fd`](Self::add_fd); the callback comes back.
    pub fn add_borrowed_fd<F>(
        &self,
        fd: &impl AsFd,
        interest: Interest,
        callback: F,
    ) -> Result<Registration, Refused<F>>
    where
        F: Fn(&AioContext, Readiness) + 'static,
    {
        self.add_raw_fd(fd.as_fd().as_raw_fd(), interest, callback)
    }

    /// The same for a descriptor that is known by its number only.
    pub(crate) fn add_raw_fd<F>(
        &self,
        fd: RawFd,
        interest: Interest,
        callback: F,
    ) -> Result<Registration, Refused<F>>
    where
        F: Fn(&AioContext, Readiness) + 'static,
    {
        let mut callback = Some(callback);
        let action = || -> Box<dyn Action<Self>> { Box::new(OnFd(take(&mut callback), ())) };
        match self.register(fd_target(fd, interest), action) {
            Ok(registration) => Ok(registration),
            Err(error) => Err(Refused { error, value: take(&mut callback) }),
        }
    }

    /// Calls `callback` after the notifier was rung: at least once after the last ring, perhaps
    /// once for many rings, perhaps without need. The notifier's eventfd stays open while it is
    /// registered.
    ///
    /// Rings before this call count. Registering a notifier that has a handler in this context
    /// replaces that handler. A callback that turns the loop may be entered again from there, if
    /// the notifier is rung meanwhile; see [`add_fd`](Self::add_fd).
    ///
    /// # Errors
    /// The callback comes back with the reason: `Unsupported` if the notifier's reset mode names a
    /// method that this context cannot do, else as for [`add_fd`](Self::add_fd).
    pub fn add_notifier<F>(
        &self,
        notifier: &EventNotifier,
        callback: F,
    ) -> Result<NotifierRegistration, Refused<F>>
    where
        F: Fn(&AioContext) + 'static,
    {
        let mut callback = Some(callback);
        let action = |eventfd, method| on_bell(eventfd, method, take(&mut callback));
        match self.register_notifier(notifier, action) {
            Ok(registration) => Ok(registration),
            Err(error) => Err(Refused { error, value: take(&mut callback) }),
        }
    }

    /// The same for a device that can be busy polled. Its [`process`](BusyPolled::process) may turn
    /// the loop: it is not entered again from there by busy polling, but by its doorbell. The loop
    /// keeps a reference to the device until the registration is dropped.
    ///
    /// # Errors
    /// As for [`add_notifier`](Self::add_notifier).
    pub fn add_polled_notifier<D: BusyPolled>(
        &self,
        notifier: &EventNotifier,
        device: Rc<D>,
    ) -> Result<NotifierRegistration, Refused<Rc<D>>> {
        let action = |eventfd, method| -> Box<dyn Action<Self>> {
            Box::new(OnPolledBell { eventfd, method, device: Polled(Rc::clone(&device)) })
        };
        match self.register_notifier(notifier, action) {
            Ok(registration) => Ok(registration),
            Err(error) => Err(Refused { error, value: device }),
        }
    }

    fn register_notifier(
        &self,
        notifier: &EventNotifier,
        action: impl FnOnce(Arc<EventFd>, Method) -> Box<dyn Action<Self>>,
    ) -> io::Result<NotifierRegistration> {
        let (method, fallback) = self.parts.resolve(notifier)?;
        let registration =
            self.register(bell_target(notifier, method), || action(Arc::clone(notifier.eventfd()), method))?;
        Ok(NotifierRegistration { registration, method, fallback })
    }

    fn register(
        &self,
        target: Target,
        action: impl FnOnce() -> Box<dyn Action<Self>>,
    ) -> io::Result<Registration> {
        register(&self.parts, target, action)
    }

    /// Removes a handler by its id, as dropping its [`Registration`] does. Returns false if it was
    /// already removed. Its callback will not be entered again, and is dropped with what it owns:
    /// in this call or, if it runs further up the stack, when it returns.
    pub fn remove(&self, handler: HandlerId) -> bool {
        self.parts.remove(handler.0)
    }
}

/// Registers a handler, in place of one that the descriptor number may have already.
pub(super) fn register(
    parts: &Rc<Parts<AioContext>>,
    target: Target,
    action: impl FnOnce() -> Box<dyn Action<AioContext>>,
) -> io::Result<Registration> {
    let (token, replaced) = parts.register(target, action)?;
    // Removes the new handler, too, if a hook of the old one panics.
    let registration = Registration { context: Rc::downgrade(parts), token };
    parts.replaced(replaced);
    Ok(registration)
}

fn fd_target(fd: RawFd, interest: Interest) -> Target {
    Target { fd, watch: Watch::Level(interest), known: false, eventfd: None }
}

/// Takes what exactly one of the two ends of a registration uses.
fn take<F>(held: &mut Option<F>) -> F {
    match held.take() {
        Some(held) => held,
        None => unreachable!("a registration either stores its callback or returns it"),
    }
}

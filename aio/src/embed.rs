//! A context inside another event loop.

use crate::context::{AioContext, Prepared};
use crate::refused::Refused;
use std::borrow::Borrow;
use std::fmt;
use std::io;
use std::ops::Deref;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

/// A context that is turned by another event loop, the *outer loop*: GLib's main loop, tokio,
/// calloop, or an epoll loop of your own. The outer loop sleeps; the context is a descriptor and a
/// deadline to it.
///
/// `C` owns or borrows the context: `AioContext`, `Rc<AioContext>` or `&AioContext`. It must have
/// been made with [`Builder::embeddable`](crate::Builder::embeddable), and the outer loop must run
/// in its home thread. It dereferences to the context, which is used as any other meanwhile.
///
/// # One turn
///
/// A turn has the three parts of a GSource:
///
/// ```text
/// prepare()   before the outer loop sleeps: is something due, and how long may it sleep?
///             the outer loop sleeps until the descriptor is readable or the deadline has passed
/// check()     looks at the kernel without sleeping: is something due?
/// dispatch()  if so: runs it
/// ```
///
/// Call `prepare` again after each `dispatch`. Whatever happens between the two makes the
/// descriptor readable if the outer loop has to come back: another thread notifies the context or
/// schedules a closure, a doorbell rings, or code in the home thread schedules a bottom half, arms
/// a timer, adds a handler, submits an operation, or turns the context with
/// [`poll`](AioContext::poll).
///
/// ```
/// use aio::{AioContext, Embedded};
/// # use std::os::fd::AsRawFd;
/// # use std::{cell::Cell, rc::Rc};
/// # fn sleep(fd: i32, timeout: Option<std::time::Duration>) {
/// #     let ms = timeout.map_or(-1, |t| t.as_nanos().div_ceil(1_000_000) as i32);
/// #     let mut fds = [libc::pollfd { fd, events: libc::POLLIN, revents: 0 }];
/// #     unsafe { libc::poll(fds.as_mut_ptr(), 1, ms) };
/// # }
/// # fn main() -> std::io::Result<()> {
/// let ctx = Embedded::new(AioContext::builder().embeddable().build()?)?;
/// # let (done, flag) = (Rc::new(Cell::new(false)), Rc::new(Cell::new(false)));
/// # let done_too = Rc::clone(&done);
/// # let timer = ctx.timer(move |_| done_too.set(true));
/// # timer.arm_after(std::time::Duration::from_millis(1));
/// # drop(flag);
/// while !done.get() {
///     let prepared = ctx.prepare()?;
///     sleep(ctx.as_raw_fd(), prepared.timeout()); // poll(2), with other descriptors, too
///     if ctx.check()? {
///         ctx.dispatch()?;
///     }
/// }
/// # Ok(())
/// # }
/// ```
///
/// # Edge-triggered outer loops
///
/// A loop that hears only of changes (EPOLLET, tokio's `AsyncFd`) must look before it sleeps,
/// because nothing changes if a handler leaves its descriptor ready: call `prepare`, then `check`,
/// and sleep only if neither of them found anything. What becomes ready after this `check` is a
/// change. With `AsyncFd`, clear the readiness before the `check`.
///
/// # What is different
///
/// * Interrupted sleeps are normal. On io_uring, epoll_wait(2) returns EINTR when a completion
///   arrives, and returns the descriptor the next time.
/// * Busy polling is off: `prepare` leaves the mode, so doorbells are on while the outer loop
///   sleeps. Only turns by [`poll`](AioContext::poll) busy poll.
/// * [`Handle::stop`](crate::Handle::stop) is for [`run`](AioContext::run). It wakes the outer loop
///   and does not end it.
/// * Notifiers are not reset by [`Method::KernelFlag`](crate::Method::KernelFlag) on a kernel that
///   resets them inside poll: the outer loop would consume the event.
///
/// # System calls
///
/// | | poll | epoll | io_uring |
/// |---|---|---|---|
/// | `prepare` | none | none | io_uring_enter if something is to be submitted |
/// | `check` | ppoll, and epoll_wait if that finds nothing | epoll_wait | none, unless something is to be submitted or memory tells of task work |
/// | `dispatch` | – | – | – |
/// | add, change, remove a handler | epoll_ctl | as ever | as ever |
/// | the first thing that the home thread adds after `prepare` | write | write | write |
///
/// Dropping it takes the context from the outer loop; the context works as before.
#[must_use = "dropping it takes the context from the outer loop"]
pub struct Embedded<C: Borrow<AioContext>> {
    context: C,
}

impl<C: Borrow<AioContext>> Embedded<C> {
    /// Embeds a context. No system call.
    ///
    /// # Errors
    /// `InvalidInput` if it was not made with [`Builder::embeddable`](crate::Builder::embeddable),
    /// `ResourceBusy` if it is embedded already, `Unsupported` in a forked child. The context comes
    /// back with the error.
    pub fn new(context: C) -> Result<Self, Refused<C>> {
        let begun = context.borrow().begin_embedding();
        match begun {
            Ok(()) => Ok(Self { context }),
            Err(error) => Err(Refused { error, value: context }),
        }
    }

    /// What was embedded. For its methods, the `Embedded` itself will do.
    pub fn context(&self) -> &C {
        &self.context
    }

    /// Before the outer loop sleeps: submits what is queued, makes other threads' notifications
    /// visible at the descriptor, and returns how long to sleep. Does not block. May be called
    /// again, and from a callback.
    ///
    /// Runs no callback, but the `end` hooks of devices that are
    /// [busy polled](crate::BusyPolled), which may panic.
    ///
    /// # Errors
    /// What io_uring_enter(2) returns; `Unsupported` in a forked child. Do not sleep then.
    pub fn prepare(&self) -> io::Result<Prepared> {
        self.context.borrow().prepare()
    }

    /// After the outer loop slept, or before an edge-triggered one sleeps: collects what the kernel
    /// has. Does not block, and calls no user code. Returns true if `dispatch` has something to do.
    /// If not, the outer loop may go on sleeping until the same deadline.
    ///
    /// # Errors
    /// As for [`AioContext::poll`].
    pub fn check(&self) -> io::Result<bool> {
        self.context.borrow().check()
    }

    /// Runs what is due, in the order of a [turn](AioContext::poll), and with the same rules for
    /// nesting and panics. Returns true if a callback ran, not counting idle bottom halves. Makes
    /// no system call of its own, and waits for nothing but the callbacks. May be called without
    /// need, and from a callback.
    ///
    /// # Errors
    /// As for [`AioContext::poll`].
    pub fn dispatch(&self) -> io::Result<bool> {
        self.context.borrow().dispatch()
    }
}

impl<C: Borrow<AioContext>> Deref for Embedded<C> {
    type Target = AioContext;

    fn deref(&self) -> &AioContext {
        self.context.borrow()
    }
}

/// The descriptor to sleep on. It is readable while [`check`](Embedded::check) would find something
/// in the kernel; nothing is ever read from it. It stays the same while the context lives.
impl<C: Borrow<AioContext>> AsFd for Embedded<C> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self.context.borrow().outer_descriptor() {
            Some(fd) => fd,
            None => unreachable!("an embeddable context has a descriptor"),
        }
    }
}

impl<C: Borrow<AioContext>> AsRawFd for Embedded<C> {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

impl<C: Borrow<AioContext>> Drop for Embedded<C> {
    fn drop(&mut self) {
        self.context.borrow().end_embedding();
    }
}

impl<C: Borrow<AioContext>> fmt::Debug for Embedded<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Embedded").field("context", self.context.borrow()).finish()
    }
}

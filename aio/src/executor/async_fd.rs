//! Awaiting a descriptor.
//!
//! The loop's handlers are level-triggered. The handler of an [`AsyncFd`] notes the readiness and
//! wakes who waits for it. The task runs in the same turn, and usually reads or writes until the
//! descriptor is not ready any more; then there is nothing to change before the next wait. If
//! nobody takes notice, the next turn calls the handler again, which then turns itself off until
//! somebody waits. So awaiting costs no system call while a task keeps up with its descriptor.

use crate::context::{AioContext, Registration, WeakContext};
use crate::monitor::{Interest, Readiness};
use crate::refused::Refused;
use slab::Slab;
use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// A descriptor that tasks await. Made by [`AioContext::async_fd`]; closes the descriptor when it
/// is dropped, unless that is borrowed.
///
/// The descriptor must be non-blocking (O_NONBLOCK). Several tasks may wait at once, in an `Rc`
/// for example one that reads and one that writes. All futures can be dropped at any time without
/// losing readiness or data. Home thread. Awaiting makes no system call while a task keeps up with
/// its descriptor; else see the table of [system calls](crate#system-calls).
pub struct AsyncFd<D: AsFd> {
    /// Comes first, so the handler is removed before the descriptor is closed.
    listener: Listener,
    fd: D,
}

/// The handler and its state. Dropping it removes the handler.
struct Listener {
    context: WeakContext,
    state: Rc<State>,
}

struct State {
    /// What the descriptor was found ready for and nobody has found wrong since.
    ready: Cell<Readiness>,
    /// What the handler is called for.
    interest: Cell<Interest>,
    /// `None` while it is off because of a hang-up, which is reported whatever the interest is.
    registration: RefCell<Option<Registration>>,
    waiters: RefCell<Slab<Waiter>>,
    name: RefCell<Option<Cow<'static, str>>>,
}

struct Waiter {
    interest: Interest,
    /// Taken when it was woken.
    waker: Option<Waker>,
}

/// A descriptor that was reported ready. See [`AsyncFd::ready`]. Dropping it changes nothing: the
/// descriptor counts as ready until [`clear_ready`](Self::clear_ready).
#[must_use = "a guard does nothing unless it is used"]
pub struct ReadyGuard<'a, D: AsFd> {
    async_fd: &'a AsyncFd<D>,
    ready: Readiness,
}

impl State {
    /// In the handler.
    fn report(&self, ready: Readiness) {
        self.ready.set(self.ready.get().union(ready));
        let mut woken = false;
        while let Some(waker) = self.next_to_wake() {
            woken = true;
            waker.wake();
        }
        if !woken {
            self.turn_off(ready);
        }
    }

    fn next_to_wake(&self) -> Option<Waker> {
        let ready = self.ready.get();
        let mut waiters = self.waiters.borrow_mut();
        waiters.iter_mut().find_map(|(_, waiter)| match ready.masked(waiter.interest).is_empty() {
            true => None,
            false => waiter.waker.take(),
        })
    }

    /// Nobody waits for what is reported.
    fn turn_off(&self, ready: Readiness) {
        if ready.is_error() || ready.is_hang_up() {
            let registration = self.registration.take();
            self.interest.set(Interest::NONE);
            drop(registration);
            return;
        }
        let wanted = self.wanted();
        let set = match &*self.registration.borrow() {
            Some(registration) => registration.set_interest(wanted),
            None => return,
        };
        // If it cannot be turned off it is called again, which is no more than a waste.
        if set.is_ok() {
            self.interest.set(wanted);
        }
    }

    /// What somebody waits for.
    fn wanted(&self) -> Interest {
        let waiters = self.waiters.borrow();
        let waiting = waiters.iter().filter(|(_, waiter)| waiter.waker.is_some());
        waiting.fold(Interest::NONE, |all, (_, waiter)| all | waiter.interest)
    }

    fn clear(&self, ready: Readiness) {
        self.ready.set(self.ready.get().without(ready));
    }
}

/// One future's place among the waiters.
struct Place<'a> {
    state: &'a State,
    key: Option<usize>,
}

impl Place<'_> {
    /// Leaves a waker.
    fn wait(&mut self, interest: Interest, waker: &Waker) {
        let kept = self.key.and_then(|key| self.state.waiters.borrow_mut().get_mut(key)?.waker.take());
        let waker = match kept {
            Some(kept) if kept.will_wake(waker) => kept,
            _ => waker.clone(),
        };
        let mut waiters = self.state.waiters.borrow_mut();
        match self.key.and_then(|key| waiters.get_mut(key)) {
            Some(waiter) => waiter.waker = Some(waker),
            None => self.key = Some(waiters.insert(Waiter { interest, waker: Some(waker) })),
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let waiter = self.key.and_then(|key| self.state.waiters.borrow_mut().try_remove(key));
        drop(waiter);
    }
}

impl Listener {
    /// Has the handler called for this, too.
    fn listen_for(&self, fd: &impl AsFd, interest: Interest) -> io::Result<()> {
        let state = &self.state;
        if let Some(on) = &*state.registration.borrow() {
            let wanted = state.interest.get() | interest;
            if wanted == state.interest.get() && on.is_live() {
                return Ok(());
            }
            on.set_interest(wanted)?;
            state.interest.set(wanted);
            return Ok(());
        }
        let gone = || io::Error::new(io::ErrorKind::NotConnected, "this event loop was dropped");
        let context = self.context.upgrade().ok_or_else(gone)?;
        let wanted = state.wanted() | interest;
        let registration = register(&context, fd, wanted, state)?;
        state.interest.set(wanted);
        let old = state.registration.replace(Some(registration));
        drop(old);
        Ok(())
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // The handler has a reference to the state, which therefore does not go by itself.
        let registration = self.state.registration.take();
        drop(registration);
    }
}

impl<D: AsFd> AsyncFd<D> {
    /// Names the handler of the descriptor, as
    /// [`Registration::named`](crate::Registration::named) does. The work that a task does with the
    /// descriptor goes under the name of the task.
    pub fn named(self, name: impl Into<Cow<'static, str>>) -> Self {
        let (state, name) = (&self.listener.state, name.into());
        if let Some(registration) = &*state.registration.borrow() {
            registration.set_name(name.clone());
        }
        state.name.replace(Some(name));
        self
    }

    /// Waits until the descriptor is ready for something of `interest`, or has an error or a
    /// hang-up to report.
    ///
    /// Returns at once if it was ready the last time, and was not found otherwise since: a read or
    /// write that returns `WouldBlock` must be followed by [`ReadyGuard::clear_ready`], which
    /// [`ReadyGuard::try_io`] does.
    ///
    /// # Errors
    /// `NotConnected` if the context was dropped, `NotFound` if another handler took the place of
    /// this one, and what epoll_ctl(2) returns.
    pub async fn ready(&self, interest: Interest) -> io::Result<ReadyGuard<'_, D>> {
        let mut place = Place { state: &self.listener.state, key: None };
        let ready = poll_fn(|cx| self.poll_ready(interest, &mut place, cx)).await?;
        Ok(ReadyGuard { async_fd: self, ready })
    }

    /// Waits until there is something to read. See [`ready`](Self::ready).
    ///
    /// # Errors
    /// As for [`ready`](Self::ready).
    pub async fn readable(&self) -> io::Result<ReadyGuard<'_, D>> {
        self.ready(Interest::READABLE).await
    }

    /// Waits until there is room to write. See [`ready`](Self::ready).
    ///
    /// # Errors
    /// As for [`ready`](Self::ready).
    pub async fn writable(&self) -> io::Result<ReadyGuard<'_, D>> {
        self.ready(Interest::WRITABLE).await
    }

    /// Calls `operation` until it returns anything but `WouldBlock`, and waits for `interest` in
    /// between. The first call is made at once. If the future is dropped while it waits, the
    /// operation has had no effect.
    ///
    /// # Errors
    /// What `operation` returns, and as for [`ready`](Self::ready).
    pub async fn io<R>(
        &self,
        interest: Interest,
        mut operation: impl FnMut(&D) -> io::Result<R>,
    ) -> io::Result<R> {
        loop {
            match operation(&self.fd) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return result,
            }
            let state = &self.listener.state;
            state.clear(state.ready.get().masked(interest));
            let _ = self.ready(interest).await?;
        }
    }

    /// The descriptor.
    pub fn get_ref(&self) -> &D {
        &self.fd
    }

    /// Returns the descriptor, still open. The loop has no reference to it any more.
    pub fn into_inner(self) -> D {
        drop(self.listener);
        self.fd
    }

    fn poll_ready(
        &self,
        interest: Interest,
        place: &mut Place<'_>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<Readiness>> {
        let ready = self.listener.state.ready.get().masked(interest);
        if !ready.is_empty() {
            return Poll::Ready(Ok(ready));
        }
        place.wait(interest, cx.waker());
        match self.listener.listen_for(&self.fd, interest) {
            Ok(()) => Poll::Pending,
            Err(error) => Poll::Ready(Err(error)),
        }
    }
}

fn register(
    context: &AioContext,
    fd: &impl AsFd,
    interest: Interest,
    state: &Rc<State>,
) -> io::Result<Registration> {
    let listening = Rc::clone(state);
    let registration = context.add_borrowed_fd(fd, interest, move |_, ready| listening.report(ready))?;
    if let Some(name) = &*state.name.borrow() {
        registration.set_name(name.clone());
    }
    Ok(registration)
}

impl<D: AsFd> ReadyGuard<'_, D> {
    /// What the descriptor was ready for.
    pub fn readiness(&self) -> Readiness {
        self.ready
    }

    /// Says that it is not ready any more. Call this after an operation has returned `WouldBlock`,
    /// and only then: data that is left would not be reported again by
    /// [`AsyncFd::ready`] before the loop has looked.
    pub fn clear_ready(&mut self) {
        self.async_fd.listener.state.clear(self.ready);
    }

    /// Calls `operation`. If it returns `WouldBlock`, clears the readiness and returns `None`: wait
    /// again.
    pub fn try_io<R>(&mut self, operation: impl FnOnce(&D) -> io::Result<R>) -> Option<io::Result<R>> {
        match operation(&self.async_fd.fd) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.clear_ready();
                None
            }
            result => Some(result),
        }
    }

    /// The descriptor.
    pub fn get_ref(&self) -> &D {
        &self.async_fd.fd
    }
}

impl AioContext {
    /// Registers a descriptor to be awaited.
    ///
    /// ```
    /// # use aio::{AioContext, Interest};
    /// # use std::io::{Read, Write};
    /// # use std::os::unix::net::UnixStream;
    /// # fn main() -> std::io::Result<()> {
    /// let ctx = AioContext::new()?;
    /// let (ours, mut theirs) = UnixStream::pair()?;
    /// ours.set_nonblocking(true)?;
    /// let stream = ctx.async_fd(ours)?;
    /// let reader = ctx.spawn(async move {
    ///     let mut buffer = [0; 16];
    ///     stream.io(Interest::READABLE, |mut stream| stream.read(&mut buffer)).await
    /// });
    /// theirs.write_all(b"hello")?;
    /// assert_eq!(ctx.block_on(reader)???, 5);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As for [`add_fd`](Self::add_fd); the descriptor comes back.
    pub fn async_fd<D: AsFd>(&self, fd: D) -> Result<AsyncFd<D>, Refused<D>> {
        let state = Rc::new(State {
            ready: Cell::new(Readiness::EMPTY),
            interest: Cell::new(Interest::NONE),
            registration: RefCell::new(None),
            waiters: RefCell::default(),
            name: RefCell::default(),
        });
        match register(self, &fd, Interest::NONE, &state) {
            Ok(registration) => {
                *state.registration.borrow_mut() = Some(registration);
                Ok(AsyncFd { listener: Listener { context: self.downgrade(), state }, fd })
            }
            Err(error) => Err(Refused { error, value: fd }),
        }
    }
}

impl<D: AsFd> fmt::Debug for AsyncFd<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (fd, ready) = (self.fd.as_fd(), self.listener.state.ready.get());
        f.debug_struct("AsyncFd").field("fd", &fd).field("ready", &ready).finish_non_exhaustive()
    }
}

impl<D: AsFd> fmt::Debug for ReadyGuard<'_, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadyGuard").field("ready", &self.ready).finish_non_exhaustive()
    }
}

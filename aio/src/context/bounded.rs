//! Bounded notifiers on a loop: a callback for a consumer when there is a count, and one for a
//! producer when there is room.

use super::action::OnFd;
use super::bottom_half::BottomHalf;
use super::descriptor::{Registration, register};
use super::dispatch::Action;
use super::parts::Parts;
use super::turn::AioContext;
use crate::monitor::{Interest, Target, Watch};
use crate::notifier::bounded::{BoundedMethod, BoundedNotifier, Engine, refuse_unread};
use crate::refused::Refused;
use crate::reset::{Method, Obstacle, Reset};
use std::borrow::Cow;
use std::cell::{Cell, OnceCell, RefCell};
use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::{Rc, Weak};

/// The most callbacks in one turn. The rest wait for the next turn, so a fast producer cannot keep
/// the loop's other handlers from running.
const BATCH: usize = 16;

/// Why [`Reset::Autoreset`] falls back to a read.
const COUNT_IS_READ: &str =
    "with this method the descriptor holds the bounded count itself, so the loop reads it";

impl AioContext {
    /// Calls `callback` whenever `notifier` has a count, with the amount taken: the whole count, or
    /// one unit for each call, depending on its [counting](crate::Counting). Notifications made
    /// before this call are delivered, too.
    ///
    /// With the atomic method the doorbell is rung only while this loop sleeps, and it is reset as
    /// [`BoundedBuilder::reset`](crate::BoundedBuilder::reset) says. With the other methods the
    /// descriptor holds the count; it is polled level-triggered, and each callback costs one
    /// read(2). If the notifier already has a handler in this context, the new one replaces it.
    ///
    /// A callback that turns the loop may be entered again from there, if there is a count. A turn
    /// makes at most 16 calls with the atomic method, and one with the others; what is left follows
    /// in the next turn, which does not sleep. Home thread.
    ///
    /// # Errors
    /// The callback is returned with the error: `Unsupported` if the notifier's reset names a
    /// method that this context, or this method of bounding, does not support; else as for
    /// [`add_fd`](Self::add_fd).
    pub fn add_bounded<F>(
        &self,
        notifier: &BoundedNotifier,
        callback: F,
    ) -> Result<BoundedRegistration, Refused<F>>
    where
        F: Fn(&AioContext, u64) + 'static,
    {
        let (notifier, removed) = (notifier.clone(), Rc::default());
        let consumer = Rc::new(Consumer { notifier, callback, removed, again: OnceCell::new() });
        match self.watch_count(&consumer) {
            Ok((registration, method, fallback)) => Ok(BoundedRegistration {
                registration: Some(registration),
                removed: Rc::clone(&consumer.removed),
                notifier: consumer.notifier.clone(),
                method,
                fallback,
            }),
            Err(error) => match Rc::into_inner(consumer) {
                Some(Consumer { callback, .. }) => Err(Refused { error, value: callback }),
                None => unreachable!("a failed registration keeps no reference to the handler"),
            },
        }
    }

    fn watch_count<F>(
        &self,
        consumer: &Rc<Consumer<F>>,
    ) -> io::Result<(Registration, Method, Option<Obstacle>)>
    where
        F: Fn(&AioContext, u64) + 'static,
    {
        let notifier = &consumer.notifier;
        refuse_unread(notifier.method(), notifier.reset())?;
        let Engine::Atomic(engine) = &notifier.inner.engine else {
            let run = Rc::clone(consumer);
            let registration = self.add_borrowed_fd(notifier, Interest::READABLE, move |ctx, _| {
                // `take_one` makes one read(2); count it for this loop.
                ctx.parts.sources.stats.syscalls_read.bump();
                run.take_one(ctx);
            })?;
            let fallback = (notifier.reset() == Reset::Autoreset).then_some(COUNT_IS_READ.into());
            return Ok((registration, Method::Read, fallback));
        };
        let weak = Rc::downgrade(consumer);
        let again = consumer.again.get_or_init(|| {
            self.bottom_half(move |ctx| {
                if let Some(consumer) = weak.upgrade() {
                    consumer.take_all(ctx);
                }
            })
        });
        let run = Rc::clone(consumer);
        let registration = self.add_notifier(engine.bell(), move |ctx| run.take_all(ctx))?;
        // Nobody rang the doorbell for notifications that came before a loop armed it, so look once
        // now.
        again.schedule();
        Ok(registration.into_parts())
    }

    /// Calls `callback` once after each [`arm`](WritableRegistration::arm), when there is room for
    /// one. For a producer that must not sleep in [`notify`](BoundedNotifier::notify). The room may
    /// be gone again when the callback runs, because other producers may be faster. The callback
    /// may arm again, and turn the loop. Home thread.
    ///
    /// # Errors
    /// The callback is returned with the error of duplicating the descriptor, for example if none
    /// is left.
    pub fn add_writable<F>(
        &self,
        notifier: &BoundedNotifier,
        callback: F,
    ) -> Result<WritableRegistration, Refused<F>>
    where
        F: Fn(&AioContext) + 'static,
    {
        let engine = &notifier.inner.engine;
        let room = match engine {
            Engine::Kernel(engine) => engine.room(),
            Engine::Atomic(engine) => engine.room(),
            Engine::Credit(engine) => engine.room(),
        };
        // Use a separate descriptor number: a consumer or another producer may watch the same file
        // in the same context.
        let room = match room.try_clone_to_owned() {
            Ok(room) => room,
            Err(error) => return Err(Refused { error, value: callback }),
        };
        let producer = Rc::new_cyclic(|this: &Weak<Producer>| {
            let this = Weak::clone(this);
            let again = self.bottom_half(move |ctx| {
                if let Some(producer) = this.upgrade() {
                    producer.has_room(ctx);
                }
            });
            Producer {
                context: Rc::downgrade(&self.parts),
                notifier: notifier.clone(),
                room,
                callback: Rc::new(callback),
                waits: RefCell::new(Waits::Not),
                again,
            }
        });
        Ok(WritableRegistration { producer })
    }
}

/// The handler's side of a [`BoundedRegistration`].
struct Consumer<F> {
    notifier: BoundedNotifier,
    callback: F,
    removed: Rc<Cell<bool>>,
    /// Continues with what a batch left over. Set only with the atomic method.
    again: OnceCell<BottomHalf>,
}

impl<F: Fn(&AioContext, u64)> Consumer<F> {
    /// Returns true if there was something to take. An error can only come from a descriptor that a
    /// peer has damaged; it counts as nothing to take.
    fn take_one(&self, ctx: &AioContext) -> bool {
        let taken = self.notifier.try_take().ok().flatten();
        if let Some(count) = taken {
            (self.callback)(ctx, count);
        }
        taken.is_some()
    }

    /// Takes what there is, up to one batch, and then arms the doorbell for what comes next.
    fn take_all(&self, ctx: &AioContext) {
        let (Engine::Atomic(engine), Some(again)) = (&self.notifier.inner.engine, self.again.get()) else {
            return;
        };
        // The doorbell is not armed until the end of this function. If a callback runs a nested
        // turn, that turn must not sleep before the count has been looked at again, so schedule the
        // bottom half first.
        again.schedule();
        for _ in 0..BATCH {
            let took = self.take_one(ctx);
            if self.removed.get() {
                return;
            }
            if !took {
                if engine.arm() {
                    again.cancel();
                }
                return;
            }
        }
    }
}

/// A consumer of a bounded notifier on a loop. Made by [`AioContext::add_bounded`]. Dropping it
/// removes the handler. What it has not taken stays in the count for the next consumer. Home
/// thread.
#[must_use = "dropping a registration removes its handler"]
pub struct BoundedRegistration {
    /// `None` only in `drop`.
    registration: Option<Registration>,
    removed: Rc<Cell<bool>>,
    notifier: BoundedNotifier,
    method: Method,
    fallback: Option<Obstacle>,
}

impl BoundedRegistration {
    /// The same as [`Registration::named`].
    #[must_use = "dropping a registration removes its handler"]
    pub fn named(mut self, name: impl Into<Cow<'static, str>>) -> Self {
        self.registration = self.registration.take().map(|registration| registration.named(name));
        self
    }

    /// The method that was chosen for the descriptor that wakes the loop.
    pub fn method(&self) -> Method {
        self.method
    }

    /// Why [`Reset::Autoreset`] fell back to read(2); `None` if it did not.
    pub fn fallback(&self) -> Option<&str> {
        self.fallback.as_deref()
    }

    /// Returns true until the handler is replaced or its context is dropped.
    pub fn is_live(&self) -> bool {
        self.registration.as_ref().is_some_and(Registration::is_live)
    }
}

impl Drop for BoundedRegistration {
    fn drop(&mut self) {
        self.removed.set(true);
        // Runs after the handler is removed, even if dropping what the callback captured panics.
        let _last = HandBack(&self.notifier);
        drop(self.registration.take());
    }
}

/// Calls `Atomic::hand_back` when dropped, so that the next consumer is woken.
struct HandBack<'a>(&'a BoundedNotifier);

impl Drop for HandBack<'_> {
    fn drop(&mut self) {
        if let Engine::Atomic(engine) = &self.0.inner.engine {
            // Ignored: the doorbell is open, a full counter is no error, and the caller could not
            // handle a failure.
            let _ = engine.hand_back(&self.0.inner.calls);
        }
    }
}

impl fmt::Debug for BoundedRegistration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BoundedRegistration").field("live", &self.is_live()).finish_non_exhaustive()
    }
}

/// What a producer is waiting for.
enum Waits {
    Not,
    /// There was room when it armed; the bottom half makes the callback.
    ForTheNextTurn,
    ForRoom(Registration),
}

/// The handler's side of a [`WritableRegistration`].
struct Producer {
    context: Weak<Parts<AioContext>>,
    notifier: BoundedNotifier,
    room: OwnedFd,
    callback: Rc<dyn Fn(&AioContext)>,
    waits: RefCell<Waits>,
    again: BottomHalf,
}

impl Producer {
    fn arm(self: &Rc<Self>) -> io::Result<()> {
        if !matches!(*self.waits.borrow(), Waits::Not) {
            return Ok(());
        }
        let Some(context) = self.context.upgrade() else {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                "the context of this producer has been dropped",
            ));
        };
        let (engine, calls) = (&self.notifier.inner.engine, &self.notifier.inner.calls);
        if let Engine::Atomic(engine) = engine
            && engine.want_room()
        {
            engine.wants_no_more();
            self.waits.replace(Waits::ForTheNextTurn);
            self.again.schedule();
            return Ok(());
        }
        let interest = match self.notifier.method() {
            BoundedMethod::Kernel => Interest::WRITABLE,
            _ => Interest::READABLE,
        };
        // Registered only while it waits: with the other methods the room descriptor is
        // level-triggered, as is an error on it, so it would wake the loop again and again.
        let this = Rc::downgrade(self);
        let callback = move |ctx: &AioContext, _| {
            if let Some(this) = this.upgrade() {
                this.has_room(ctx);
            }
        };
        let action = || -> Box<dyn Action<AioContext>> { Box::new(OnFd(callback, ())) };
        let (fd, watch) = (self.room.as_raw_fd(), Watch::Level(interest));
        match register(&context, Target { fd, watch, known: true, eventfd: None }, action) {
            Ok(registration) => {
                self.waits.replace(Waits::ForRoom(registration));
                Ok(())
            }
            Err(e) => {
                if let Engine::Atomic(engine) = engine {
                    engine.had_room(calls)?;
                }
                Err(e)
            }
        }
    }

    fn has_room(&self, ctx: &AioContext) {
        if self.stop_waiting() {
            (self.callback)(ctx);
        }
    }

    /// Returns false if it was not waiting.
    fn stop_waiting(&self) -> bool {
        match self.waits.replace(Waits::Not) {
            Waits::Not => false,
            Waits::ForTheNextTurn => true,
            Waits::ForRoom(registration) => {
                drop(registration);
                if let Engine::Atomic(engine) = &self.notifier.inner.engine {
                    // Ignored for the same reasons as in `HandBack`: the room doorbell is open.
                    let _ = engine.had_room(&self.notifier.inner.calls);
                }
                true
            }
        }
    }
}

/// A producer on a loop that gets a callback when there is room. Made by
/// [`AioContext::add_writable`]. Dropping it removes the handler. Home thread.
#[must_use = "dropping a registration removes its handler"]
pub struct WritableRegistration {
    producer: Rc<Producer>,
}

impl WritableRegistration {
    /// Requests one callback, in a later turn, once there is room for one. Call it when
    /// [`try_notify`](BoundedNotifier::try_notify) would block; arming again before the callback
    /// has no effect.
    ///
    /// # Errors
    /// `NotFound` if the context has been dropped, else the error of epoll_ctl(2).
    pub fn arm(&self) -> io::Result<()> {
        self.producer.arm()
    }
}

impl Drop for WritableRegistration {
    fn drop(&mut self) {
        self.producer.stop_waiting();
    }
}

impl fmt::Debug for WritableRegistration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let waits = !matches!(*self.producer.waits.borrow(), Waits::Not);
        f.debug_struct("WritableRegistration").field("waits", &waits).finish_non_exhaustive()
    }
}

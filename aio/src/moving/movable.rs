//! What a device that moves has to do, and how its callbacks reach it.

use super::place::Place;
use crate::context::{AioContext, BottomHalfHandle, Timer};
use crate::monitor::Readiness;
use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::ops::Deref;
use std::rc::{Rc, Weak};
use std::sync::Arc;

/// A device that lives on one loop at a time. See [`Hosted`](crate::Hosted), which moves it.
///
/// The device itself is `Send`; it keeps what its callbacks change in a `Cell` or a `RefCell`. What
/// it registers on a loop is not `Send`, and is made again on each loop.
///
/// Both methods run in the home thread of the loop, in one of its turns. They must not turn it. If
/// one of them panics, the panic unwinds out of [`AioContext::poll`], and no ring is lost:
/// after a panic of `attach` the device goes back, as after an error; after one of `detach` it
/// leaves as it was to.
///
/// A device with a doorbell and a timer, which takes its deadline along:
///
/// ```
/// use aio::{AioContext, EventNotifier, Home, Hosted, Movable, NotifierRegistration, Reset, Timer};
/// use std::cell::Cell;
/// use std::io;
///
/// struct Queue {
///     kick: EventNotifier,
///     kicks: Cell<u32>, // changed by the callbacks: `Send`, and need not be `Sync`
///     flush_at_ns: Cell<Option<u64>>,
/// }
///
/// impl Movable for Queue {
///     type Attached = (NotifierRegistration, Timer);
///
///     fn attach(&self, ctx: &AioContext, home: &Home<Self>) -> io::Result<Self::Attached> {
///         let kicked = home.callback(|queue, _| queue.kicks.set(queue.kicks.get() + 1));
///         let doorbell = ctx.add_notifier(&self.kick, kicked)?;
///         let flush = ctx.timer(home.callback(|_queue, _| { /* ... */ }));
///         if let Some(at_ns) = self.flush_at_ns.take() {
///             flush.arm_at(at_ns); // CLOCK_MONOTONIC is the same on each loop
///         }
///         Ok((doorbell, flush))
///     }
///
///     fn detach(&self, _: &AioContext, (doorbell, flush): Self::Attached) {
///         self.flush_at_ns.set(flush.deadline_ns());
///         drop((doorbell, flush));
///     }
/// }
///
/// # fn main() -> io::Result<()> {
/// let ctx = AioContext::new()?;
/// let kick = EventNotifier::new(Reset::Autoreset)?;
/// let queue = Queue { kick: kick.clone(), kicks: Cell::new(0), flush_at_ns: Cell::new(None) };
/// let queue = Hosted::new(queue);
/// kick.notify()?; // before it is on a loop: heard there
/// queue.attach(&ctx)?;
/// ctx.poll(true)?;
/// # let (give, got) = std::sync::mpsc::channel();
/// queue.release(move |queue| give.send(queue.kicks.get()).unwrap());
/// ctx.poll(true)?;
/// assert!(got.recv().unwrap() >= 1);
/// # Ok(())
/// # }
/// ```
/// A device with a task: what the task awaits is made in `attach`, and the task is aborted in
/// `detach`. A task that is aborted is dropped in one of the next turns, and its
/// [`Doorbell`](crate::Doorbell) hands a ring that it has heard meanwhile to the next loop. Keep
/// the [`JoinHandle`](crate::JoinHandle) in [`Attached`](Self::Attached), and abort it: dropping it
/// leaves the task running, and the task would go on to take rings. Hold a
/// [`Stay`](crate::Stay) while the task works, and none while it waits, or the device cannot leave.
/// Work that a task has begun and not finished when it is aborted has to be looked for in `attach`:
///
/// ```
/// use aio::{AioContext, EventNotifier, Home, Hosted, JoinHandle, Movable, Reset};
/// use std::cell::Cell;
/// use std::io;
///
/// struct Queue {
///     kick: EventNotifier,
///     kicks: Cell<u32>,
/// }
///
/// impl Movable for Queue {
///     type Attached = JoinHandle<()>;
///
///     fn attach(&self, ctx: &AioContext, home: &Home<Self>) -> io::Result<JoinHandle<()>> {
///         let (mut doorbell, home) = (ctx.doorbell(&self.kick)?, home.clone());
///         Ok(ctx.spawn(async move {
///             loop {
///                 doorbell.rung().await;
///                 let Some(queue) = home.stay() else { break };
///                 queue.kicks.set(queue.kicks.get() + 1);
///             }
///         }))
///     }
///
///     fn detach(&self, _: &AioContext, task: JoinHandle<()>) {
///         task.abort();
///     }
/// }
/// # fn main() -> io::Result<()> {
/// # let (first, second) = (AioContext::new()?, AioContext::new()?);
/// # let kick = EventNotifier::new(Reset::Autoreset)?;
/// # let queue = Hosted::new(Queue { kick: kick.clone(), kicks: Cell::new(0) });
/// # queue.attach(&first)?;
/// # kick.notify()?;
/// # queue.move_to(&second.handle());
/// # for _ in 0..3 { first.poll(false)?; second.poll(false)?; }
/// # let (give, got) = std::sync::mpsc::channel();
/// # queue.release(move |queue| give.send(queue.kicks.get()).unwrap());
/// # second.poll(true)?;
/// # assert!(got.recv().unwrap() >= 1);
/// # Ok(())
/// # }
/// ```
pub trait Movable: Send + Sized + 'static {
    /// What the device has on one loop: registrations, timers, bottom halves. Everything that it
    /// registers has to be in here.
    type Attached: 'static;

    /// Registers the device on a loop, with callbacks made by `home`.
    ///
    /// Notifiers that rang while the device was on its way are heard. Work that does not ring, or
    /// that the device had left undone, has to be looked for here.
    ///
    /// # Errors
    /// What the registrations return. The device then goes back to where it was.
    fn attach(&self, context: &AioContext, home: &Home<Self>) -> io::Result<Self::Attached>;

    /// Takes the device off its loop: drops `attached`. Keep here what has to be known on the next
    /// loop, such as the [deadline](crate::Timer::deadline_ns) of a timer.
    ///
    /// Also called if the loop ends with the device on it, because the context is dropped or a
    /// panic unwinds out of it: in the home thread, before anything of the context is taken down,
    /// and also while a [`Stay`] exists. What is begun here is cancelled then. Not called in a
    /// forked child, and not if the home thread is killed.
    fn detach(&self, context: &AioContext, attached: Self::Attached) {
        let _ = context;
        drop(attached);
    }

    /// The name under which a [slow](crate::SlowCallback) `attach` or `detach` is reported:
    /// `"disk0"` gives `"disk0: attach"`. The name of the type by default. Called in the home
    /// thread of a loop, and only while that is observed.
    fn name(&self) -> Cow<'static, str> {
        std::any::type_name::<Self>().into()
    }
}

/// A device on its loop.
pub(super) struct Residence<D: Movable> {
    pub(super) device: D,
    pub(super) place: Arc<Place<D>>,
    pub(super) attached: RefCell<Option<D::Attached>>,
    /// It was attached here once.
    pub(super) was_attached: Cell<bool>,
    /// The bottom half that looks at the orders.
    pub(super) agent: BottomHalfHandle,
    /// What to do with a device whose loop was dropped, once nothing holds it any more.
    pub(super) homeless: fn(Self),
}

/// A device on the loop where it lives, for its callbacks there. Given to [`Movable::attach`]. It
/// does not keep the device there, so callbacks may own clones of it. Home thread.
pub struct Home<D: Movable>(pub(super) Weak<Residence<D>>);

impl<D: Movable> Home<D> {
    /// The device, to be used from a callback. `None` once it has left this loop. It does not leave
    /// while the [`Stay`] exists.
    pub fn stay(&self) -> Option<Stay<D>> {
        self.0.upgrade().map(Stay::new)
    }

    /// Makes a callback of a function of the device: for notifiers, timers and bottom halves. The
    /// device stays while the callback runs; once it has left this loop, the callback does nothing.
    ///
    /// The function gets the device first, and then what the callback gets, here and below.
    pub fn callback(&self, callback: impl Fn(&D, &AioContext) + 'static) -> impl Fn(&AioContext) + 'static {
        let home = self.clone();
        move |context| {
            if let Some(device) = home.stay() {
                callback(&device, context);
            }
        }
    }

    /// The same for a descriptor: [`AioContext::add_fd`], [`add_borrowed_fd`].
    ///
    /// [`add_borrowed_fd`]: AioContext::add_borrowed_fd
    pub fn fd_callback(
        &self,
        callback: impl Fn(&D, &AioContext, Readiness) + 'static,
    ) -> impl Fn(&AioContext, Readiness) + 'static {
        let home = self.clone();
        move |context, ready| {
            if let Some(device) = home.stay() {
                callback(&device, context, ready);
            }
        }
    }

    /// The same for a timer that its callback arms again: [`AioContext::timer_with`],
    /// [`AioContext::interval`].
    pub fn timer_callback(
        &self,
        callback: impl Fn(&D, &AioContext, &Timer) + 'static,
    ) -> impl Fn(&AioContext, &Timer) + 'static {
        let home = self.clone();
        move |context, timer| {
            if let Some(device) = home.stay() {
                callback(&device, context, timer);
            }
        }
    }

    /// Makes the callback of something that runs once and ends with a `T`: an operation
    /// ([`AioContext::start`]), or blocking work ([`AioContext::spawn_blocking`]). The device stays
    /// on this loop from here until the callback has run, or was dropped.
    ///
    /// A device that has left this loop already begins nothing here: the callback drops its `T`
    /// then.
    ///
    /// ```
    /// use aio::{AioContext, BlockingError, Home, Hosted, Movable};
    /// # use std::cell::Cell;
    /// # use std::io;
    ///
    /// struct Disk {
    ///     blocks: Cell<Option<u64>>,
    /// }
    ///
    /// impl Movable for Disk {
    ///     type Attached = ();
    ///
    ///     fn attach(&self, ctx: &AioContext, home: &Home<Self>) -> io::Result<()> {
    ///         let sized = home.completion(|disk, _, blocks: Result<u64, BlockingError>| {
    ///             disk.blocks.set(blocks.ok());
    ///         });
    ///         ctx.spawn_blocking(|| 2048, sized)?;
    ///         Ok(())
    ///     }
    /// }
    /// # fn main() -> io::Result<()> {
    /// # let ctx = AioContext::new()?;
    /// # let disk = Hosted::new(Disk { blocks: Cell::new(None) });
    /// # disk.attach(&ctx)?;
    /// # let (give, got) = std::sync::mpsc::channel();
    /// # disk.release(move |disk| give.send(disk.blocks.get()).unwrap());
    /// # let blocks = loop {
    /// #     ctx.poll(true)?;
    /// #     if let Ok(blocks) = got.try_recv() {
    /// #         break blocks;
    /// #     }
    /// # };
    /// # assert_eq!(blocks, Some(2048));
    /// # Ok(())
    /// # }
    /// ```
    pub fn completion<T>(
        &self,
        callback: impl FnOnce(&D, &AioContext, T) + 'static,
    ) -> impl FnOnce(&AioContext, T) + 'static {
        let stay = self.stay();
        move |context, result| {
            if let Some(device) = &stay {
                callback(device, context, result);
            }
        }
    }

    /// Returns true if the device is to leave this loop. A device with operations in flight begins
    /// no others then: it leaves when the last [`Stay`] is dropped.
    pub fn is_leaving(&self) -> bool {
        self.0.upgrade().is_none_or(|residence| residence.place.is_leaving())
    }
}

impl<D: Movable> Clone for Home<D> {
    fn clone(&self) -> Self {
        Self(Weak::clone(&self.0))
    }
}

impl<D: Movable> fmt::Debug for Home<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Home").finish_non_exhaustive()
    }
}

/// Keeps a device on its loop: while a callback uses it, or while an operation is in flight.
/// Dereferences to the device. Made by [`Home::stay`]; put one into what the callback of an
/// operation owns. Home thread. A `Stay` that is never dropped keeps the device for ever.
pub struct Stay<D: Movable>(Option<Rc<Residence<D>>>);

impl<D: Movable> Stay<D> {
    pub(super) fn new(residence: Rc<Residence<D>>) -> Self {
        Self(Some(residence))
    }

    pub(super) fn residence(&self) -> &Rc<Residence<D>> {
        match &self.0 {
            Some(residence) => residence,
            None => unreachable!("it is taken only when this is dropped"),
        }
    }

    /// Ends without making the loop look for orders: the caller does.
    pub(super) fn end(mut self) {
        drop(self.0.take());
    }
}

impl<D: Movable> Deref for Stay<D> {
    type Target = D;
    fn deref(&self) -> &D {
        &self.residence().device
    }
}

impl<D: Movable> Drop for Stay<D> {
    fn drop(&mut self) {
        let Some(residence) = self.0.take() else { return };
        if residence.place.is_leaving() {
            residence.agent.schedule();
        }
        // The loop has one reference until the device leaves or the context is dropped.
        if let Some(residence) = Rc::into_inner(residence) {
            (residence.homeless)(residence);
        }
    }
}

impl<D: Movable> fmt::Debug for Stay<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stay").finish_non_exhaustive()
    }
}

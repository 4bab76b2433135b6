//! What a device that moves has to do, and how its callbacks reach it.

use super::place::Place;
use crate::context::{AioContext, BottomHalfHandle};
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
    fn detach(&self, context: &AioContext, attached: Self::Attached) {
        let _ = context;
        drop(attached);
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
    pub fn callback(&self, callback: impl Fn(&D, &AioContext) + 'static) -> impl Fn(&AioContext) + 'static {
        let home = self.clone();
        move |context| {
            if let Some(device) = home.stay() {
                callback(&device, context);
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

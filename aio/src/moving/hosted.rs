//! What the owner of a device holds: it moves the device from loop to loop.

use super::journey::{attach, give};
use super::movable::Movable;
use super::place::{Order, Place, Then};
use crate::context::{AioContext, Handle};
use std::fmt;
use std::io;
use std::sync::Arc;

/// A device that lives on one loop at a time, and moves to another by a call.
///
/// The loop that has the device [detaches](Movable::detach) it in its next turn, and the other one
/// [attaches](Movable::attach) it in one of its next. The device's callbacks never run on two loops
/// at the same time, and what they wrote on one loop is visible to them on the next. A ring of a
/// notifier during the move is heard on the next loop.
///
/// The device leaves when nothing uses it: not in one of its own callbacks, also if that turns the
/// loop, and not while a [`Stay`](crate::Stay) exists, such as an operation in flight may hold.
///
/// It is never lost. If the other loop refuses it (for example with EMFILE) or ends, it goes back
/// to the loop that it came from. If it cannot be there either, or its loop ends, it is
/// [detached](Movable::detach) and on no loop: [`take`](Self::take) returns it, and
/// [`move_to`](Self::move_to) gives it another one. The owner is not told when a loop ends:
/// [`IoThread::on_exit`](crate::IoThread::on_exit) reports that, and after it `take` has the
/// device.
///
/// Any thread. Dropping this takes the device off its loop in the next turn and drops it there, or
/// drops it at once if it is on no loop or on its way to one. In a forked child it is inert.
///
/// While the device is on its way, nobody serves it: it waits for the loop that it goes to. If that
/// one does not turn, because a callback takes long, another [`move_to`](Self::move_to) calls the
/// device back.
///
/// ```
/// use aio::{AioContext, EventNotifier, Hosted, IoThread, MovableNotifier, Reset};
/// use std::sync::mpsc;
///
/// # fn main() -> std::io::Result<()> {
/// let threads = [0, 1].map(|n| IoThread::spawn(&format!("io-{n}"), AioContext::builder()));
/// let [first, second] = threads;
/// let (first, second) = (first?, second?);
///
/// let (seen, rings) = mpsc::channel();
/// let kick = EventNotifier::new(Reset::Autoreset)?;
/// let handler = MovableNotifier::new(kick.clone(), move |_| {
///     let _ = seen.send(std::thread::current().name().map(str::to_owned));
/// });
/// let queue = Hosted::new(handler);
/// queue.move_to(first.handle());
/// kick.notify()?;
/// assert_eq!(rings.recv().unwrap().as_deref(), Some("io-0"));
///
/// let (done, moved) = mpsc::channel();
/// queue.move_then(second.handle(), move |result| done.send(result).unwrap());
/// moved.recv().unwrap()?;
/// kick.notify()?;
/// while rings.recv().unwrap().as_deref() != Some("io-1") {}
/// # Ok(())
/// # }
/// ```
#[must_use = "dropping it takes the device off its loop"]
pub struct Hosted<D: Movable>(Arc<Place<D>>);

impl<D: Movable> Hosted<D> {
    /// A device that is on no loop yet. No system call.
    pub fn new(device: D) -> Self {
        Self(Arc::new(Place::new(device)))
    }

    /// Attaches a device that is on no loop to this one, in this call. Home thread of `context`.
    ///
    /// # Errors
    /// What [`Movable::attach`] returns; the device is on no loop then. `AlreadyExists` if it is on
    /// a loop, or on its way to one. `NotFound` if it was [taken](Self::take). `Unsupported` in a
    /// forked child.
    pub fn attach(&self, context: &AioContext) -> io::Result<()> {
        attach(&self.0, context)
    }

    /// Moves the device to the loop of `target`, or attaches it there if it is on no loop. Never
    /// blocks: it arrives later. The last call wins, whichever thread made it, also if the device
    /// is on its way to a loop that does not turn: it goes elsewhere at once then.
    pub fn move_to(&self, target: &Handle) {
        self.move_then(target, |_| ());
    }

    /// The same, and calls `done` once, in the thread where the outcome is known (this call, if
    /// that is at once).
    ///
    /// It gets `Ok` when the device has been attached to `target`, also if it was there already.
    /// Otherwise it gets why not: what [`Movable::attach`] returned, `NotConnected` if that loop
    /// was dropped, `Interrupted` if a later call, or dropping this, sent the device elsewhere, or
    /// `NotFound` if the device was [taken](Self::take).
    /// The device is where it was before then, or on no loop, unless it was sent elsewhere.
    pub fn move_then(&self, target: &Handle, done: impl FnOnce(io::Result<()>) + Send + 'static) {
        give(&self.0, Order::Move { to: target.clone(), done: Box::new(done) });
    }

    /// Takes the device off its loop and gives it to `then`: in that loop's home thread, in its
    /// next turn, or in this call if the device is on no loop or on its way to one. Not called if
    /// the device was [taken](Self::take) before, nor in a forked child.
    pub fn release(self, then: impl FnOnce(D) + Send + 'static) {
        // What follows this is the drop of `self`, which does not replace it.
        give(&self.0, Order::Release(Box::new(then)));
    }

    /// Takes a device that is on no loop, and not on its way to one; else `None`. Does not wait.
    /// After that there is nothing to move: [`attach`](Self::attach) and moves fail with
    /// `NotFound`.
    pub fn take(&self) -> Option<D> {
        self.0.take(Then::Gone).ok()
    }

    /// Returns true if the device lives on the loop of `target`. It may leave just after that.
    /// While it is on its way, this is false for all loops.
    pub fn is_on(&self, target: &Handle) -> bool {
        self.0.is_on(target)
    }
}

impl<D: Movable> Drop for Hosted<D> {
    fn drop(&mut self) {
        give(&self.0, Order::Discard);
    }
}

impl<D: Movable> fmt::Debug for Hosted<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hosted").finish_non_exhaustive()
    }
}

const _: fn() = || {
    fn assert_send_and_sync<T: Send + Sync>() {}
    fn hosted<D: Movable>() {
        assert_send_and_sync::<Hosted<D>>();
    }
    let _ = hosted::<crate::MovableNotifier<fn(&AioContext)>>;
};

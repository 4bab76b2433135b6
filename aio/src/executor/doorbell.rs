//! Awaiting a notifier.

use crate::context::{AioContext, NotifierRegistration};
use crate::notifier::EventNotifier;
use crate::sys::process::Process;
use crate::task::WakerSlot;
use std::borrow::Cow;
use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::ops::Deref;
use std::rc::Rc;
use std::task::Poll;

/// A notifier that a task awaits. Made by [`AioContext::doorbell`]. Dereferences to its
/// registration. Home thread.
///
/// Dropping it removes the handler. A ring that nobody has awaited stays for the notifier's next
/// handler, on this loop or another: if this loop has noticed the ring already, the notifier is
/// rung again.
#[derive(Debug)]
#[must_use = "dropping a doorbell removes its handler"]
pub struct Doorbell {
    registration: NotifierRegistration,
    bell: Rc<Bell>,
}

#[derive(Debug)]
struct Bell {
    rung: Cell<bool>,
    waiting: WakerSlot,
    notifier: EventNotifier,
    process: Process,
}

impl Drop for Bell {
    /// Both the handler and the doorbell are gone: nothing takes the ring away from the next
    /// handler.
    fn drop(&mut self) {
        // A forked child leaves its parent's notifier alone.
        if self.rung.get() && self.process.is_current() {
            // The eventfd is open, and a full counter is no error: a caller could not do anything.
            let _ = self.notifier.notify();
        }
    }
}

impl Doorbell {
    /// The same as [`Registration::named`](crate::Registration::named).
    pub fn named(self, name: impl Into<Cow<'static, str>>) -> Self {
        self.registration.set_name(name.into());
        self
    }

    /// Waits until the notifier was rung since this was last awaited: once for many rings, and
    /// perhaps without need, like the callback of [`AioContext::add_notifier`].
    ///
    /// No ring is lost between two calls, nor if the future is dropped before it is done. What was
    /// written to memory before the ring is visible after it. No system call and no allocation more
    /// than a callback. Never done if the context is dropped, or another handler replaces this one.
    pub fn rung(&mut self) -> impl Future<Output = ()> + '_ {
        poll_fn(|cx| {
            if self.bell.rung.replace(false) {
                return Poll::Ready(());
            }
            self.bell.waiting.set(cx.waker());
            Poll::Pending
        })
    }
}

impl Deref for Doorbell {
    type Target = NotifierRegistration;

    fn deref(&self) -> &NotifierRegistration {
        &self.registration
    }
}

impl AioContext {
    /// Registers a notifier to be awaited. Rings before this call count.
    ///
    /// ```
    /// # use aio::{AioContext, EventNotifier, Reset};
    /// # fn main() -> std::io::Result<()> {
    /// let ctx = AioContext::new()?;
    /// let kick = EventNotifier::new(Reset::Autoreset)?;
    /// let mut doorbell = ctx.doorbell(&kick)?;
    /// let device = ctx.spawn(async move {
    ///     doorbell.rung().await;
    ///     "served"
    /// });
    /// let guest = std::thread::spawn(move || kick.notify());
    /// assert_eq!(ctx.block_on(device)??, "served");
    /// guest.join().expect("the guest does not panic")?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As for [`add_notifier`](Self::add_notifier).
    pub fn doorbell(&self, notifier: &EventNotifier) -> io::Result<Doorbell> {
        let bell = Rc::new(Bell {
            rung: Cell::new(false),
            waiting: WakerSlot::default(),
            notifier: notifier.clone(),
            process: Process::current(),
        });
        let rung = Rc::clone(&bell);
        let registration = self.add_notifier(notifier, move |_| {
            rung.rung.set(true);
            rung.waiting.wake();
        })?;
        Ok(Doorbell { registration, bell })
    }
}

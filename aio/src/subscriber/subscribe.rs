//! The trait of a subscriber, and the containers that may be one in its place.

use super::event::Event;
use super::ops::Ops;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};

/// A device with descriptors, whose events come to one method. The counterpart of event-manager's
/// `MutEventSubscriber` and `EventSubscriber`.
///
/// Both methods run in the home thread. They may do everything with the context and with the
/// manager: turn the loop ([`AioContext::poll`](crate::AioContext::poll)), add and remove
/// subscribers, itself among them ([`Ops::unsubscribe`]), and drop the manager. Neither is entered
/// again while one of them runs: an event that comes meanwhile, in a nested turn, is kept back, and
/// `process` is called with it in the next turn.
///
/// It is also implemented for a `Box`, an `Rc<RefCell<_>>` and an `Arc<Mutex<_>>` of a subscriber,
/// so `Box<dyn Subscriber>` is one. The `RefCell` or the mutex is held during the call, so do not
/// hold it yourself while the loop turns. A poisoned mutex is used nevertheless.
pub trait Subscriber: 'static {
    /// Called once, by [`Subscribers::add`](super::Subscribers::add), to add descriptors.
    ///
    /// A panic unwinds out of `add`, and the subscriber is dropped.
    fn init(&mut self, ops: &mut Ops<'_>);

    /// Called for each descriptor that is ready.
    ///
    /// A panic unwinds out of [`poll`](crate::AioContext::poll). The subscriber stays, and so do
    /// its descriptors. A descriptor that is still ready is reported again; the ring of a notifier
    /// counts as processed.
    fn process(&mut self, event: Event, ops: &mut Ops<'_>);
}

impl<S: Subscriber + ?Sized> Subscriber for Box<S> {
    fn init(&mut self, ops: &mut Ops<'_>) {
        (**self).init(ops);
    }

    fn process(&mut self, event: Event, ops: &mut Ops<'_>) {
        (**self).process(event, ops);
    }
}

impl<S: Subscriber + ?Sized> Subscriber for Rc<RefCell<S>> {
    fn init(&mut self, ops: &mut Ops<'_>) {
        self.borrow_mut().init(ops);
    }

    fn process(&mut self, event: Event, ops: &mut Ops<'_>) {
        self.borrow_mut().process(event, ops);
    }
}

impl<S: Subscriber + ?Sized> Subscriber for Arc<Mutex<S>> {
    fn init(&mut self, ops: &mut Ops<'_>) {
        self.lock().unwrap_or_else(PoisonError::into_inner).init(ops);
    }

    fn process(&mut self, event: Event, ops: &mut Ops<'_>) {
        self.lock().unwrap_or_else(PoisonError::into_inner).process(event, ops);
    }
}

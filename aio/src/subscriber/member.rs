//! One subscriber of a manager. It is taken out of its cell while it is being called, because
//! `process` takes `&mut self` and may turn the loop: the empty cell is what an event finds that
//! comes meanwhile.

use super::event::Event;
use super::key::Key;
use super::ops::Ops;
use super::registry::Registry;
use super::source::{Source, Target};
use super::subscribe::Subscriber;
use crate::context::{AioContext, Panics, resume_after};
use crate::monitor::Readiness;
use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

pub(super) struct Member<S> {
    registry: Rc<Registry>,
    key: Key,
    /// `None` while it is being called, and once it has left. A box, because it moves with every
    /// event.
    subscriber: Cell<Option<Box<S>>>,
    has_left: Cell<bool>,
    /// Sources that had an event while it was being called.
    kept: RefCell<Vec<Rc<Source>>>,
}

impl<S: Subscriber> Member<S> {
    /// A subscriber that gets no events before it is called for the first time.
    pub(super) fn new(registry: Rc<Registry>, key: Key) -> Self {
        Self {
            registry,
            key,
            subscriber: Cell::default(),
            has_left: Cell::default(),
            kept: RefCell::default(),
        }
    }

    /// `None` while it is being called.
    pub(super) fn take(&self) -> Option<Box<S>> {
        self.subscriber.take()
    }

    /// Calls a subscriber that was taken out, and puts it back, whether the call returns or panics.
    pub(super) fn call<R>(
        &self,
        context: &AioContext,
        mut subscriber: Box<S>,
        call: impl FnOnce(&mut S, &mut Ops<'_>) -> R,
    ) -> R {
        let mut ops = Ops::new(context, &self.registry, self.key);
        match catch_unwind(AssertUnwindSafe(|| call(&mut subscriber, &mut ops))) {
            Ok(result) => {
                self.put_back(context, subscriber);
                result
            }
            Err(panic) => resume_after(panic, || self.put_back(context, subscriber)),
        }
    }

    /// Drops it if it has left meanwhile.
    fn put_back(&self, context: &AioContext, subscriber: Box<S>) {
        if self.has_left.get() {
            drop(subscriber);
            return;
        }
        self.subscriber.set(Some(subscriber));
        if !self.kept.borrow().is_empty() {
            self.resume_kept(context);
        }
    }

    /// Has the loop report the sources again whose events were kept back.
    #[cold]
    fn resume_kept(&self, context: &AioContext) {
        let mut panics = Panics::default();
        while let Some(source) = self.next_kept() {
            panics.catch(|| self.resume(context, source));
        }
        panics.resume();
    }

    fn next_kept(&self) -> Option<Rc<Source>> {
        self.kept.borrow_mut().pop()
    }

    fn resume(&self, context: &AioContext, source: Rc<Source>) {
        let Some(target) = self.registry.get(self.key) else { return };
        if source.resume(context, &target).is_err() {
            // Not watched any more, of which the subscriber is to hear.
            context.defer(move |context| {
                if !source.is_removed() {
                    target.event(context, &source, Readiness::ERROR);
                }
            });
        }
    }

    #[cold]
    fn keep_back(&self, source: &Rc<Source>, readiness: Readiness) {
        if !self.has_left.get() && source.keep_back(readiness) {
            self.kept.borrow_mut().push(Rc::clone(source));
        }
    }
}

impl<S: Subscriber> Target for Member<S> {
    fn event(&self, context: &AioContext, source: &Rc<Source>, readiness: Readiness) {
        let Some(subscriber) = self.subscriber.take() else {
            self.keep_back(source, readiness);
            return;
        };
        let event = Event { fd: source.fd, data: source.data(), readiness };
        self.call(context, subscriber, |subscriber, ops| subscriber.process(event, ops));
    }

    fn leave(&self) {
        self.has_left.set(true);
    }

    fn discard(&self) {
        drop(self.subscriber.take());
    }
}

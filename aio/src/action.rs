//! What a ready handler does: clear its descriptor, if that is the loop's to do, and call back.
//!
//! The callback lies inside its action, so that a ready handler costs one indirect call.

use crate::busy_poll::BusyPolled;
use crate::context::AioContext;
use crate::handler::{Handler, Readiness};
use crate::notifier::{EventNotifier, Method};
use std::io;
use std::rc::Rc;
use std::sync::atomic::{Ordering, fence};

/// The part of a handler that differs with what is registered.
pub(crate) trait Action {
    /// Acts on `ready`. True if that is progress: a callback ran.
    fn run(&self, context: &AioContext, handler: &Rc<Handler>, ready: Readiness) -> io::Result<bool>;

    /// The eventfd of a doorbell, the loop's own included.
    fn notifier(&self) -> Option<&EventNotifier> {
        None
    }

    /// The eventfd to ring again for what was taken from it and not acted on: somebody else may answer it next.
    fn doorbell(&self) -> Option<&EventNotifier> {
        self.notifier()
    }

    /// The device behind the doorbell, if its work shows in memory.
    fn device(&self) -> Option<&dyn BusyPolled> {
        None
    }
}

/// A user's descriptor.
pub(crate) struct OnFd<F>(pub(crate) F);

impl<F: Fn(&AioContext, Readiness)> Action for OnFd<F> {
    fn run(&self, context: &AioContext, handler: &Rc<Handler>, ready: Readiness) -> io::Result<bool> {
        let (ready, stats) = (handler.masked(ready), &context.inner.sink.stats);
        if ready.is_empty() {
            stats.spurious.bump();
            return Ok(false);
        }
        stats.fd_dispatches.bump();
        (self.0)(context, ready);
        Ok(true)
    }
}

/// Reads a notifier that its descriptor reported. False if it had not been rung.
fn read(notifier: &EventNotifier, context: &AioContext, ready: Readiness) -> io::Result<bool> {
    if !ready.intersects(Readiness::IN.union(Readiness::ERROR)) {
        // Only seen in memory: there is nothing to read.
        return Ok(true);
    }
    let stats = &context.inner.sink.stats;
    stats.syscalls_read.bump();
    let rung = notifier.test_and_clear()? || ready.intersects(Readiness::POLLED);
    if !rung {
        stats.spurious.bump();
    }
    Ok(rung)
}

/// The loop's own eventfd: its work is found elsewhere.
pub(crate) struct OnOwn {
    pub(crate) notifier: EventNotifier,
    pub(crate) method: Method,
}

impl Action for OnOwn {
    fn run(&self, context: &AioContext, _: &Rc<Handler>, ready: Readiness) -> io::Result<bool> {
        context.inner.sink.stats.own_wakeups.bump();
        if self.method == Method::Read {
            read(&self.notifier, context, ready)?;
        }
        Ok(false)
    }

    fn notifier(&self) -> Option<&EventNotifier> {
        Some(&self.notifier)
    }

    fn doorbell(&self) -> Option<&EventNotifier> {
        None
    }
}

/// A doorbell. `READ`: the loop reads it. A constant, because an action that never reads is shorter.
pub(crate) struct OnBell<F, const READ: bool> {
    notifier: EventNotifier,
    callback: F,
}

/// The action of a doorbell.
pub(crate) fn on_bell<F>(notifier: EventNotifier, method: Method, callback: F) -> Box<dyn Action>
where
    F: Fn(&AioContext) + 'static,
{
    match method {
        Method::Read => Box::new(OnBell::<F, true> { notifier, callback }),
        _ => Box::new(OnBell::<F, false> { notifier, callback }),
    }
}

impl<F: Fn(&AioContext), const READ: bool> Action for OnBell<F, READ> {
    fn run(&self, context: &AioContext, _: &Rc<Handler>, ready: Readiness) -> io::Result<bool> {
        if READ && !read(&self.notifier, context, ready)? {
            return Ok(false);
        }
        context.inner.sink.stats.notifier_dispatches.bump();
        fence(Ordering::Acquire);
        (self.callback)(context);
        Ok(true)
    }

    fn notifier(&self) -> Option<&EventNotifier> {
        Some(&self.notifier)
    }
}

/// A doorbell of a device whose work shows in memory.
pub(crate) struct OnPolledBell<D> {
    pub(crate) notifier: EventNotifier,
    pub(crate) method: Method,
    pub(crate) device: Rc<D>,
}

impl<D: BusyPolled> Action for OnPolledBell<D> {
    fn run(&self, context: &AioContext, handler: &Rc<Handler>, ready: Readiness) -> io::Result<bool> {
        if self.method == Method::Read && !read(&self.notifier, context, ready)? {
            return Ok(false);
        }
        let inner = &context.inner;
        inner.busy_poll.had_event(handler);
        inner.sink.stats.notifier_dispatches.bump();
        fence(Ordering::Acquire);
        handler.process(&*self.device, context, &inner.sink.handlers);
        Ok(true)
    }

    fn notifier(&self) -> Option<&EventNotifier> {
        Some(&self.notifier)
    }

    fn device(&self) -> Option<&dyn BusyPolled> {
        Some(&*self.device)
    }
}

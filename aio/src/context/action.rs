//! What a ready handler does: reset its doorbell, if that is the loop's task, and call back.

use super::dispatch::{Action, Hooks, Registered, Sources};
use crate::monitor::Readiness;
use crate::profile::CallbackKind;
use crate::reset::Method;
use crate::stats::Counters;
use crate::sys::eventfd::EventFd;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

/// A user's descriptor: the callback, and the descriptor `D` if the handler owns it. It is dropped,
/// and so closed, after the callback.
pub(super) struct OnFd<F, D>(pub(super) F, pub(super) D);

impl<C, F: Fn(&C, Readiness), D> Action<C> for OnFd<F, D> {
    fn run(
        &self,
        sources: &Sources<C>,
        context: &C,
        handler: &Registered<C>,
        ready: Readiness,
    ) -> io::Result<bool> {
        let ready = handler.watched.masked(ready);
        if ready.is_empty() {
            sources.stats.spurious.bump();
            return Ok(false);
        }
        sources.stats.fd_dispatches.bump();
        (self.0)(context, ready);
        Ok(true)
    }

    fn kind(&self) -> CallbackKind {
        CallbackKind::Fd
    }
}

/// Reads a notifier that its descriptor reported. Returns false if it was not rung.
#[inline]
fn read(eventfd: &EventFd, stats: &Counters, ready: Readiness) -> io::Result<bool> {
    if !ready.intersects(Readiness::IN.union(Readiness::ERROR)) {
        // Found by polling memory; the eventfd itself was not reported.
        return Ok(true);
    }
    stats.syscalls_read.bump();
    let rung = eventfd.clear()? || ready.intersects(Readiness::POLLED);
    if !rung {
        stats.spurious.bump();
    }
    Ok(rung)
}

/// The loop's own eventfd. What it was rung for is found elsewhere.
pub(super) struct OnOwn {
    pub(super) eventfd: Arc<EventFd>,
    pub(super) method: Method,
}

impl<C> Action<C> for OnOwn {
    fn run(&self, sources: &Sources<C>, _: &C, _: &Registered<C>, ready: Readiness) -> io::Result<bool> {
        sources.stats.own_wakeups.bump();
        if self.method == Method::Read {
            read(&self.eventfd, &sources.stats, ready)?;
        }
        Ok(false)
    }

    fn kind(&self) -> CallbackKind {
        CallbackKind::OwnNotifier
    }
}

/// A doorbell. `READ`: the loop reads it. A constant, because an action that never reads is
/// shorter.
struct OnBell<F, const READ: bool> {
    eventfd: Arc<EventFd>,
    callback: F,
}

/// The action of a doorbell.
pub(super) fn on_bell<C: 'static, F>(eventfd: Arc<EventFd>, method: Method, callback: F) -> Box<dyn Action<C>>
where
    F: Fn(&C) + 'static,
{
    match method {
        Method::Read => Box::new(OnBell::<F, true> { eventfd, callback }),
        _ => Box::new(OnBell::<F, false> { eventfd, callback }),
    }
}

impl<C, F: Fn(&C), const READ: bool> Action<C> for OnBell<F, READ> {
    fn run(
        &self,
        sources: &Sources<C>,
        context: &C,
        _: &Registered<C>,
        ready: Readiness,
    ) -> io::Result<bool> {
        if READ && !read(&self.eventfd, &sources.stats, ready)? {
            return Ok(false);
        }
        sources.stats.notifier_dispatches.bump();
        fence(Ordering::Acquire);
        (self.callback)(context);
        Ok(true)
    }

    fn kind(&self) -> CallbackKind {
        CallbackKind::Notifier
    }
}

/// A device whose work shows in memory.
pub(super) trait Device<C>: Hooks {
    /// Does the work.
    fn process(&self, context: &C);
}

/// The doorbell of such a device.
pub(super) struct OnPolledBell<D> {
    pub(super) eventfd: Arc<EventFd>,
    pub(super) method: Method,
    pub(super) device: D,
}

impl<C, D: Device<C>> Action<C> for OnPolledBell<D> {
    fn run(
        &self,
        sources: &Sources<C>,
        context: &C,
        handler: &Registered<C>,
        ready: Readiness,
    ) -> io::Result<bool> {
        if self.method == Method::Read && !read(&self.eventfd, &sources.stats, ready)? {
            return Ok(false);
        }
        sources.stats.notifier_dispatches.bump();
        fence(Ordering::Acquire);
        sources.process(handler, || self.device.process(context));
        Ok(true)
    }

    fn kind(&self) -> CallbackKind {
        CallbackKind::PolledNotifier
    }

    fn hooks(&self) -> Option<&dyn Hooks> {
        Some(&self.device)
    }
}

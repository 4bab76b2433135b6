//! Handlers that move: of a notifier, and of a descriptor.

use super::movable::{Home, Movable};
use crate::context::{AioContext, NotifierRegistration, Registration};
use crate::monitor::{Interest, Readiness};
use crate::notifier::EventNotifier;
use std::fmt;
use std::io;
use std::os::fd::AsFd;

/// A notifier and its callback, for [`Hosted`](crate::Hosted). The callback is called on the loop
/// where the handler is, as one of [`AioContext::add_notifier`] is. It is not called on two loops
/// at the same time, so it need not be `Sync`. For an example, see [`Hosted`](crate::Hosted).
///
/// A loop refuses it for the same reasons as `add_notifier`: the reset mode of the notifier must be
/// possible on each loop that it goes to. [`Reset::Autoreset`](crate::Reset::Autoreset) is, on
/// every monitor of a stock kernel.
pub struct MovableNotifier<F> {
    notifier: EventNotifier,
    callback: F,
}

impl<F: Fn(&AioContext) + Send + 'static> MovableNotifier<F> {
    /// A handler that is on no loop yet. No system call; any thread.
    pub fn new(notifier: EventNotifier, callback: F) -> Self {
        Self { notifier, callback }
    }
}

impl<F: Fn(&AioContext) + Send + 'static> Movable for MovableNotifier<F> {
    type Attached = NotifierRegistration;

    fn attach(&self, context: &AioContext, home: &Home<Self>) -> io::Result<NotifierRegistration> {
        let callback = home.callback(|handler, context| (handler.callback)(context));
        Ok(context.add_notifier(&self.notifier, callback)?)
    }
}

impl<F> fmt::Debug for MovableNotifier<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MovableNotifier").field("notifier", &self.notifier).finish_non_exhaustive()
    }
}

/// A descriptor, which this owns, and its callback, for [`Hosted`](crate::Hosted). The callback is
/// called on the loop where the handler is, as one of [`AioContext::add_fd`] is, and gets the
/// descriptor, too. It is not called on two loops at the same time, so it need not be `Sync`. The
/// descriptor stays open on the way, and is closed when this is dropped.
pub struct MovableFd<D, F> {
    fd: D,
    interest: Interest,
    callback: F,
}

impl<D, F> MovableFd<D, F>
where
    D: AsFd + Send + 'static,
    F: Fn(&AioContext, &D, Readiness) + Send + 'static,
{
    /// A handler that is on no loop yet. No system call; any thread.
    pub fn new(fd: D, interest: Interest, callback: F) -> Self {
        Self { fd, interest, callback }
    }
}

impl<D, F> Movable for MovableFd<D, F>
where
    D: AsFd + Send + 'static,
    F: Fn(&AioContext, &D, Readiness) + Send + 'static,
{
    type Attached = Registration;

    fn attach(&self, context: &AioContext, home: &Home<Self>) -> io::Result<Registration> {
        let home = home.clone();
        let callback = move |context: &AioContext, ready| {
            if let Some(handler) = home.stay() {
                (handler.callback)(context, &handler.fd, ready);
            }
        };
        Ok(context.add_borrowed_fd(&self.fd, self.interest, callback)?)
    }
}

impl<D, F> fmt::Debug for MovableFd<D, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MovableFd").field("interest", &self.interest).finish_non_exhaustive()
    }
}

//! The doorbell of a queue: an unbounded counter, like KVM's ioeventfd, or a bounded one, or none.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;

use aio::{AioContext, BoundedNotifier, BoundedRegistration, EventNotifier, Method, NotifierRegistration};

use super::no_kick::Looks;

/// A doorbell. All clones refer to the same doorbell.
///
/// A [maximum](BoundedNotifier) slows down a guest that kicks faster than the device can handle:
/// the thread that kicks sleeps while `maximum - 1` kicks are not yet handled. This is for a vCPU
/// whose exits are handled in user space, as in the simulated guest. KVM itself signals an
/// ioeventfd and never waits. The bound works only if the device reads the count: if it never read
/// the doorbell, the guest would wait forever. So a bounded doorbell is always read.
#[derive(Clone, Debug)]
pub enum Kick {
    /// No limit on the number of kicks; they coalesce.
    Plain(EventNotifier),
    /// With a maximum number of kicks that are not yet handled.
    Bounded(BoundedNotifier),
    /// There is no doorbell. The device looks at the ring again and again: without sleeping while
    /// it is busy, and otherwise every 50 µs.
    Polled,
}

impl Kick {
    /// Kicks the device. Returns true if it had to wait until the device handled earlier kicks;
    /// only a bounded doorbell waits.
    ///
    /// # Errors
    /// The error of write(2). `BrokenPipe` if a bounded doorbell would wait but was stopped.
    pub fn notify(&self) -> io::Result<bool> {
        match self {
            Self::Plain(notifier) => notifier.notify().map(|()| false),
            Self::Bounded(notifier) => match notifier.try_notify(1) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => notifier.notify(1).map(|()| true),
                result => result.map(|()| false),
            },
            Self::Polled => Ok(false),
        }
    }
}

impl Kick {
    /// The eventfd, if there is one.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Plain(notifier) => Some(notifier.as_fd()),
            Self::Bounded(notifier) => Some(notifier.as_fd()),
            Self::Polled => None,
        }
    }
}

impl From<EventNotifier> for Kick {
    fn from(notifier: EventNotifier) -> Self {
        Self::Plain(notifier)
    }
}

impl From<BoundedNotifier> for Kick {
    fn from(notifier: BoundedNotifier) -> Self {
        Self::Bounded(notifier)
    }
}

/// A doorbell that is registered with the event loop of its device.
#[derive(Debug)]
pub enum Doorbell {
    /// The registration of a [`Kick::Plain`].
    Plain(NotifierRegistration),
    /// The registration of a [`Kick::Bounded`].
    Bounded(BoundedRegistration),
    /// What stands for a doorbell with [`Kick::Polled`].
    Polled(Rc<Looks>),
}

impl Doorbell {
    /// How the doorbell is reset. `None` if there is no doorbell.
    pub fn method(&self) -> Option<Method> {
        match self {
            Self::Plain(registration) => Some(registration.method()),
            Self::Bounded(registration) => Some(registration.method()),
            Self::Polled(_) => None,
        }
    }

    /// The reason why the doorbell is reset by a read(2) although
    /// [`Reset::Autoreset`](aio::Reset::Autoreset) was requested; `None` if that is not the case.
    pub fn fallback(&self) -> Option<&str> {
        match self {
            Self::Plain(registration) => registration.fallback(),
            Self::Bounded(registration) => registration.fallback(),
            Self::Polled(_) => None,
        }
    }
}

/// Registers a bounded doorbell. `process` is called each time a count was read. A bounded doorbell
/// has no busy polling.
pub(super) fn answer(
    context: &AioContext,
    kick: &BoundedNotifier,
    process: impl Fn(&AioContext) + 'static,
) -> io::Result<Doorbell> {
    Ok(Doorbell::Bounded(context.add_bounded(kick, move |context, _kicks| process(context))?))
}

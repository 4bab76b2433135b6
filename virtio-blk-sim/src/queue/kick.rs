//! The doorbell of a queue: without a bound, as KVM's ioeventfd, or with one.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use aio::{AioContext, BoundedNotifier, BoundedRegistration, EventNotifier, NotifierRegistration};

/// A doorbell. Clones are the same.
///
/// With a [maximum](BoundedNotifier) the guest feels a device that is slower than its kicks:
/// whoever kicks sleeps while `maximum - 1` kicks have not been answered. That is for a vCPU whose
/// exits end in user space, as those of the simulated guest do; KVM itself signals an ioeventfd and
/// never waits. A bound is kept by whoever takes the count: a device that never reads its doorbell
/// would keep the guest waiting for ever, so a doorbell that is its own count is always read.
#[derive(Clone, Debug)]
pub enum Kick {
    /// As many kicks as the guest likes; they coalesce.
    Plain(EventNotifier),
    /// With a maximum.
    Bounded(BoundedNotifier),
}

impl Kick {
    /// Rings. True if that had to wait until the device had answered earlier kicks, which only a
    /// bounded one does.
    ///
    /// # Errors
    /// What write(2) says; `BrokenPipe` if a bounded one would wait and has been stopped.
    pub fn notify(&self) -> io::Result<bool> {
        match self {
            Self::Plain(notifier) => notifier.notify().map(|()| false),
            Self::Bounded(notifier) => match notifier.try_notify(1) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => notifier.notify(1).map(|()| true),
                result => result.map(|()| false),
            },
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

impl AsFd for Kick {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Plain(notifier) => notifier.as_fd(),
            Self::Bounded(notifier) => notifier.as_fd(),
        }
    }
}

/// A doorbell on the loop of its device.
#[derive(Debug)]
pub enum Doorbell {
    /// Of a [`Kick::Plain`].
    Plain(NotifierRegistration),
    /// Of a [`Kick::Bounded`].
    Bounded(BoundedRegistration),
}

impl Doorbell {
    /// Who resets it.
    pub fn method(&self) -> aio::Method {
        match self {
            Self::Plain(registration) => registration.method(),
            Self::Bounded(registration) => registration.method(),
        }
    }

    /// Why it is reset by a read(2) although [`Reset::Autoreset`](aio::Reset::Autoreset) was asked
    /// for; `None` if it is not.
    pub fn fallback(&self) -> Option<&'static str> {
        match self {
            Self::Plain(registration) => registration.fallback(),
            Self::Bounded(registration) => registration.fallback(),
        }
    }
}

/// Answers a bounded doorbell: `process` is called for every count that was taken. There is no busy
/// polling of it.
pub(super) fn answer(
    context: &AioContext,
    kick: &BoundedNotifier,
    process: impl Fn(&AioContext) + 'static,
) -> io::Result<Doorbell> {
    Ok(Doorbell::Bounded(context.add_bounded(kick, move |context, _kicks| process(context))?))
}

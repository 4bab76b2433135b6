//! A doorbell made of an eventfd.

use super::adopt::inspect;
use crate::refused::Refused;
use crate::reset::{AutoresetFlag, Doorbell, Method, Reset, autoreset_flag, unsupported};
use crate::sys::eventfd::EventFd;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;

/// A doorbell that any thread, another process or KVM may ring, and one event loop answers.
///
/// A cheap handle: clones share one eventfd, which is closed with the last of them, or with the
/// last registration. `AsFd` and `AsRawFd` give its descriptor, for KVM_IOEVENTFD, KVM_IRQFD, or
/// another process (SCM_RIGHTS).
///
/// The contract: a ring is never lost; several rings may be answered by one call; a call may come
/// without need; and there is no count. See [`BoundedNotifier`](crate::BoundedNotifier) for one.
#[derive(Clone, Debug)]
pub struct EventNotifier {
    fd: Arc<EventFd>,
    reset: Reset,
    /// Created with EFD_AUTORESET, or seen to reset by itself when it was adopted.
    has_kernel_flag: bool,
}

const _: fn() = || {
    fn assert_send_and_sync<T: Send + Sync>() {}
    assert_send_and_sync::<EventNotifier>();
};

impl EventNotifier {
    /// Makes a notifier on a new eventfd. It has not been rung.
    ///
    /// `reset` takes effect where the notifier is registered
    /// ([`AioContext::add_notifier`](crate::AioContext::add_notifier)).
    ///
    /// # Errors
    /// What eventfd(2) returns; `Unsupported` for [`Method::KernelFlag`] on a kernel without the
    /// flag.
    pub fn new(reset: Reset) -> io::Result<Self> {
        let by_flag = match reset {
            Reset::AutoresetBy(Method::KernelFlag) => {
                if autoreset_flag() == AutoresetFlag::Absent {
                    return Err(unsupported(
                        "this kernel has no EFD_AUTORESET; ask for Reset::Autoreset instead",
                    ));
                }
                true
            }
            // Right on every monitor that can use it, so nothing is lost by setting it.
            Reset::Autoreset => autoreset_flag() == AutoresetFlag::AtDelivery,
            _ => false,
        };
        let fd = if by_flag { EventFd::new_autoreset()? } else { EventFd::new()? };
        Ok(Self { fd: Arc::new(fd), reset, has_kernel_flag: by_flag })
    }

    /// Takes over an eventfd that somebody else made: a VMM's ioeventfd or irqfd, a vhost-user
    /// peer's kick or call.
    ///
    /// Only non-blocking eventfds are accepted: on a blocking one a write to a full counter, or a
    /// read of an empty one, would stop the event loop, and O_NONBLOCK cannot be set here because
    /// the file is shared with whoever made it. For the same reason they can clear it later: if
    /// they are not trusted, use [`adopt_from_peer`](Self::adopt_from_peer).
    ///
    /// # Errors
    /// The descriptor comes back with the reason: it is not an eventfd; it is in semaphore mode (a
    /// doorbell would lose its counts); it is blocking; [`Method::KernelFlag`] was asked for and it
    /// does not reset by itself; or it does, and that does not go with `reset`.
    pub fn adopt(fd: OwnedFd, reset: Reset) -> Result<Self, Refused<OwnedFd>> {
        let has_kernel_flag = match inspect(fd.as_fd(), reset) {
            Ok(flag) => flag,
            Err(error) => return Err(Refused { error, value: fd }),
        };
        Ok(Self { fd: Arc::new(EventFd::from_owned(fd)), reset, has_kernel_flag })
    }

    /// Takes over an eventfd of a peer that is not trusted, such as the kick or the call of a
    /// vhost-user frontend. Nothing that the peer does to the file can block this process, as long
    /// as this process may call io_uring_enter(2).
    ///
    /// With [`adopt`](Self::adopt) it can: whoever holds the file may clear O_NONBLOCK and write
    /// 2^64 - 2, and then write(2) sleeps in [`notify`](Self::notify). So this notifier rings
    /// through a small io_uring of its own, whose completions signal the eventfd
    /// (`eventfd_signal()` in the kernel, which never sleeps), and reads with RWF_NOWAIT. Each
    /// `notify` is an io_uring_enter(2), which costs more than the write(2). From the first one on
    /// the notifier has one descriptor more. A full counter stays full.
    ///
    /// If the ring cannot be made then, or io_uring_enter(2) is refused later, for example by a
    /// seccomp filter, `notify` calls write(2) after poll(2) has found room. A peer that fills the
    /// counter in between can then block it.
    ///
    /// # Errors
    /// As for [`adopt`](Self::adopt), and `Unsupported` if io_uring cannot be used here. The
    /// descriptor comes back.
    pub fn adopt_from_peer(fd: OwnedFd, reset: Reset) -> Result<Self, Refused<OwnedFd>> {
        let has_kernel_flag = match inspect(fd.as_fd(), reset) {
            Ok(flag) => flag,
            Err(error) => return Err(Refused { error, value: fd }),
        };
        match EventFd::from_peer(fd) {
            Ok(fd) => Ok(Self { fd: Arc::new(fd), reset, has_kernel_flag }),
            Err((error, value)) => {
                let why = format!("ringing a peer's eventfd without ever blocking needs io_uring: {error}");
                Err(Refused { error: io::Error::new(io::ErrorKind::Unsupported, why), value })
            }
        }
    }

    /// Rings. Any thread; never blocks; one write(2), three system calls if the counter was full.
    /// For an eventfd that was [adopted from a peer](Self::adopt_from_peer), one io_uring_enter(2).
    ///
    /// What was written to memory before is visible to the handler that this wakes.
    ///
    /// # Errors
    /// What write(2) returns for a descriptor that is no longer an eventfd. A full counter is not
    /// an error: it is drained and rung again.
    #[inline]
    pub fn notify(&self) -> io::Result<()> {
        self.fd.ring()
    }

    /// Resets the notifier. Returns whether it was rung since it was last reset. Any thread; never
    /// blocks; one read(2), or preadv2(2) for an eventfd of a peer.
    ///
    /// For those who wait without a loop. Not needed in a handler: the loop resets the notifier, or
    /// nobody has to. With a method that never reads, the count stays, so `true` then says only
    /// that it was rung at some time since the last reset.
    ///
    /// # Errors
    /// What read(2) returns; an empty counter is `Ok(false)`.
    #[inline]
    pub fn test_and_clear(&self) -> io::Result<bool> {
        self.fd.clear()
    }

    /// The reset mode that was asked for.
    pub fn reset(&self) -> Reset {
        self.reset
    }

    /// The eventfd, to be kept open as long as a monitor watches it.
    pub(crate) fn eventfd(&self) -> &Arc<EventFd> {
        &self.fd
    }

    /// What the choice of a reset method depends on.
    pub(crate) fn doorbell(&self) -> Doorbell<'_> {
        Doorbell { eventfd: self.fd.as_fd(), has_kernel_flag: self.has_kernel_flag }
    }
}

impl AsFd for EventNotifier {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for EventNotifier {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

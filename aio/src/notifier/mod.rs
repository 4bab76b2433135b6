//! Event notifiers: doorbells made of eventfds.
//!
//! The doorbell contract: **never lost, maybe spurious, writes coalesce, no count.** Whoever rings has published its
//! work before; the handler looks for the work in shared memory, and an Acquire fence stands before its first
//! instruction.

mod bounded;
mod probe;
mod reset;

pub use bounded::{
    BoundedBuilder, BoundedMethod, BoundedNotifier, BoundedRegistration, BoundedStats, Counting,
    WritableRegistration,
};
pub use reset::{Method, Reset};

use crate::handler::{Registration, Watch};
use crate::monitor::MonitorKind;
use crate::sys::eventfd::{AutoresetFlag, EventFd, autoreset_flag, maximum, probe_maximum, resets_itself};
use crate::sys::fd::is_nonblocking;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;

/// A doorbell that any thread, another process or KVM may ring, and one event loop answers.
///
/// A cheap handle: clones share one eventfd, which is closed with the last of them.
#[derive(Clone, Debug)]
pub struct EventNotifier {
    fd: Arc<EventFd>,
    reset: Reset,
    /// Created with EFD_AUTORESET, or seen to reset by itself when adopted.
    has_kernel_flag: bool,
}

impl EventNotifier {
    /// A new, silent notifier on an eventfd of its own.
    ///
    /// `reset` takes effect where the notifier is registered ([`AioContext::add_notifier`](crate::AioContext::add_notifier)).
    ///
    /// # Errors
    /// What eventfd(2) says; `Unsupported` for [`Method::KernelFlag`] on a kernel that does not have the flag.
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

    /// Takes over an eventfd that somebody else made: a VMM's ioeventfd or irqfd, a vhost-user peer's kick or call.
    ///
    /// # Errors
    /// The descriptor comes back with the reason: it is not an eventfd, it is in semaphore mode (whose counts a
    /// doorbell would lose), it is blocking, [`Method::KernelFlag`] was asked for and it does not reset by itself, or it
    /// does and that does not go with `reset`.
    /// Only non-blocking eventfds are taken: on a blocking one a write to a full counter, or a read of an empty one,
    /// would stop the event loop, and O_NONBLOCK cannot be set here because the file is shared with whoever made it.
    pub fn adopt(fd: OwnedFd, reset: Reset) -> Result<Self, AdoptError> {
        let has_kernel_flag = match inspect(fd.as_fd(), reset) {
            Ok(flag) => flag,
            Err(error) => return Err(AdoptError { error, fd }),
        };
        Ok(Self { fd: Arc::new(EventFd::from_owned(fd)), reset, has_kernel_flag })
    }

    /// Rings. Any thread; never blocks; one write(2), three if the counter was full.
    ///
    /// What was written to memory before is visible to the handler that this wakes.
    ///
    /// # Errors
    /// What write(2) says of a descriptor that is no longer an eventfd. A full counter is not an error: it is drained
    /// and rung again.
    pub fn notify(&self) -> io::Result<()> {
        loop {
            match self.fd.write(1) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    // 2^64 - 2 rings without a read, or a peer that filled the counter. The drained count needs no
                    // keeping: the write that follows rings for all of them.
                    self.fd.read()?;
                }
                result => return result,
            }
        }
    }

    /// Resets the notifier and says whether it had been rung. Never blocks; one read(2).
    ///
    /// # Errors
    /// What read(2) says; an empty counter is `Ok(false)`.
    #[inline]
    pub fn test_and_clear(&self) -> io::Result<bool> {
        self.fd.read().map(|count| count.is_some())
    }

    /// The reset mode that was asked for.
    pub fn reset(&self) -> Reset {
        self.reset
    }

    /// The method for this notifier on a monitor, and why it is not the one hoped for, if so.
    pub(crate) fn resolve(&self, monitor: MonitorKind) -> io::Result<(Method, Option<&'static str>)> {
        let obstacle = |method| self.obstacle(method, monitor);
        match self.reset {
            Reset::Classic => Ok((Method::Read, None)),
            Reset::AutoresetBy(method) => {
                obstacle(method).map_or(Ok((method, None)), |why| Err(unsupported(why)))
            }
            Reset::Autoreset => {
                let best = [Method::Edge, Method::KernelFlag, Method::RingRead];
                match best.into_iter().find(|m| obstacle(*m).is_none()) {
                    Some(method) => Ok((method, None)),
                    None => Ok((Method::Read, obstacle(Method::Edge))),
                }
            }
        }
    }

    /// Why `method` cannot be used for this notifier on `monitor`; `None` if it can.
    fn obstacle(&self, method: Method, monitor: MonitorKind) -> Option<&'static str> {
        use MonitorKind::{Epoll, IoUring, Poll};
        match (method, monitor) {
            (Method::Read, _) => None,
            (Method::Edge, Poll) => {
                Some("ppoll(2) has no edges, so the loop reads; choose the epoll or io_uring monitor")
            }
            (Method::Edge, _) if has_maximum(self.fd.as_fd()) => Some(
                "this eventfd has a maximum (EFD_IOC_SET_MAXIMUM), and an edge is never read: its writers would stall for \
                 ever after maximum - 1 rings; use Reset::Classic or a ring read",
            ),
            (Method::Edge, Epoll) => (!probe::epoll_edge()).then_some(
                "EPOLLET of this kernel does not report each write to an unread eventfd, so the loop reads",
            ),
            // A completion that is in the ring already when the handler goes has taken the count: whoever answers next would
            // not hear of it. A read that goes astray is rung again (`UringMonitor::remove`).
            (Method::Edge, IoUring) if self.has_kernel_flag => Some(
                "this eventfd has EFD_AUTORESET, which resets it when a poll completes; the ring reads it",
            ),
            (Method::Edge, IoUring) => (!probe::ring_edge()).then_some(
                "multishot POLL_ADD of this kernel does not report each write to an unread eventfd",
            ),
            (Method::RingRead, IoUring) => None,
            (Method::RingReadMultishot, IoUring) => (!probe::ring_read_multishot()).then_some(
                "this kernel has no IORING_OP_READ_MULTISHOT for eventfds (Linux 6.7); use ring read",
            ),
            (Method::RingRead | Method::RingReadMultishot, _) => Some("ring reads need the io_uring monitor"),
            (Method::KernelFlag, _) if !self.has_kernel_flag => {
                Some("this eventfd was not created with EFD_AUTORESET, or the kernel does not have it")
            }
            (Method::KernelFlag, Poll) => None,
            (Method::KernelFlag, Epoll) => (autoreset_flag() != AutoresetFlag::AtDelivery).then_some(
                "EFD_AUTORESET of this kernel resets inside poll, which loses events under epoll; use ppoll",
            ),
            (Method::KernelFlag, IoUring) => {
                Some("io_uring does not need EFD_AUTORESET: use the edge or a ring read")
            }
        }
    }
}

/// How a monitor watches a notifier that is reset by `method`. This is the only place where a level registration and a
/// method meet: `Level` goes with those that clear the counter.
pub(crate) fn watch_for(method: Method) -> Watch {
    match method {
        Method::Read | Method::KernelFlag => Watch::Level(crate::Interest::READABLE),
        Method::Edge => Watch::Edge,
        Method::RingRead => Watch::RingRead,
        Method::RingReadMultishot => Watch::RingReadMultishot,
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

fn unsupported(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, why)
}

/// True if this kernel bounds eventfds and this one is bounded. Whoever has the descriptor may bound it later, too.
fn has_maximum(fd: BorrowedFd<'_>) -> bool {
    probe_maximum() && maximum(fd).is_ok_and(|maximum| maximum != u64::MAX)
}

/// Refuses what cannot be a doorbell, or not in this mode; says whether the eventfd resets by itself.
fn inspect(fd: BorrowedFd<'_>, reset: Reset) -> io::Result<bool> {
    let number = fd.as_raw_fd();
    let refuse = |why: &str| Err(io::Error::new(io::ErrorKind::InvalidInput, format!("fd {number} {why}")));
    if !is_nonblocking(number)? {
        return refuse("is a blocking eventfd, which could stop the event loop; create it with EFD_NONBLOCK");
    }
    // Without /proc the two checks are left out: reading and writing eight bytes says soon enough.
    if let Ok(target) = std::fs::read_link(format!("/proc/self/fd/{number}"))
        && target.as_os_str() != "anon_inode:[eventfd]"
    {
        return refuse(&format!("is not an eventfd but {}; register it with add_fd", target.display()));
    }
    if let Ok(info) = std::fs::read_to_string(format!("/proc/self/fdinfo/{number}"))
        && info.lines().any(|l| l.starts_with("eventfd-semaphore:") && l.trim_end().ends_with('1'))
    {
        return refuse(
            "is an EFD_SEMAPHORE eventfd, whose counts a doorbell does not keep; register it with add_fd",
        );
    }
    // Observed, not believed. The count that this takes away is put back by the ring at the end.
    let flag = autoreset_flag();
    let resets = flag != AutoresetFlag::Absent && resets_itself(fd)?;
    match reset {
        Reset::AutoresetBy(Method::KernelFlag) if flag == AutoresetFlag::Absent => {
            Err(unsupported("this kernel has no EFD_AUTORESET; ask for Reset::Autoreset instead"))
        }
        Reset::AutoresetBy(Method::KernelFlag) if !resets => Err(unsupported(
            "this eventfd was created without EFD_AUTORESET; ask for Reset::Autoreset instead",
        )),
        Reset::AutoresetBy(Method::KernelFlag) => Ok(true),
        // The read(2) that decides whether it has been rung would find it empty.
        Reset::Classic if resets => refuse("was created with EFD_AUTORESET; adopt it with Reset::Autoreset"),
        _ if resets && flag == AutoresetFlag::AtPoll => refuse(
            "was created with EFD_AUTORESET, which this kernel resets inside poll; adopt it by Method::KernelFlag, for ppoll",
        ),
        _ => Ok(resets),
    }
}

/// An eventfd that could not be adopted: why, and the descriptor back, still open.
#[derive(Debug)]
pub struct AdoptError {
    /// Why.
    pub error: io::Error,
    /// The descriptor.
    pub fd: OwnedFd,
}

impl fmt::Display for AdoptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.error, f)
    }
}

impl std::error::Error for AdoptError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

impl From<AdoptError> for io::Error {
    fn from(e: AdoptError) -> Self {
        e.error
    }
}

/// A registered notifier, and what was chosen for it. Dropping it removes the handler; a ring that has not been dispatched
/// stays for the notifier's next handler, in this context or another.
#[derive(Debug)]
#[must_use = "dropping a registration removes its handler"]
pub struct NotifierRegistration {
    pub(crate) registration: Registration,
    pub(crate) method: Method,
    pub(crate) fallback: Option<&'static str>,
}

impl NotifierRegistration {
    /// Who resets the eventfd.
    pub fn method(&self) -> Method {
        self.method
    }

    /// Why [`Reset::Autoreset`] ended with a read(2) after all; `None` if it did not.
    pub fn fallback(&self) -> Option<&'static str> {
        self.fallback
    }

    /// The registration without what was chosen.
    pub fn into_registration(self) -> Registration {
        self.registration
    }
}

impl std::ops::Deref for NotifierRegistration {
    type Target = Registration;
    fn deref(&self) -> &Registration {
        &self.registration
    }
}

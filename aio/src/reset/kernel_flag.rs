//! [`Method::KernelFlag`](super::Method::KernelFlag): the kernel resets an eventfd that was created
//! with EFD_AUTORESET, by either of two proposals.

use super::doorbell::Doorbell;
use super::method::Method;
use super::probe::Obstacle;
use crate::monitor::{Interest, MonitorKind, Watch};
use crate::sys::epoll::Epoll;
use crate::sys::eventfd::EventFd;
use crate::sys::ppoll;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::OnceLock;

pub(super) const WATCH: Watch = Watch::Level(Interest::READABLE);

pub(super) fn obstacle(monitor: MonitorKind, doorbell: &Doorbell<'_>) -> Option<Obstacle> {
    if !doorbell.has_kernel_flag {
        return Some(
            "this eventfd was not created with EFD_AUTORESET, or the kernel does not have it".into(),
        );
    }
    match monitor {
        MonitorKind::Poll => None,
        MonitorKind::Epoll => (autoreset_flag() != AutoresetFlag::AtDelivery).then_some(
            "EFD_AUTORESET of this kernel resets inside poll, which loses events under epoll; use ppoll"
                .into(),
        ),
        MonitorKind::IoUring => {
            Some("io_uring does not need EFD_AUTORESET: use the edge or a ring read".into())
        }
    }
}

/// Why a method cannot be used in a context that an outer loop sleeps for.
pub(super) fn embedded_obstacle(method: Method, monitor: MonitorKind) -> Option<Obstacle> {
    if method != Method::KernelFlag {
        return None;
    }
    if monitor == MonitorKind::Poll {
        return Some(
            "the epoll instance that an embedded poll monitor shows to the outer loop would consume the event of an \
             eventfd with EFD_AUTORESET; use another monitor, or a notifier with Reset::Classic"
                .into(),
        );
    }
    (autoreset_flag() != AutoresetFlag::AtDelivery).then_some(
        "EFD_AUTORESET of this kernel resets inside poll, so the outer loop of an embedded context would consume \
         the event"
            .into(),
    )
}

/// What `EFD_AUTORESET` does on this kernel, by observation. That a flag is accepted proves
/// nothing: emulated kernels ignore bits that they do not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AutoresetFlag {
    /// The kernel refuses the flag, or accepts it and does not reset.
    Absent,
    /// Reset inside the file's poll operation, as proposed in 2020: right for ppoll(2), and loses
    /// events under epoll, where ADD and MOD poll the file without delivering anything.
    AtPoll,
    /// Reset when an event is delivered to user space: right for ppoll and epoll.
    AtDelivery,
}

/// Probes once per process, on eventfds of its own. Never blocks. While the probe cannot be made
/// (no descriptor or memory left), the flag is not used.
pub(crate) fn autoreset_flag() -> AutoresetFlag {
    static FLAG: OnceLock<AutoresetFlag> = OnceLock::new();
    let seen = FLAG.get().copied();
    seen.unwrap_or_else(|| match observe() {
        Ok(flag) => *FLAG.get_or_init(|| flag),
        // The kernel does not know the flag.
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => *FLAG.get_or_init(|| AutoresetFlag::Absent),
        Err(_) => AutoresetFlag::Absent,
    })
}

/// Returns true if a look by ppoll(2) resets this eventfd. It is left readable, so at worst its
/// handler is called without need.
pub(crate) fn resets_itself(fd: BorrowedFd<'_>) -> io::Result<bool> {
    let fd = EventFd::from_owned(fd.try_clone_to_owned()?);
    fd.write(1)?;
    let (first, second) = (ppoll::is_readable(fd.as_raw_fd())?, ppoll::is_readable(fd.as_raw_fd())?);
    fd.write(1)?;
    Ok(first && !second)
}

fn observe() -> io::Result<AutoresetFlag> {
    let fd = EventFd::new_autoreset()?;
    fd.write(1)?;
    let (first, second) = (ppoll::is_readable(fd.as_raw_fd())?, ppoll::is_readable(fd.as_raw_fd())?);
    if !first || second {
        return Ok(AutoresetFlag::Absent);
    }
    // Written before it is added: the proposal's patch consumes the count in EPOLL_CTL_ADD and
    // delivers nothing.
    fd.write(1)?;
    let epoll = Epoll::new()?;
    epoll.add(fd.as_raw_fd(), libc::EPOLLIN as u32, 0)?;
    let mut events = [libc::epoll_event { events: 0, u64: 0 }];
    Ok(match epoll.wait(&mut events, Some(0))? {
        0 => AutoresetFlag::AtPoll,
        _ => AutoresetFlag::AtDelivery,
    })
}

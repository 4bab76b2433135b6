//! [`Method::Edge`](super::Method::Edge): the monitor reports each write once, and nobody reads.

use super::doorbell::Doorbell;
use super::probe::{Obstacle, probed, ring_sees_each_write};
use crate::monitor::{MonitorKind, Watch};
use crate::sys::epoll::Epoll;
use crate::sys::eventfd::EventFd;
use io_uring::opcode;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::OnceLock;

pub(super) const WATCH: Watch = Watch::Edge;

pub(super) fn obstacle(monitor: MonitorKind, doorbell: &Doorbell<'_>) -> Option<Obstacle> {
    if monitor == MonitorKind::Poll {
        return Some("ppoll(2) has no edges, so the loop reads; choose the epoll or io_uring monitor".into());
    }
    if doorbell.has_maximum() {
        return Some(
            "this eventfd has a maximum (EFD_IOC_SET_MAXIMUM), and an edge is never read: its writers would \
             stall for ever after maximum - 1 rings; use Reset::Classic or a ring read"
                .into(),
        );
    }
    match monitor {
        // A completion that is in the ring already when the handler is removed took the count, and
        // the doorbell's next handler would not hear of it. A read that is too late is rung again
        // (see `Reads::complete`).
        MonitorKind::IoUring if doorbell.has_kernel_flag => Some(
            "this eventfd has EFD_AUTORESET, which resets it when a poll completes; the ring reads it".into(),
        ),
        MonitorKind::IoUring => on_ring(),
        _ => on_epoll(),
    }
}

/// Probes whether EPOLLET reports a second write although the first was never read.
fn on_epoll() -> Option<Obstacle> {
    static WORKS: OnceLock<bool> = OnceLock::new();
    let does_not =
        "EPOLLET of this kernel does not report each write to an unread eventfd, so the loop reads";
    probed(&WORKS, epoll_sees_each_write, does_not)
}

/// Probes whether multishot POLL_ADD reports a second write although the first was never read.
fn on_ring() -> Option<Obstacle> {
    static WORKS: OnceLock<bool> = OnceLock::new();
    let does_not = "multishot POLL_ADD of this kernel does not report each write to an unread eventfd";
    let arm = |fd| opcode::PollAdd::new(fd, libc::POLLIN as u32).multi(true).build();
    probed(&WORKS, || ring_sees_each_write(arm, false), does_not)
}

fn epoll_sees_each_write() -> io::Result<bool> {
    let (epoll, fd) = (Epoll::new()?, EventFd::new()?);
    epoll.add(fd.as_raw_fd(), (libc::EPOLLIN | libc::EPOLLET) as u32, 0)?;
    let mut events = [libc::epoll_event { events: 0, u64: 0 }; 2];
    let mut seen = Vec::new();
    for write in [true, true, false] {
        if write {
            fd.write(1)?;
        }
        seen.push(epoll.wait(&mut events, Some(0))?);
    }
    Ok(seen == [1, 1, 0])
}

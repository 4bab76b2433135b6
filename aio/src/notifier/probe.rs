//! Self-tests of the ways to leave an eventfd unread. Emulated kernels accept the calls and behave otherwise, so each
//! way is tried once per process, on eventfds of its own, and believed only if it is seen to work.
#![expect(
    unsafe_code,
    reason = "pushes SQEs that point to nothing but a descriptor, and one provided buffer group"
)]

use crate::sys::epoll::Epoll;
use crate::sys::eventfd::EventFd;
use crate::sys::uring::{Ring, RingSetup};
use io_uring::{opcode, squeue, types};
use std::io;
use std::os::fd::AsRawFd;
use std::sync::OnceLock;

/// True if EPOLLET reports a second write although the first was never read.
pub(crate) fn epoll_edge() -> bool {
    static WORKS: OnceLock<bool> = OnceLock::new();
    once(&WORKS, epoll_sees_each_write)
}

/// Keeps what a probe has seen. One that could not be made (no descriptor or memory left) says no for now only.
fn once(seen: &OnceLock<bool>, probe: impl FnOnce() -> io::Result<bool>) -> bool {
    seen.get().copied().unwrap_or_else(|| match probe() {
        Ok(works) => *seen.get_or_init(|| works),
        Err(_) => false,
    })
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

/// True if multishot POLL_ADD reports a second write although the first was never read.
pub(crate) fn ring_edge() -> bool {
    static WORKS: OnceLock<bool> = OnceLock::new();
    let arm = |fd| opcode::PollAdd::new(fd, libc::POLLIN as u32).multi(true).build();
    once(&WORKS, || ring_sees_each_write(arm, false))
}

/// True if READ_MULTISHOT exists and reports each write.
pub(crate) fn ring_read_multishot() -> bool {
    static WORKS: OnceLock<bool> = OnceLock::new();
    let arm = |fd| opcode::ReadMulti::new(fd, 0, 0).build();
    once(&WORKS, || ring_sees_each_write(arm, true))
}

fn ring_sees_each_write(arm: impl Fn(types::Fd) -> squeue::Entry, with_buffers: bool) -> io::Result<bool> {
    let (mut ring, fd) = (Ring::new(4, RingSetup::Plain, false)?, EventFd::new()?);
    let buffers = if with_buffers { Some(ring.provide_counters(0)?) } else { None };
    // SAFETY: a poll points to nothing; a multishot read fills the group, which outlives the ring's use of it below.
    let pushed = unsafe { ring.push(&arm(types::Fd(fd.as_raw_fd()))) };
    pushed.map_err(|_| io::ErrorKind::StorageFull)?;
    ring.enter(Some(0)).or_else(ignore_nothing_came)?;
    let mut good = ring.reap().is_none();
    for _ in 0..2 {
        fd.write(1)?;
        ring.enter(Some(0)).or_else(ignore_nothing_came)?;
        good &= ring.reap().is_some_and(|cqe| cqe.result > 0 && io_uring::cqueue::more(cqe.flags));
    }
    if let Some(buffers) = &buffers {
        ring.withdraw_counters(buffers)?;
    }
    Ok(good)
}

fn ignore_nothing_came(e: io::Error) -> io::Result<u32> {
    if e.raw_os_error() == Some(libc::ETIME) { Ok(0) } else { Err(e) }
}

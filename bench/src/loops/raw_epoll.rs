//! epoll(7) without a library: a table of closures, found by index.
#![expect(unsafe_code, reason = "the system calls that are measured here have no safe form")]

use super::work::{Cannot, EventLoop, Handler, LATER, Seen, eventfd, handler, others_at};
use crate::bare::{EpollFd, EventFd, check, retry};
use crate::error::reason;
use slab::Slab;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;
use std::{io, ptr};

/// Events taken in one wait.
const BATCH: usize = 1_024;

/// `EDGE`: EPOLLET and never a read(2); else level-triggered with one for each event.
pub(super) struct RawEpoll<const EDGE: bool> {
    // Closed before the descriptors that the handlers hold.
    epoll: EpollFd,
    events: Vec<libc::epoll_event>,
    handlers: Slab<Handler>,
    seen: Seen,
    timer: Option<OwnedFd>,
    _others: Vec<OwnedFd>,
}

impl<const EDGE: bool> RawEpoll<EDGE> {
    fn watch(&mut self, fd: RawFd, handler: Handler) -> io::Result<usize> {
        let edge = if EDGE { libc::EPOLLET } else { 0 };
        let index = self.handlers.vacant_key();
        self.epoll.control(libc::EPOLL_CTL_ADD, fd, libc::EPOLLIN | edge, index as u64)?;
        Ok(self.handlers.insert(handler))
    }
}

impl<const EDGE: bool> EventLoop for RawEpoll<EDGE> {
    type Bell = Arc<EventFd>;
    type Key = (usize, RawFd);

    fn open(_: usize, seen: Seen) -> io::Result<Self> {
        Ok(Self {
            epoll: EpollFd::new()?,
            events: vec![libc::epoll_event { events: 0, u64: 0 }; BATCH],
            handlers: Slab::new(),
            seen,
            timer: None,
            _others: Vec::new(),
        })
    }

    fn bell() -> io::Result<Self::Bell> {
        eventfd()
    }

    fn add(&mut self, bell: &Self::Bell) -> io::Result<Self::Key> {
        let fd = bell.as_raw_fd();
        Ok((self.watch(fd, handler::<EDGE>(bell, &self.seen))?, fd))
    }

    fn remove(&mut self, (index, fd): Self::Key) -> io::Result<()> {
        self.epoll.control(libc::EPOLL_CTL_DEL, fd, 0, 0)?;
        drop(self.handlers.remove(index));
        Ok(())
    }

    #[inline]
    fn turn(&mut self) -> io::Result<()> {
        let ready = retry(|| self.epoll.wait(&mut self.events, -1))?;
        for event in &self.events[..ready as usize] {
            if let Some(handler) = self.handlers.get_mut(event.u64 as usize) {
                handler();
            }
        }
        Ok(())
    }

    fn seen(&self) -> &Seen {
        &self.seen
    }

    fn arm_timers(&mut self, others: usize) -> Result<(), Cannot> {
        let why = |error: io::Error| reason(&error);
        for index in 0..others {
            let fd = timerfd().map_err(why)?;
            set(fd.as_raw_fd(), others_at(index)).map_err(why)?;
            self.watch(fd.as_raw_fd(), Box::new(|| {})).map_err(why)?;
            self._others.push(fd);
        }
        let timer = timerfd().map_err(why)?;
        set(timer.as_raw_fd(), LATER).map_err(why)?;
        let (seen, fd) = (self.seen.clone(), timer.as_raw_fd());
        let expired = move || {
            // Setting a timerfd clears it, so one that is set again each time needs no read. If it
            // is level-triggered, it would be reported until then.
            if !EDGE {
                let mut count = 0u64;
                // SAFETY: eight bytes to be written, ours.
                unsafe { libc::read(fd, (&raw mut count).cast(), 8) };
            }
            seen.one_more();
        };
        self.watch(fd, Box::new(expired)).map_err(why)?;
        self.timer = Some(timer);
        Ok(())
    }

    #[inline]
    fn rearm(&mut self, delay: Duration) -> io::Result<()> {
        self.timer.as_ref().map_or(Ok(()), |timer| set(timer.as_raw_fd(), delay))
    }
}

fn timerfd() -> io::Result<OwnedFd> {
    // SAFETY: takes two integers.
    let fd = unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_NONBLOCK | libc::TFD_CLOEXEC) };
    let fd = check(fd.into())?;
    // SAFETY: the kernel has just given us this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// timerfd_settime(2). No delay is one nanosecond: zero would disarm it.
#[inline]
fn set(fd: RawFd, delay: Duration) -> io::Result<()> {
    let none = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    let it_value = libc::timespec {
        tv_sec: delay.as_secs() as libc::time_t,
        tv_nsec: if delay.is_zero() { 1 } else { delay.subsec_nanos().into() },
    };
    let value = libc::itimerspec { it_interval: none, it_value };
    // SAFETY: `value` lives across the call, which only reads it; the old one is not asked for.
    check(unsafe { libc::timerfd_settime(fd, 0, &value, ptr::null_mut()) }.into()).map(drop)
}

//! io_uring(7) without a library: a table of closures, found by index.
#![expect(
    unsafe_code,
    reason = "pushes SQEs; none of them points to memory that is freed before its completion"
)]

use super::work::{Cannot, EventLoop, Handler, LATER, Seen, eventfd, handler, others_at};
use crate::bare::{Calls, EventFd, Patience, Ring};
use crate::error::reason;
use io_uring::{cqueue, opcode, squeue, types};
use slab::Slab;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::time::Duration;
use std::{io, mem};

/// User data of requests without a handler: cancellations, and the timers beside the measured one.
const NOBODY: u64 = u64::MAX;
const TIMER: u64 = u64::MAX - 1;

/// `EDGE`: multishot POLL_ADD and never a read(2); else one-shot, armed again after each event,
/// with a read(2).
pub(super) struct RawRing<const EDGE: bool> {
    ring: Ring,
    handlers: Slab<(Handler, RawFd)>,
    /// One-shot polls that have fired and are armed again by the next turn. If one is removed
    /// before that, it needs no cancellation.
    fired: Vec<usize>,
    armed: Option<Armed>,
    seen: Seen,
}

/// The measured timer. The kernel reads the deadline when it consumes the SQE.
struct Armed {
    deadline: Box<types::Timespec>,
    in_flight: bool,
}

impl<const EDGE: bool> RawRing<EDGE> {
    fn push(&mut self, entry: &squeue::Entry) -> io::Result<()> {
        // SAFETY: polls and cancellations point to no memory; a deadline is read by the enter that
        // submits it, which is the next one, and lives until then in `self` or in the caller, who
        // enters.
        if unsafe { self.ring.push(entry) }.is_ok() {
            return Ok(());
        }
        self.ring.enter(Patience::Now, &mut Calls::default())?;
        // SAFETY: as above.
        unsafe { self.ring.push(entry) }
    }

    fn arm(&mut self, index: usize, fd: RawFd) -> io::Result<()> {
        let poll = opcode::PollAdd::new(types::Fd(fd), libc::POLLIN as u32).multi(EDGE).build();
        self.push(&poll.user_data(index as u64))
    }
}

impl<const EDGE: bool> EventLoop for RawRing<EDGE> {
    type Bell = Arc<EventFd>;
    type Key = usize;

    fn open(registrations: usize, seen: Seen) -> io::Result<Self> {
        let entries = registrations.next_power_of_two().clamp(256, 16_384) as u32;
        Ok(Self { ring: Ring::sized(entries)?, handlers: Slab::new(), fired: Vec::new(), armed: None, seen })
    }

    fn bell() -> io::Result<Self::Bell> {
        eventfd()
    }

    fn add(&mut self, bell: &Self::Bell) -> io::Result<Self::Key> {
        self.arm(self.handlers.vacant_key(), bell.as_raw_fd())?;
        Ok(self.handlers.insert((handler::<EDGE>(bell, &self.seen), bell.as_raw_fd())))
    }

    fn remove(&mut self, index: Self::Key) -> io::Result<()> {
        drop(self.handlers.remove(index));
        if let Some(at) = self.fired.iter().position(|&fired| fired == index) {
            self.fired.swap_remove(at);
            return Ok(());
        }
        // Submitted by the next enter. A later owner of the index does not see its completion.
        let cancel = opcode::AsyncCancel::new(index as u64).build().user_data(NOBODY);
        self.push(&cancel)
    }

    #[inline]
    fn turn(&mut self) -> io::Result<()> {
        while let Some(index) = self.fired.pop() {
            if let Some(&(_, fd)) = self.handlers.get(index) {
                self.arm(index, fd)?;
            }
        }
        self.ring.enter(Patience::Forever, &mut Calls::default())?;
        while let Some(entry) = self.ring.pop() {
            let data = entry.user_data();
            if data == TIMER {
                if let Some(armed) = &mut self.armed {
                    armed.in_flight = false;
                }
                // A timer that was replaced also completes, but has not expired.
                if entry.result() == -libc::ETIME {
                    self.seen.one_more();
                }
                continue;
            }
            let Some((handler, _)) = self.handlers.get_mut(data as usize) else { continue };
            if entry.result() < 0 {
                continue;
            }
            handler();
            if !cqueue::more(entry.flags()) {
                self.fired.push(data as usize);
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
            let deadline = timespec(others_at(index));
            let timer = opcode::Timeout::new(&deadline).build().user_data(NOBODY);
            self.push(&timer).map_err(why)?;
            self.ring.enter(Patience::Now, &mut Calls::default()).map_err(why)?;
        }
        self.armed = Some(Armed { deadline: Box::new(timespec(LATER)), in_flight: false });
        self.rearm(LATER).map_err(why)
    }

    /// TIMEOUT_REMOVE with an update for a timer in flight, TIMEOUT for one that has expired.
    #[inline]
    fn rearm(&mut self, delay: Duration) -> io::Result<()> {
        let Some(armed) = &mut self.armed else { return Ok(()) };
        *armed.deadline = timespec(delay);
        let deadline: *const types::Timespec = &*armed.deadline;
        let entry = if mem::replace(&mut armed.in_flight, true) {
            opcode::TimeoutUpdate::new(TIMER, deadline).build().user_data(NOBODY)
        } else {
            opcode::Timeout::new(deadline).build().user_data(TIMER)
        };
        self.push(&entry)?;
        if delay.is_zero() {
            // Submitted by the turn that follows.
            return Ok(());
        }
        self.ring.enter(Patience::Now, &mut Calls::default())?;
        while self.ring.pop().is_some() {}
        Ok(())
    }
}

fn timespec(delay: Duration) -> types::Timespec {
    types::Timespec::from(delay)
}

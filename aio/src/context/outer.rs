//! A turn in three parts, for an outer loop that sleeps in the context's place.
//!
//! ```text
//!   prepare    notify_me += 1; submit what is queued; is something due?
//!              the outer loop sleeps on the monitor's descriptor
//!   check      look at the kernel without sleeping; accept; is something due?
//!   dispatch   notify_me -= 1; run what is due
//! ```
//!
//! Between `prepare` and `dispatch` the home thread may run code of the outer loop. Whatever that
//! adds to the context (a bottom half, a timer, a handler, an operation) nudges the agenda, and the
//! first nudge makes the loop's own eventfd readable, so that the outer loop comes back. Code that
//! other threads run finds `notify_me` raised, as in any sleep.

use super::observer::{Off, On};
use super::parts::Parts;
use super::turn::AioContext;
use crate::agenda::Item;
use crate::bottom_half::Due;
use crate::sys::monotonic_ns;
use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

/// What an outer loop has to know before it sleeps. See
/// [`Embedded::prepare`](crate::Embedded::prepare).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Prepared {
    /// Something is due: do not sleep, but check and dispatch.
    pub ready_now: bool,
    /// When to check although the descriptor is not readable, in nanoseconds of CLOCK_MONOTONIC, as
    /// [`AioContext::now_ns`]. `None`: never.
    pub deadline_ns: Option<u64>,
}

impl Prepared {
    /// How long the outer loop may sleep, from now on: zero if something is due, `None` until the
    /// descriptor is readable. Reads the clock, so call it just before the sleep. Where a timeout
    /// is in milliseconds, round up, or the loop spins through the last one.
    pub fn timeout(&self) -> Option<Duration> {
        if self.ready_now {
            return Some(Duration::ZERO);
        }
        self.deadline_ns.map(|at_ns| Duration::from_nanos(at_ns.saturating_sub(monotonic_ns())))
    }
}

impl<C: 'static> Parts<C> {
    fn prepare(&self) -> io::Result<Prepared> {
        self.check_process()?;
        if self.has(Item::BusyPolling) {
            // Runs hooks of devices, so this comes first. Their doorbells are on from here on.
            self.sources.leave_busy_polling();
        }
        let notified = self.begin_outer_sleep();
        let submitted = self.monitor.submit(&self.sources);
        if submitted.inspect_err(|_| self.end_outer_sleep())? {
            self.sources.stats.wakeups.bump();
        }
        self.monitor.set_closed(true);
        let timeout = if notified || self.monitor.needs_wait() { Some(0) } else { self.timeout() };
        let deadline_ns = timeout.map(|ns| monotonic_ns().saturating_add(ns));
        Ok(Prepared { ready_now: timeout == Some(0), deadline_ns })
    }

    /// Returns true if another thread has notified the loop already.
    fn begin_outer_sleep(&self) -> bool {
        self.monitor.set_closed(false);
        self.shared.set_outer_sleep(true);
        self.agenda.set(Item::OuterSleep, true);
        if self.outer.is_raised.replace(true) {
            self.shared.gate.is_notified()
        } else {
            self.shared.gate.prepare()
        }
    }

    fn end_outer_sleep(&self) {
        self.ignore_nudges();
        if self.outer.is_raised.replace(false) {
            self.shared.gate.finish();
        }
    }

    /// What the home thread adds from here on interrupts no sleep.
    fn ignore_nudges(&self) {
        self.agenda.set(Item::OuterSleep, false);
        self.shared.set_outer_sleep(false);
        self.monitor.set_closed(false);
    }

    /// After the ring was asked to forget a descriptor: what was collected on the way does not make
    /// the ring's descriptor readable any more.
    #[inline]
    pub(super) fn nudge_after_reaping(&self) {
        if self.has(Item::OuterSleep) && self.monitor.ring().is_some() {
            self.interrupt_again();
        }
    }

    /// Interrupts the outer loop, whether it was interrupted before or not: what was written to the
    /// own eventfd may have been read. On a ring, the poll that watches it may also have been used
    /// up, so the eventfd is left alone.
    #[cold]
    fn interrupt_again(&self) {
        self.monitor.set_closed(false);
        match self.monitor.ring() {
            Some(ring) => {
                self.shared.set_outer_sleep(false);
                ring.make_readable(&self.sources.stats);
            }
            None => {
                self.shared.set_outer_sleep(true);
                self.shared.interrupt_outer_sleep();
            }
        }
    }

    fn check(&self) -> io::Result<bool> {
        self.check_process()?;
        self.monitor.set_closed(false);
        let looked = self.look();
        // The outer loop may go on sleeping if there is nothing.
        self.monitor.set_closed(self.has(Item::OuterSleep));
        looked?;
        if !self.sources.handlers.any_ready() {
            // If this fails (no descriptor or no memory left), the next look tries again.
            let _ = self.monitor.found_nothing(&self.sources.stats);
        }
        self.accept();
        Ok(self.timeout() == Some(0) || self.bottom_halves.due(&self.shared.bottom_halves) != Due::Cancelled)
    }

    /// Lets the home thread turn the loop although an outer loop relies on what `prepare` said.
    /// That is not true any more after the turn, so dropping the guard interrupts the outer loop.
    pub(super) fn turn_inside_outer_sleep(&self) -> InsideOuterSleep<'_, C> {
        self.ignore_nudges();
        InsideOuterSleep(self)
    }
}

/// Interrupts the outer loop when it is dropped.
pub(super) struct InsideOuterSleep<'a, C: 'static>(&'a Parts<C>);

impl<C> Drop for InsideOuterSleep<'_, C> {
    fn drop(&mut self) {
        if self.0.outer.is_raised.get() {
            self.0.agenda.set(Item::OuterSleep, true);
            self.0.interrupt_again();
        }
    }
}

/// For [`Embedded`](crate::Embedded), which documents them.
impl AioContext {
    pub(crate) fn begin_embedding(&self) -> io::Result<()> {
        self.parts.check_process()?;
        if !self.parts.is_embeddable {
            let why = "the context was not made with Builder::embeddable";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        if self.parts.outer.is_embedded.replace(true) {
            let why = "the context is embedded already; drop the other Embedded first";
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, why));
        }
        Ok(())
    }

    pub(crate) fn end_embedding(&self) {
        self.parts.outer.is_embedded.set(false);
        self.parts.end_outer_sleep();
    }

    /// What an outer loop sleeps on. `None` if the context is not embeddable.
    pub(crate) fn outer_descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.parts.monitor.descriptor()
    }

    pub(crate) fn prepare(&self) -> io::Result<Prepared> {
        self.parts.prepare()
    }

    pub(crate) fn check(&self) -> io::Result<bool> {
        self.parts.check()
    }

    pub(crate) fn dispatch(&self) -> io::Result<bool> {
        let parts = &*self.parts;
        parts.check_process()?;
        parts.end_outer_sleep();
        parts.sources.stats.turns.bump();
        parts.accept();
        if parts.is_observed() {
            let _nested = parts.observer.nested();
            self.run_due::<On>()
        } else {
            self.run_due::<Off>()
        }
    }
}

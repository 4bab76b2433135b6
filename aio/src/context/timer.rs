//! Timers, as users hold them.

use super::parts::Callback;
use super::turn::AioContext;
use crate::timer::{Clock, TimerKey, Timers};
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

/// A timer; idle until it is armed. Dropping it disarms it. Home thread.
///
/// Arming and cancelling are O(log n) in the armed timers, allocate nothing once as many timers
/// were armed before, and make no system call. Deadlines are honoured to the nanosecond, as far as
/// the kernel's timers are that precise: see
/// [`Builder::timer_slack_ns`](crate::Builder::timer_slack_ns).
#[must_use = "dropping a timer disarms it"]
pub struct Timer {
    timers: Rc<Timers<Callback<AioContext>>>,
    key: TimerKey,
}

impl Timer {
    /// Arms the timer for `at_ns` of its clock, in place of any deadline that it had. A deadline
    /// that has passed runs it in the next turn; inside its own callback that is not the turn that
    /// runs it now.
    pub fn arm_at(&self, at_ns: u64) {
        self.timers.arm(self.key, at_ns);
    }

    /// Arms the timer for a time from now. The latest deadline is 584 years after the clock's
    /// start.
    pub fn arm_after(&self, delay: Duration) {
        let delay_ns = u64::try_from(delay.as_nanos()).unwrap_or(u64::MAX);
        self.arm_at(self.now_ns().saturating_add(delay_ns));
    }

    /// Arms the timer for `at_ns` unless it is armed for an earlier time (QEMU's
    /// timer_mod_anticipate).
    pub fn anticipate_at(&self, at_ns: u64) {
        if self.deadline_ns().is_none_or(|armed| at_ns < armed) {
            self.arm_at(at_ns);
        }
    }

    /// Disarms the timer. Its callback does not run, even if it expired in this very turn.
    pub fn cancel(&self) {
        self.timers.cancel(self.key);
    }

    /// Returns true from arming until the callback begins.
    pub fn is_pending(&self) -> bool {
        self.deadline_ns().is_some()
    }

    /// When the timer runs, on its clock; `None` if it is not armed.
    pub fn deadline_ns(&self) -> Option<u64> {
        self.timers.deadline_ns(self.key)
    }

    /// The time of the timer's clock, in nanoseconds.
    pub fn now_ns(&self) -> u64 {
        self.timers.now_ns(self.key.clock)
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        // Outside of any borrow: the callback's captures may call back into the context.
        drop(self.timers.remove(self.key));
    }
}

impl fmt::Debug for Timer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Timer")
            .field("clock", &self.key.clock)
            .field("deadline_ns", &self.deadline_ns())
            .finish()
    }
}

impl AioContext {
    /// Makes a timer on real time (CLOCK_MONOTONIC), not armed yet. No system call. A panic of the
    /// callback unwinds out of [`poll`](Self::poll).
    ///
    /// The callback may turn the loop. If it has armed the timer before that, it may be entered
    /// again from there; that is why it is `Fn`.
    pub fn timer(&self, callback: impl Fn(&AioContext) + 'static) -> Timer {
        self.timer_on(Clock::Realtime, callback)
    }

    /// Makes a timer on the given clock. For its callback, see [`timer`](Self::timer).
    pub fn timer_on(&self, clock: Clock, callback: impl Fn(&AioContext) + 'static) -> Timer {
        let timers = Rc::clone(&self.parts.timers);
        let key = timers.create(clock, Rc::new(callback));
        Timer { timers, key }
    }
}

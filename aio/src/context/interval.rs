//! Timers that their callbacks can arm again, and periodic ones.

use super::timer::Timer;
use super::turn::AioContext;
use crate::timer::Clock;
use std::cell::OnceCell;
use std::rc::Rc;
use std::time::Duration;

impl AioContext {
    /// Makes a timer whose callback gets the timer, to arm it again or to read its deadline. On
    /// real time, not armed yet. Otherwise as [`timer`](Self::timer); one allocation more.
    ///
    /// ```
    /// # use aio::AioContext;
    /// # use std::{cell::Cell, rc::Rc, time::Duration};
    /// # fn main() -> std::io::Result<()> {
    /// let ctx = AioContext::new()?;
    /// let tries = Rc::new(Cell::new(0_u32));
    /// let count = Rc::clone(&tries);
    /// let retry = ctx.timer_with(move |_, timer| {
    ///     count.set(count.get() + 1);
    ///     if count.get() < 4 {
    ///         timer.arm_after(Duration::from_micros(10) * 2_u32.pow(count.get()));
    ///     }
    /// });
    /// retry.arm_after(Duration::from_micros(10));
    /// while tries.get() < 4 {
    ///     ctx.poll(true)?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn timer_with(&self, callback: impl Fn(&Self, &Timer) + 'static) -> Timer {
        self.timer_with_on(Clock::Realtime, callback)
    }

    /// The same on the given clock.
    pub fn timer_with_on(&self, clock: Clock, callback: impl Fn(&Self, &Timer) + 'static) -> Timer {
        // The table owns the callback, and the callback this reference to the table. Dropping the
        // timer or the context takes the callback out of the table.
        let own = Rc::new(OnceCell::new());
        let timer = self.timer_on(clock, {
            let own = Rc::clone(&own);
            move |context: &Self| {
                if let Some(timer) = own.get() {
                    callback(context, timer);
                }
            }
        });
        let _ = own.set(timer.again());
        timer
    }

    /// Calls `callback` every `period` of real time, for the first time after one period. Dropping
    /// the timer ends it, and so does [`cancel`](Timer::cancel), also in the callback, which gets
    /// the timer.
    ///
    /// The ticks keep their distance, however late one of them runs: each deadline is a whole
    /// number of periods after the one before. Ticks that were missed, because the loop was held up
    /// or the virtual clock was stepped, are left out: the callback runs once for all of them. (A
    /// QEMU device that does `timer_mod(timer, last + period)` runs once for each.) A device that
    /// has to make up for them counts by the clock.
    ///
    /// The timer is armed for the next tick before the callback runs. So a callback that turns the
    /// loop for longer than a period is entered again from there. To change the phase, arm the
    /// timer: the period counts from the deadline. A period of zero counts as a nanosecond.
    ///
    /// ```
    /// # use aio::AioContext;
    /// # use std::{cell::Cell, rc::Rc, time::Duration};
    /// # fn main() -> std::io::Result<()> {
    /// let ctx = AioContext::new()?;
    /// let ticks = Rc::new(Cell::new(0));
    /// let count = Rc::clone(&ticks);
    /// let period = Duration::from_micros(100);
    /// let _statistics = ctx.interval(period, move |_, _| count.set(count.get() + 1));
    /// while ticks.get() < 3 {
    ///     ctx.poll(true)?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn interval(&self, period: Duration, callback: impl Fn(&Self, &Timer) + 'static) -> Timer {
        self.interval_on(Clock::Realtime, period, callback)
    }

    /// The same on the given clock.
    pub fn interval_on(
        &self,
        clock: Clock,
        period: Duration,
        callback: impl Fn(&Self, &Timer) + 'static,
    ) -> Timer {
        let period_ns = u64::try_from(period.as_nanos()).unwrap_or(u64::MAX).max(1);
        let timer = self.timer_with_on(clock, move |context, timer| {
            timer.arm_next(|at_ns, now_ns| next_tick(at_ns, now_ns, period_ns));
            callback(context, timer);
        });
        timer.arm_after(period);
        timer
    }
}

/// The first tick after `now_ns`, if there was one at `at_ns`.
fn next_tick(at_ns: u64, now_ns: u64, period_ns: u64) -> u64 {
    let missed = now_ns.saturating_sub(at_ns) / period_ns;
    at_ns.saturating_add(missed.saturating_add(1).saturating_mul(period_ns))
}

#[cfg(test)]
mod tests {
    use super::next_tick;

    #[test]
    fn ticks_that_were_missed_are_left_out() {
        for (at, now, period, next) in [
            (100, 100, 10, 110),
            (100, 109, 10, 110),
            (100, 110, 10, 120),
            (100, 165, 10, 170),
            (100, 90, 10, 110),
            (100, 100, u64::MAX, u64::MAX),
            (u64::MAX, u64::MAX, 1, u64::MAX),
        ] {
            assert_eq!(next_tick(at, now, period), next, "{at} {now} {period}");
        }
    }
}

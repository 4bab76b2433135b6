//! Waiting for a time.

use crate::context::{AioContext, Timer, WeakContext};
use crate::timer::Clock;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// A future that is done at a time. Made by [`AioContext::sleep`] and [`AioContext::sleep_until`].
/// Dropping it disarms its timer. Never done if the context is dropped before. Home thread.
///
/// It is a [`Timer`] whose callback wakes the task: one allocation, no system call. Once it is
/// done, polling it again returns `Ready` again.
///
/// ```
/// # use aio::AioContext;
/// # use std::time::Duration;
/// # fn main() -> std::io::Result<()> {
/// let ctx = AioContext::new()?;
/// let start_ns = ctx.now_ns();
/// ctx.block_on(ctx.sleep(Duration::from_micros(250)))?;
/// assert!(ctx.now_ns() - start_ns >= 250_000);
/// # Ok(())
/// # }
/// ```
#[must_use = "a sleep does nothing unless it is awaited"]
pub struct Sleep {
    context: WeakContext,
    clock: Clock,
    until: Until,
    /// The timer, and the waker that it wakes.
    armed: Option<(Timer, Waker)>,
    is_over: bool,
}

#[derive(Clone, Copy, Debug)]
enum Until {
    /// So long after the first poll.
    After(Duration),
    At(u64),
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if let Some((timer, waker)) = &self.armed {
            if !timer.is_pending() {
                self.armed = None;
                self.is_over = true;
            } else if waker.will_wake(cx.waker()) {
                return Poll::Pending;
            }
        }
        if self.is_over {
            return Poll::Ready(());
        }
        let Some(context) = self.context.upgrade() else { return Poll::Pending };
        // One allocation: the timer's callback, which owns the waker.
        let (waker, wakes) = (cx.waker().clone(), cx.waker().clone());
        let timer = context.timer_on(self.clock, move |_| wakes.wake_by_ref());
        match self.until {
            Until::At(at_ns) => timer.arm_at(at_ns),
            Until::After(delay) => timer.arm_after(delay),
        }
        // Whoever polls next, with whichever waker, goes on to wait for the same time.
        self.until = timer.deadline_ns().map_or(self.until, Until::At);
        self.armed = Some((timer, waker));
        Poll::Pending
    }
}

impl fmt::Debug for Sleep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sleep")
            .field("clock", &self.clock)
            .field("until", &self.until)
            .finish_non_exhaustive()
    }
}

impl AioContext {
    /// A future that is done after a time, which begins with its first poll. Real time
    /// (CLOCK_MONOTONIC), with nanoseconds; never early.
    pub fn sleep(&self, delay: Duration) -> Sleep {
        self.sleep_with(Clock::Realtime, Until::After(delay))
    }

    /// A future that is done when a clock shows `at_ns` nanoseconds or more; for real time see
    /// [`now_ns`](Self::now_ns). To wait in equal steps, add the step to the last `at_ns`.
    pub fn sleep_until(&self, clock: Clock, at_ns: u64) -> Sleep {
        self.sleep_with(clock, Until::At(at_ns))
    }

    fn sleep_with(&self, clock: Clock, until: Until) -> Sleep {
        Sleep { context: self.downgrade(), clock, until, armed: None, is_over: false }
    }
}

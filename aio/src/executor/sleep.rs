//! Waiting for a time.

use crate::context::{AioContext, Alarm, WeakContext};
use crate::timer::Clock;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

/// A future that is done at a time. Made by [`AioContext::sleep`] and [`AioContext::sleep_until`].
/// Dropping it disarms its timer. Never done if the context is dropped before. Home thread.
///
/// It is a [`Timer`](crate::Timer) that wakes the task: no system call, and no allocation once as
/// many timers existed before. Once it is done, polling it again returns `Ready` again.
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
    /// Since the first poll, until it is over.
    alarm: Option<Alarm>,
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
        if self.is_over {
            return Poll::Ready(());
        }
        if let Some(alarm) = &self.alarm {
            if alarm.poll(cx.waker()).is_pending() {
                return Poll::Pending;
            }
            self.is_over = true;
            self.alarm = None;
            return Poll::Ready(());
        }
        let Some(context) = self.context.upgrade() else { return Poll::Pending };
        let at_ns = match self.until {
            Until::At(at_ns) => at_ns,
            Until::After(delay) => context.time_after(self.clock, delay),
        };
        self.until = Until::At(at_ns);
        self.alarm = Some(context.alarm(self.clock, at_ns, cx.waker().clone()));
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
    /// (CLOCK_MONOTONIC), with nanoseconds; never early. As for a [`Timer`](crate::Timer), no
    /// system call; and no allocation once as many timers existed before.
    pub fn sleep(&self, delay: Duration) -> Sleep {
        self.sleep_with(Clock::Realtime, Until::After(delay))
    }

    /// A future that is done when a clock shows `at_ns` nanoseconds or more; for real time see
    /// [`now_ns`](Self::now_ns). To wait in equal steps, add the step to the last `at_ns`.
    pub fn sleep_until(&self, clock: Clock, at_ns: u64) -> Sleep {
        self.sleep_with(clock, Until::At(at_ns))
    }

    fn sleep_with(&self, clock: Clock, until: Until) -> Sleep {
        Sleep { context: self.downgrade(), clock, until, alarm: None, is_over: false }
    }
}

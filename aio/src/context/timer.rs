//! Timers, as users hold them.

use super::expiry::Expiry;
use super::parts::{Sent, TimersOf};
use super::shared::Shared;
use super::turn::AioContext;
use crate::bottom_half::{Node, Work};
use crate::request::{Request, Wanted};
use crate::sync::Arc as ListArc;
use crate::sys::monotonic_ns;
use crate::timer::{Clock, TimerKey, VirtualClock};
use std::borrow::Cow;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// A timer; idle until it is armed. Dropping it disarms it. Home thread; [`handle`](Self::handle)
/// returns a handle for other threads.
///
/// Arming and cancelling are O(log n) in the armed timers, allocate nothing once as many timers
/// were armed before, and make no system call. Deadlines are honoured to the nanosecond, as far as
/// the kernel's timers are that precise: see
/// [`Builder::timer_slack_ns`](crate::Builder::timer_slack_ns).
#[must_use = "dropping a timer disarms it"]
pub struct Timer {
    timers: Rc<TimersOf<AioContext>>,
    key: TimerKey,
}

impl Timer {
    /// Names the timer, for [`AioContext::dump`] and [`SlowCallback`](crate::SlowCallback).
    /// It takes the place of an earlier name.
    #[must_use = "dropping a timer disarms it"]
    pub fn named(self, name: impl Into<Cow<'static, str>>) -> Self {
        self.timers.set_name(self.key, name.into());
        self
    }

    /// Arms the timer for `at_ns` of its clock, in place of any deadline that it had. A deadline
    /// that has passed runs it in the next turn; inside its own callback that is not the turn that
    /// runs it now.
    pub fn arm_at(&self, at_ns: u64) {
        self.timers.arm(self.key, at_ns);
    }

    /// Arms the timer for a time from now, on its clock, in place of any deadline that it had. The
    /// latest deadline is 584 years after the clock's start.
    pub fn arm_after(&self, delay: Duration) {
        self.arm_at(after(self.now_ns(), delay));
    }

    /// Arms the timer for `at_ns` unless it is armed for an earlier time (QEMU's
    /// timer_mod_anticipate).
    pub fn anticipate_at(&self, at_ns: u64) {
        if self.deadline_ns().is_none_or(|armed| at_ns < armed) {
            self.arm_at(at_ns);
        }
    }

    /// In its callback: arms it for what `next` makes of the deadline that has passed and the time
    /// of its clock. Another thread that has armed or cancelled it since then comes first.
    pub(super) fn arm_next(&self, next: impl FnOnce(u64, u64) -> u64) {
        let now_ns = self.now_ns();
        self.timers.arm_next(self.key, |at_ns| next(at_ns, now_ns));
    }

    /// A second owner of the timer. The first one that is dropped removes it.
    pub(super) fn again(&self) -> Self {
        Self { timers: Rc::clone(&self.timers), key: self.key }
    }

    /// Disarms the timer. Its callback does not run, even if it expired in this very turn.
    pub fn cancel(&self) {
        self.timers.cancel(self.key);
    }

    /// Returns true from arming until the callback begins.
    pub fn is_pending(&self) -> bool {
        self.deadline_ns().is_some()
    }

    /// When the timer runs, in nanoseconds of its clock; `None` if it is not armed.
    pub fn deadline_ns(&self) -> Option<u64> {
        self.timers.deadline_ns(self.key)
    }

    /// The time of the timer's clock, in nanoseconds.
    pub fn now_ns(&self) -> u64 {
        self.timers.now_ns(self.key.clock)
    }

    /// A handle for other threads. Three allocations; clone it rather than calling this again. It
    /// does not keep the timer.
    pub fn handle(&self) -> TimerHandle {
        let request = self.timers.request(self.key);
        let node = ListArc::new(Node::new(Work::Request(Arc::clone(&request))));
        let virtual_clock =
            (self.key.clock == Clock::Virtual).then(|| Arc::clone(&self.timers.virtual_clock));
        TimerHandle { request, node, virtual_clock, shared: Arc::clone(&self.timers.home) }
    }
}

pub(super) fn after(now_ns: u64, delay: Duration) -> u64 {
    now_ns.saturating_add(u64::try_from(delay.as_nanos()).unwrap_or(u64::MAX))
}

/// Arms and cancels a [`Timer`] from any thread, such as a vCPU's. Cheap to clone. Does nothing
/// once the timer or its context was dropped, nor in a forked child.
///
/// The last call wins, whichever thread made it and whether it was made here or on the [`Timer`].
/// Calls that come faster than the loop turns are carried out as one. No call blocks, allocates, or
/// takes a lock.
///
/// ```
/// # use aio::AioContext;
/// # use std::{cell::Cell, rc::Rc, time::Duration};
/// # fn main() -> std::io::Result<()> {
/// let ctx = AioContext::new()?;
/// let expired = Rc::new(Cell::new(false));
/// let flag = Rc::clone(&expired);
/// let watchdog = ctx.timer(move |_| flag.set(true));
/// let handle = watchdog.handle();
/// // A vCPU thread arms it when the guest writes to a register.
/// std::thread::spawn(move || handle.arm_after(Duration::from_micros(100)));
/// while !expired.get() {
///     ctx.poll(true)?;
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct TimerHandle {
    request: Arc<Request>,
    node: ListArc<Node<Work<Sent<AioContext>>>>,
    /// The clock of the timer; `None` for real time.
    virtual_clock: Option<Arc<VirtualClock>>,
    shared: Arc<Shared<Sent<AioContext>>>,
}

const _: fn() = || {
    fn assert_send_and_sync<T: Send + Sync>() {}
    assert_send_and_sync::<TimerHandle>();
};

impl TimerHandle {
    /// Arms the timer for `at_ns` of its clock, in place of any deadline that it had. Wakes the
    /// loop if it sleeps, as [`Handle::notify`](crate::Handle::notify) does: at most one write(2),
    /// none if the loop is awake. What this thread wrote before is visible to the callback.
    pub fn arm_at(&self, at_ns: u64) {
        self.request.make(Wanted::Armed { at_ns });
        Node::schedule(&self.node, &self.shared.bottom_halves);
        self.shared.notify();
    }

    /// Arms the timer for a time from this call on, on its clock. Otherwise the same.
    pub fn arm_after(&self, delay: Duration) {
        self.arm_at(after(self.now_ns(), delay));
    }

    /// Disarms the timer. Never wakes the loop: it learns of this before it runs the timer. A
    /// callback that this turn of the loop has begun, or is about to run, is not stopped.
    pub fn cancel(&self) {
        self.request.make(Wanted::Cancelled);
        Node::schedule(&self.node, &self.shared.bottom_halves);
    }

    /// The time of the timer's clock, in nanoseconds.
    pub fn now_ns(&self) -> u64 {
        self.virtual_clock.as_ref().map_or_else(monotonic_ns, |clock| clock.now_ns())
    }
}

impl fmt::Debug for TimerHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TimerHandle").field("request", &self.request).finish_non_exhaustive()
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

    /// Makes a timer on the given clock, not armed yet. For its callback, see
    /// [`timer`](Self::timer). The virtual clock is that of the [context](Self::virtual_clock).
    pub fn timer_on(&self, clock: Clock, callback: impl Fn(&AioContext) + 'static) -> Timer {
        self.follow(clock);
        let timers = Rc::clone(&self.parts.timers);
        let key = timers.create(clock, Expiry::Call(Rc::new(callback)));
        Timer { timers, key }
    }

    /// From here on, a change of the clock wakes this loop.
    pub(super) fn follow(&self, clock: Clock) {
        if clock == Clock::Virtual {
            let shared = Arc::downgrade(&self.parts.shared);
            self.parts.timers.virtual_clock.add_loop(shared);
        }
    }
}

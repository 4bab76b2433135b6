//! The clocks that a deadline can be measured against.

use super::snapshot::{Snapshot, Words};
use crate::sys::monotonic_ns;
use std::fmt;
use std::sync::{Mutex, PoisonError, Weak};
use std::thread::{self, ThreadId};
use std::time::Duration;

/// What a deadline is measured against, in nanoseconds since an unspecified start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Clock {
    /// CLOCK_MONOTONIC of the host.
    Realtime,
    /// The context's [`VirtualClock`].
    Virtual,
}

/// Guest time. It runs with the host's monotonic clock while it is started, stands still while it
/// is stopped, and can be stepped forward in both states. It begins at zero, stopped.
///
/// A context makes a clock of its own, unless [`Builder::virtual_clock`] gives it one. The loops of
/// one VM share one clock, so guest time stops, runs and steps for all of them in the same instant.
///
/// All methods may be called from any thread, also from callbacks. They make no system call of
/// their own; a reader waits only while another thread is inside `start`, `stop` or `step`. `start`
/// and `step` wake each loop that has made a timer on the clock, if it sleeps: one write(2) for
/// each, as for [`Handle::notify`]. A loop that sleeps when the clock is stopped may wake up at the
/// old deadline, without progress.
///
/// A timer is due when the clock reads its deadline or more, running or not. After `stop` has
/// returned, no thread reads a later time, and no timer expires that had not expired by that time;
/// a callback whose timer expired before may still be running, or about to run.
///
/// After fork(2) the clock belongs to the parent, as its loops do.
///
/// ```
/// use aio::{AioContext, Clock, VirtualClock};
/// use std::{cell::Cell, rc::Rc, sync::Arc, time::Duration};
///
/// # fn main() -> std::io::Result<()> {
/// let guest_time = Arc::new(VirtualClock::new());
/// let ctx = AioContext::builder().virtual_clock(Arc::clone(&guest_time)).build()?;
/// let rung = Rc::new(Cell::new(false));
/// let alarm = ctx.timer_on(Clock::Virtual, {
///     let rung = Rc::clone(&rung);
///     move |_| rung.set(true)
/// });
/// alarm.arm_at(1_000_000);
///
/// // The thread of a vCPU, for example. It wakes the loop.
/// std::thread::spawn(move || guest_time.step(Duration::from_millis(1)));
/// while !rung.get() {
///     ctx.poll(true)?;
/// }
/// # Ok(())
/// # }
/// ```
///
/// [`Builder::virtual_clock`]: crate::Builder::virtual_clock
/// [`Handle::notify`]: crate::Handle::notify
pub struct VirtualClock {
    /// The reading when the clock was last started or stepped, and real time when it was started,
    /// or `STOPPED`.
    state: Snapshot,
    /// The loops that have made a timer on the clock.
    loops: Mutex<Vec<Member>>,
}

/// In place of the real time of a start. CLOCK_MONOTONIC gets there 584 years after boot.
const STOPPED: u64 = u64::MAX;

/// A loop whose deadlines change with the clock.
struct Member {
    /// Its home thread. It need not be woken for what it does itself.
    home: ThreadId,
    wake: Weak<dyn Wake>,
}

/// How a sleeping loop is woken.
pub(crate) trait Wake: Send + Sync {
    /// Makes the loop compute its deadline again. Any thread but its home thread; calls no user
    /// code.
    fn wake(&self);

    /// The same in its home thread, which does not sleep now. But an outer loop may be about to
    /// sleep in its place.
    fn wake_at_home(&self);
}

/// What a clock reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reading {
    pub(super) now_ns: u64,
    pub(super) is_running: bool,
}

impl Reading {
    fn of([base_ns, started_ns]: Words) -> Self {
        if started_ns == STOPPED {
            return Self { now_ns: base_ns, is_running: false };
        }
        let running_ns = monotonic_ns().saturating_sub(started_ns);
        Self { now_ns: base_ns.saturating_add(running_ns), is_running: true }
    }
}

impl Default for VirtualClock {
    fn default() -> Self {
        Self { state: Snapshot::new([0, STOPPED]), loops: Mutex::default() }
    }
}

impl VirtualClock {
    /// A stopped clock that reads zero.
    pub fn new() -> Self {
        Self::default()
    }

    /// The reading, in nanoseconds.
    pub fn now_ns(&self) -> u64 {
        self.read().now_ns
    }

    /// Lets it run from its present reading. No effect if it runs.
    pub fn start(&self) {
        let started =
            self.state.change(|[base_ns, started]| (started == STOPPED).then(|| [base_ns, monotonic_ns()]));
        if started {
            self.wake_loops();
        }
    }

    /// Stops it at its present reading. No effect if it is stopped.
    pub fn stop(&self) {
        self.state.change(|words| Some([Reading::of(words).now_ns, STOPPED]));
    }

    /// Moves it forward. Timers that expire by that run in the next turn of their loops.
    pub fn step(&self, by: Duration) {
        let by_ns = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
        self.state.change(|[base_ns, started]| Some([base_ns.saturating_add(by_ns), started]));
        self.wake_loops();
    }

    /// Returns true between [`start`](Self::start) and [`stop`](Self::stop).
    pub fn is_running(&self) -> bool {
        self.read().is_running
    }

    #[inline]
    pub(super) fn read(&self) -> Reading {
        self.state.read(Reading::of)
    }

    /// Wakes this loop from now on when the clock is started or stepped. Called in its home thread.
    pub(crate) fn add_loop(&self, wake: Weak<dyn Wake>) {
        let mut loops = self.loops.lock().unwrap_or_else(PoisonError::into_inner);
        if loops.iter().any(|member| member.wake.ptr_eq(&wake)) {
            return;
        }
        loops.retain(|member| member.wake.strong_count() != 0);
        loops.push(Member { home: thread::current().id(), wake });
    }

    fn wake_loops(&self) {
        let here = thread::current().id();
        let members: Vec<_> = {
            let loops = self.loops.lock().unwrap_or_else(PoisonError::into_inner);
            let alive = loops.iter().filter_map(|member| Some((member.home, member.wake.upgrade()?)));
            alive.collect()
        };
        // The clock has changed, so a loop that computes its deadline from here on sees it.
        for (home, member) in members {
            if home == here { member.wake_at_home() } else { member.wake() }
        }
    }
}

impl fmt::Debug for VirtualClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Reading { now_ns, is_running } = self.read();
        f.debug_struct("VirtualClock").field("now_ns", &now_ns).field("is_running", &is_running).finish()
    }
}

const _: fn() = || {
    fn assert_send_and_sync<T: Send + Sync>() {}
    assert_send_and_sync::<VirtualClock>();
};

//! [`AioContext`]: one turn of the loop, and the end of a context.

use super::expiry::Expiry;
use super::observer::{Observed, Observer, Off, On, Watcher};
use super::parts::Parts;
use crate::agenda::Item;
use crate::bottom_half::Job;
use crate::busy_poll::{BusyPolling, Found, Round};
use crate::monitor::{MonitorInfo, Wanted};
use crate::profile::CallbackKind;
use crate::request::Request;
use crate::reset::{Method, Reset};
use crate::stats::Stats;
use crate::sys::{TimeoutNs, monotonic_ns};
use crate::timer::VirtualClock;
use crate::trace;
use crate::worker_pool::Limits;
use std::fmt;
use std::io;
use std::panic::resume_unwind;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// A single-threaded event loop for device emulation, after QEMU's AioContext.
///
/// Belongs to the thread that made it (its *home thread*): it is neither `Send` nor `Sync`, and
/// neither are the registrations, timers and bottom halves made from it. Other threads hold a
/// [`Handle`](crate::Handle). Callbacks get `&AioContext` and may do everything with it, also
/// [`poll`](Self::poll).
///
/// Dropping it cancels what the kernel has and waits for that, ends busy polling, and drops every
/// callback. Captured values may use the context while they are dropped. A panic of a hook or of a
/// captured value's `Drop` keeps none of the others from running, and then goes on.
///
/// After fork(2) it belongs to the parent. In the child it is inert: [`poll`](Self::poll) and every
/// registration return an error, and dropping it drops the callbacks without touching the kernel
/// objects that parent and child share. Handles do nothing there.
pub struct AioContext {
    pub(super) parts: Rc<Parts<AioContext>>,
    /// False in a [`LocalHandle`](crate::LocalHandle).
    pub(super) is_owner: bool,
}

const _: fn() = || {
    // Does not compile if AioContext is Send or Sync: the method below would be ambiguous.
    trait AmbiguousIfShareable<A> {
        fn home_thread_only() {}
    }
    impl<T: ?Sized> AmbiguousIfShareable<()> for T {}
    struct IsSend;
    impl<T: ?Sized + Send> AmbiguousIfShareable<IsSend> for T {}
    struct IsSync;
    impl<T: ?Sized + Sync> AmbiguousIfShareable<IsSync> for T {}
    let _ = <AioContext as AmbiguousIfShareable<_>>::home_thread_only;
};

impl AioContext {
    pub(super) fn assemble(
        wanted: Wanted,
        reset: Reset,
        policy: BusyPolling,
        virtual_clock: Arc<VirtualClock>,
        workers: Limits,
    ) -> io::Result<Self> {
        let busy_turn = Self::busy_turn::<Off>;
        let parts = Parts::new(wanted, reset, policy, virtual_clock, workers, busy_turn)?;
        Ok(Self { parts: Rc::new(parts), is_owner: true })
    }

    /// The monitor that was chosen, and why.
    pub fn monitor(&self) -> &MonitorInfo {
        &self.parts.info
    }

    /// How the loop's own notifier is reset, and why not by the method hoped for, if so.
    pub fn own_notifier(&self) -> (Method, Option<&str>) {
        (self.parts.own.0, self.parts.own.1.as_deref())
    }

    /// CLOCK_MONOTONIC in nanoseconds: what [`Timer::arm_at`](crate::Timer::arm_at) of a
    /// [`Clock::Realtime`](crate::Clock::Realtime) timer takes.
    pub fn now_ns(&self) -> u64 {
        monotonic_ns()
    }

    /// The clock of [`Clock::Virtual`](crate::Clock::Virtual) timers. Clone the `Arc` for another
    /// thread, or for the [builder](crate::Builder::virtual_clock) of another loop.
    pub fn virtual_clock(&self) -> &Arc<VirtualClock> {
        &self.parts.timers.virtual_clock
    }

    /// A snapshot of the counters. No system call.
    pub fn stats(&self) -> Stats {
        let mut stats = self.parts.sources.stats.snapshot();
        stats.syscalls_write = self.parts.shared.wakes.load(Ordering::Relaxed);
        stats
    }

    /// Sets the busy-polling policy and forgets what was learned. Takes effect in the next turn.
    /// Runs the [`end`](crate::BusyPolled::end) hooks of devices that are polled now. No effect in
    /// a forked child.
    pub fn set_busy_polling(&self, policy: BusyPolling) {
        if self.parts.is_current() {
            self.parts.sources.set_policy(policy);
            self.parts.agenda.nudge();
        }
    }

    /// Turns the loop until [`Handle::stop`](crate::Handle::stop), and sleeps while nothing is due.
    /// Each stop request ends one `run`; a nested `run` takes it first.
    ///
    /// # Errors
    /// As for [`poll`](Self::poll).
    pub fn run(&self) -> io::Result<()> {
        while !self.parts.shared.take_stop() {
            self.poll(true)?;
        }
        self.flush_rings();
        Ok(())
    }

    /// One turn: waits for events (if `blocking`, and nothing is due) and runs what they call for.
    ///
    /// In this order: completions, bottom halves, handlers, timers, tasks. A turn runs what was
    /// there when it got to each of these. What a callback schedules, submits or makes ready
    /// belongs to the next turn, and at most 1024 bottom halves run in one turn, and as many tasks
    /// are polled, so a turn always ends. Only tasks that become ready while tasks are polled are
    /// polled in the same turn, up to 64 polls of all.
    ///
    /// May be called from any callback. Such a nested turn also runs what its parents collected and
    /// have not run yet.
    ///
    /// Returns true if a callback ran, not counting idle bottom halves. A blocking call may return
    /// false: somebody called [`Handle::notify`](crate::Handle::notify), a signal handler ran, the
    /// process was stopped and continued (epoll and io_uring return EINTR then, ppoll does not), an
    /// event was stale, or the kernel confirmed a removal. So: `while !done.get() {
    /// ctx.poll(true)?; }`.
    ///
    /// A panic of a callback unwinds out of this call. What was collected and not run yet runs in
    /// the next turn.
    ///
    /// # Errors
    /// What the monitor's system call returns, except EINTR; none is expected while memory lasts.
    /// The context stays usable. `Unsupported` in a forked child, where it never is, and
    /// `NotConnected` through a [`LocalHandle`](crate::LocalHandle) of a context that was dropped.
    pub fn poll(&self, blocking: bool) -> io::Result<bool> {
        let parts = &*self.parts;
        parts.check_process()?;
        parts.sources.stats.turns.bump();
        self.turn(blocking)
    }

    #[inline(always)]
    fn turn(&self, blocking: bool) -> io::Result<bool> {
        let parts = &*self.parts;
        if trace::is_on() {
            return self.unusual_turn(blocking);
        }
        if blocking && parts.is_idle() {
            parts.sleep(None)?;
        } else if parts.agenda.is_unusual() {
            return self.unusual_turn(blocking);
        } else {
            parts.ask_kernel(if blocking { parts.timeout() } else { Some(0) })?;
        }
        parts.accept();
        self.run_due::<Off>()
    }

    /// A turn of a context that busy polls or is observed, or that an outer loop sleeps for.
    #[inline(never)]
    fn unusual_turn(&self, blocking: bool) -> io::Result<bool> {
        let parts = &*self.parts;
        if parts.has(Item::OuterSleep) {
            let _interrupt = parts.turn_inside_outer_sleep();
            return self.turn(blocking);
        }
        if trace::is_on() {
            return self.observed_turn(blocking);
        }
        (parts.observer.turn.get())(self, blocking)
    }

    /// Chooses the turn for what is on now. It counts from the next turn on.
    pub(super) fn choose_turn(&self) {
        let observer = &self.parts.observer;
        observer.turn.set(if observer.is_on() { Self::observed_turn } else { Self::busy_turn::<Off> });
    }

    /// A turn whose callbacks are observed.
    fn observed_turn(&self, blocking: bool) -> io::Result<bool> {
        let parts = &*self.parts;
        let _nested = parts.observer.nested();
        let progress = if parts.has(Item::BusyPolling) {
            self.busy_turn::<On>(blocking)?
        } else {
            parts.ask_kernel(if blocking { parts.timeout() } else { Some(0) })?;
            parts.accept();
            self.run_due::<On>()?
        };
        trace::aio_poll(blocking, progress);
        Ok(progress)
    }

    /// A turn of a context that busy polls.
    #[inline(never)]
    fn busy_turn<W: Watcher<Self>>(&self, blocking: bool) -> io::Result<bool> {
        let parts = &*self.parts;
        let busy = &parts.sources.busy;
        let mut timeout = if blocking { parts.timeout() } else { Some(0) };
        let start_ns = monotonic_ns();
        let ask_kernel = self.busy_poll(start_ns, &mut timeout);
        // The kernel works in a call that does not sleep, too: io_uring reads from the page cache
        // there.
        let mut work_ns = monotonic_ns();
        let mut now_ns = work_ns;
        busy.spend(work_ns.saturating_sub(start_ns));
        if ask_kernel {
            let slept = parts.ask_kernel(timeout)?;
            now_ns = monotonic_ns();
            if slept {
                work_ns = now_ns;
            }
        }
        parts.accept();
        let outer = busy.note_turn(Found { start_ns, now_ns });
        let progress = self.run_due::<W>();
        busy.note_turn(outer);
        let progress = progress?;
        if progress {
            busy.earn(monotonic_ns().saturating_sub(work_ns));
        }
        Ok(progress)
    }

    /// Busy polls within the timeout, and shortens it. Returns false if the kernel need not be
    /// asked in this turn.
    #[inline(never)]
    fn busy_poll(&self, start_ns: u64, timeout: &mut TimeoutNs) -> bool {
        let parts = &*self.parts;
        let (sources, monitor) = (&parts.sources, &parts.monitor);
        let loop_has_work = || parts.shared.gate.is_notified() || monitor.needs_wait();
        // A completion that is awaited will wake the loop.
        let may_linger = !monitor.ring().is_some_and(|ring| ring.completions().any_awaited());
        let round = sources.busy_round(start_ns, *timeout, may_linger, loop_has_work);
        match round {
            Round::Hit => sources.stats.poll_hits.bump(),
            Round::Miss => sources.stats.poll_misses.bump(),
            Round::Off | Round::Loop => {}
        }
        let found = matches!(round, Round::Hit | Round::Loop);
        if found {
            *timeout = Some(0);
        }
        // About to sleep: doorbells on, and one more look. The search took some time, and the hooks
        // may have scheduled or armed something, so the timeout is computed again.
        if *timeout != Some(0) && sources.leave_busy_polling() {
            *timeout = parts.timeout();
        }
        // A ring that tells shows in memory whether there is anything to ask for. The other
        // monitors have to be asked now and then, for what does not show in memory.
        let unseen = match monitor.ring() {
            Some(_) => usize::MAX,
            None => sources.handlers.len() - 1,
        };
        !found || monitor.tells() || monitor.needs_wait() || sources.busy.must_look_at_fds(unseen)
    }

    /// Runs what was collected, was scheduled, or has expired. Returns true if a callback ran.
    #[inline(always)]
    pub(super) fn run_due<W: Watcher<Self>>(&self) -> io::Result<bool> {
        let parts = &*self.parts;
        let mut progress = parts.has_queued() && self.run_queued::<W>();
        progress |= parts.sources.dispatch::<W>(self)?;
        if parts.agenda.has_either(Item::Timers, Item::Tasks) {
            progress |= self.run_timers_and_tasks::<W>();
        }
        Ok(progress)
    }

    #[inline(never)]
    fn run_queued<W: Watcher<Self>>(&self) -> bool {
        let completed = self.parts.has(Item::Completions) && self.run_completions::<W>();
        let halves = &self.parts.shared.bottom_halves;
        let scheduled = self.parts.has(Item::BottomHalves) || !halves.is_empty();
        scheduled && self.run_bottom_halves::<W>() || completed
    }

    fn run_completions<W: Watcher<Self>>(&self) -> bool {
        let Some(ring) = self.parts.monitor.ring() else { return false };
        let (completions, mut progress) = (ring.completions(), false);
        let end = completions.mark();
        while let Some(completed) = completions.next(end) {
            self.parts.sources.stats.completions.bump();
            progress = true;
            let (owner, key) = completed.held;
            let record = W::find_record(CallbackKind::Operation, || None);
            W::call(self, record, always, move || {
                let owner = owner;
                owner.complete(self, key, completed.result, completed.flags);
            });
        }
        progress
    }

    fn run_bottom_halves<W: Watcher<Self>>(&self) -> bool {
        let (halves, mut progress) = (&self.parts.bottom_halves, false);
        let end = halves.collect(&self.parts.shared.bottom_halves);
        let half = |slot: &_| W::record(slot, || CallbackKind::BottomHalf);
        let closure = || W::find_record(CallbackKind::Closure, || None);
        let carry_out = |request: &Request| self.parts.timers.carry_out(request);
        while let Some(job) = halves.next(end, half, carry_out) {
            self.parts.sources.stats.bottom_halves.bump();
            progress |= !matches!(job, Job::Half { idle: true, .. });
            match job {
                Job::Half { callback, record, .. } => {
                    W::call(self, record, always, move || callback(self));
                }
                Job::Sent(run) => W::call(self, closure(), always, || run(self)),
                Job::Deferred(run) => W::call(self, closure(), always, || run(self)),
            }
        }
        progress
    }

    /// Only chooses, so that neither pays for the registers that the other one needs.
    #[inline(never)]
    fn run_timers_and_tasks<W: Watcher<Self>>(&self) -> bool {
        let expired = self.parts.has(Item::Timers) && self.run_timers::<W>();
        // Timers may have woken some.
        self.parts.has(Item::Tasks) && self.poll_tasks::<W>(None) > 0 || expired
    }

    /// Polls the tasks that are ready, and those that become ready meanwhile: `most` of them, or as
    /// many as a turn may. Returns how many polls were made.
    #[inline(never)]
    pub(super) fn poll_tasks<W: Watcher<Self>>(&self, most: Option<usize>) -> usize {
        let Some(tasks) = self.parts.tasks.get() else { return 0 };
        let Some(phase) = tasks.begin() else { return 0 };
        let most = most.unwrap_or_else(|| phase.most());
        let mut left = most;
        while left > 0
            && self.parts.has(Item::Tasks)
            && let Some(task) = phase.next()
        {
            self.parts.sources.stats.task_polls.bump();
            left -= 1;
            let record = W::find_record(CallbackKind::Task, || tasks.record(&task));
            let is_of_user = |_: &()| task.standing().is_some();
            // The task is back in its place before anybody hears of the call.
            W::call(self, record, is_of_user, || {
                if let Some(payload) = tasks.polled(&task, task.run()) {
                    resume_unwind(payload);
                }
            });
        }
        most - left
    }

    #[inline(never)]
    fn run_timers<W: Watcher<Self>>(&self) -> bool {
        let (timers, mut progress) = (&self.parts.timers, false);
        let end = timers.expire();
        let record = |slot: &_| W::record(slot, || CallbackKind::Timer);
        while let Some((expiry, record)) = timers.next(end, Expiry::take, record) {
            self.parts.sources.stats.timers.bump();
            progress = true;
            W::call(self, record, always, move || expiry.run(self));
        }
        progress
    }
}

/// These callbacks always count.
#[inline(always)]
fn always(_: &()) -> bool {
    true
}

impl Observed for AioContext {
    fn observer(&self) -> &Observer<Self> {
        &self.parts.observer
    }
}

impl Drop for AioContext {
    /// See the type's documentation. The ring comes first: no user code runs before it is shut
    /// down, but [`Movable::detach`](crate::Movable::detach), which needs a loop that works.
    fn drop(&mut self) {
        if self.is_owner {
            self.parts.shut_down(self);
        }
    }
}

impl fmt::Debug for AioContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AioContext").field("parts", &self.parts).finish()
    }
}

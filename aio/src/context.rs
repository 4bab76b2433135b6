//! AioContext: one turn of the loop, and what it ties together.

use crate::action::{Action, OnFd, OnOwn, OnPolledBell, on_bell};
use crate::agenda::{Agenda, Item};
use crate::bottom_half::{BottomHalf, BottomHalves, Due};
use crate::builder::Builder;
use crate::busy_poll::{BusyPoll, BusyPolled, BusyPolling, Found, Round};
use crate::completion::Completions;
use crate::handle::{Handle, Shared};
use crate::handler::{AddError, Handler, HandlerId, Handlers, Interest, Readiness, Registration, Watch};
use crate::monitor::{Monitor, MonitorInfo, Sink};
use crate::notifier::{EventNotifier, Method, NotifierRegistration, watch_for};
use crate::stats::{Counters, Stats};
use crate::sys::{TimeoutNs, monotonic_ns};
use crate::timer::{Clock, Timer, Timers, VirtualClock};
use crate::token::Token;
use crate::wake_gate::Sleeper;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// How often a loop looks at a scheduled idle bottom half.
const IDLE_NS: u64 = 10_000_000;

/// A single-threaded event loop for device emulation, after QEMU's AioContext.
///
/// Belongs to the thread that made it (its *home thread*): it is neither `Send` nor `Sync`, and neither are the
/// registrations, timers and bottom halves made from it. Other threads hold a [`Handle`]. Callbacks get `&AioContext`
/// and may do everything with it, also [`poll`](Self::poll).
pub struct AioContext {
    pub(crate) inner: Rc<Inner>,
}

const _: fn() = || {
    // Does not compile if AioContext is Send or Sync: then the method below would be ambiguous.
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

#[derive(Debug)]
pub(crate) struct Inner {
    agenda: Rc<Agenda>,
    pub(crate) sink: Sink,
    pub(crate) monitor: Monitor,
    pub(crate) info: MonitorInfo,
    bottom_halves: Rc<BottomHalves>,
    timers: Rc<Timers>,
    pub(crate) busy_poll: BusyPoll,
    shared: Arc<Shared>,
    sleeper: Sleeper,
    own: (Method, Option<&'static str>),
}

impl Inner {
    /// Watches `fd` and puts its handler into a slot. A handler that the number has already is retired once the new one
    /// is in place. `known`: the descriptor is open and can be polled.
    pub(crate) fn register(
        &self,
        fd: RawFd,
        watch: Watch,
        known: bool,
        action: impl FnOnce() -> Box<dyn Action>,
    ) -> io::Result<Token> {
        let replaced = self.sink.handlers.get_by_fd(fd);
        let token = self.sink.handlers.next_token()?;
        let state = self.monitor.add(token, fd, watch, known, &self.sink.stats)?;
        self.sink.handlers.insert(Handler::new(token, fd, watch, state, action()));
        if let Some(old) = replaced {
            self.sink.handlers.remove(old.token);
            self.retire(&old, true);
        }
        Ok(token)
    }

    pub(crate) fn remove_handler(&self, token: Token) -> bool {
        let Some(handler) = self.sink.handlers.remove(token) else {
            return false;
        };
        self.retire(&handler, false);
        true
    }

    /// Last steps of a handler that has left its slot. Dropping it may run user code, so nothing is borrowed here.
    fn retire(&self, handler: &Handler, replaced: bool) {
        self.monitor.remove(handler, replaced, &self.sink);
        let doorbell_was_off = self.busy_poll.forget(handler);
        if handler.is_ready() {
            self.sink.stats.stale.bump();
        }
        handler.hand_back(doorbell_was_off);
    }

    /// Collects what the kernel has, and sleeps until it has something if it may. True if it might have slept.
    ///
    /// To be followed by `accept`, before anything is looked at: what is published from there on will notify again.
    #[inline(never)]
    fn ask_kernel(&self, timeout: TimeoutNs) -> io::Result<bool> {
        if timeout == Some(0) { self.look() } else { self.sleep(timeout) }
    }

    /// The same with a timeout that is not zero. Inlined, and what it calls, because the usual turn has none.
    #[inline(always)]
    fn sleep(&self, timeout: TimeoutNs) -> io::Result<bool> {
        let sleeps = !self.sleeper.prepare(&self.shared.gate);
        let woken = if sleeps { self.monitor.wait(timeout, &self.sink) } else { self.look() };
        self.sleeper.finish(&self.shared.gate);
        if woken? && sleeps {
            self.sink.stats.wakeups.bump();
        }
        Ok(sleeps)
    }

    /// The same without a sleep.
    #[inline(never)]
    fn look(&self) -> io::Result<bool> {
        if self.monitor.wait(Some(0), &self.sink)? {
            self.sink.stats.wakeups.bump();
        }
        Ok(false)
    }

    /// Nothing calls for a turn but what the kernel may have.
    #[inline]
    fn is_idle(&self) -> bool {
        !self.sink.handlers.any_ready() && self.agenda.is_empty() && self.shared.bottom_halves.is_empty()
    }

    /// How long the next wait may sleep.
    #[inline(never)]
    fn timeout(&self) -> TimeoutNs {
        if self.sink.handlers.any_ready() || self.agenda.has(Item::Completions) {
            return Some(0);
        }
        let cap = match self.bottom_halves.due(&self.shared.bottom_halves) {
            Due::Now => return Some(0),
            Due::Idle => Some(IDLE_NS),
            Due::Cancelled => None,
        };
        match (self.timers.timeout(), cap) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }
}

impl AioContext {
    /// A context with the best monitor of this kernel and busy polling off.
    ///
    /// # Errors
    /// As for [`Builder::build`].
    pub fn new() -> io::Result<Self> {
        Self::builder().build()
    }

    /// Makes the parts and ties them together.
    pub(crate) fn assemble(wanted: &Builder) -> io::Result<Self> {
        let (monitor, info) = Monitor::new(
            wanted.monitor,
            wanted.ring_entries,
            wanted.ring_setup,
            wanted.busy_polling.is_on(),
        )?;
        let notifier = EventNotifier::new(wanted.reset)?;
        let own = notifier.resolve(info.kind)?;
        let agenda = Rc::<Agenda>::default();
        let inner = Inner {
            sink: Sink {
                handlers: Handlers::default(),
                completions: Completions::new(&agenda),
                stats: Counters::default(),
            },
            monitor,
            info,
            bottom_halves: BottomHalves::new(&agenda),
            timers: Timers::new(&agenda),
            busy_poll: BusyPoll::new(&agenda),
            shared: Arc::new(Shared::new(notifier.clone())),
            sleeper: Sleeper::default(),
            own,
            agenda,
        };
        let fd = notifier.as_raw_fd();
        inner.register(fd, watch_for(own.0), true, || Box::new(OnOwn { notifier, method: own.0 }))?;
        inner.busy_poll.set_policy(wanted.busy_polling, &inner.sink.handlers);
        Ok(Self { inner: Rc::new(inner) })
    }

    /// The choices that there are.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// The monitor that was chosen, and why.
    pub fn monitor(&self) -> &MonitorInfo {
        &self.inner.info
    }

    /// How the loop's own notifier is reset, and why not by the method hoped for, if so.
    pub fn own_notifier(&self) -> (Method, Option<&'static str>) {
        self.inner.own
    }

    /// A handle for other threads.
    pub fn handle(&self) -> Handle {
        Handle { shared: Arc::clone(&self.inner.shared) }
    }

    /// CLOCK_MONOTONIC in nanoseconds: what [`Timer::arm_at`] of a [`Clock::Realtime`] timer takes.
    pub fn now_ns(&self) -> u64 {
        monotonic_ns()
    }

    /// A snapshot of the counters.
    pub fn stats(&self) -> Stats {
        let mut stats = self.inner.sink.stats.snapshot();
        stats.syscalls_write = self.inner.shared.wakes.load(Ordering::Relaxed);
        stats
    }

    /// Sets the busy-polling policy; what was learned is forgotten. Takes effect in the next turn.
    pub fn set_busy_polling(&self, policy: BusyPolling) {
        self.inner.busy_poll.set_policy(policy, &self.inner.sink.handlers);
    }

    /// Calls `callback` in every turn in which `fd` is ready (level-triggered, on every monitor).
    ///
    /// The descriptor is borrowed for this call only: keep it open while the registration lives, and drop the
    /// registration before closing it. A number that has a handler in this context already gets the new one in its place,
    /// as with QEMU's aio_set_fd_handler; the old registration goes dead.
    ///
    /// # Errors
    /// The callback comes back with the reason: `InvalidInput` for a closed descriptor, `PermissionDenied` for a regular
    /// file or a directory, else what epoll_ctl(2) says.
    pub fn add_fd<F>(
        &self,
        fd: &impl AsFd,
        interest: Interest,
        callback: F,
    ) -> Result<Registration, AddError<F>>
    where
        F: Fn(&AioContext, Readiness) + 'static,
    {
        let mut callback = Some(callback);
        let action = || -> Box<dyn Action> { Box::new(OnFd(take(&mut callback))) };
        match self.inner.register(fd.as_fd().as_raw_fd(), Watch::Level(interest), false, action) {
            Ok(token) => Ok(self.registration(token)),
            Err(error) => Err(AddError { error, handler: take(&mut callback) }),
        }
    }

    /// Calls `callback` after the notifier has been rung: at least once after the last ring, perhaps once for many, perhaps
    /// for nothing. The notifier's eventfd stays open while it is registered.
    ///
    /// What was rung before this call counts. Registering a notifier that has a handler in this context replaces it.
    ///
    /// # Errors
    /// The callback comes back with the reason: `Unsupported` if the notifier's reset mode names a method that this
    /// context cannot do, else as for [`add_fd`](Self::add_fd).
    pub fn add_notifier<F>(
        &self,
        notifier: &EventNotifier,
        callback: F,
    ) -> Result<NotifierRegistration, AddError<F>>
    where
        F: Fn(&AioContext) + 'static,
    {
        let mut callback = Some(callback);
        let action = |notifier, method| on_bell(notifier, method, take(&mut callback));
        match self.register_notifier(notifier, action) {
            Ok(registration) => Ok(registration),
            Err(error) => Err(AddError { error, handler: take(&mut callback) }),
        }
    }

    /// The same for a device that can be busy polled.
    ///
    /// # Errors
    /// As for [`add_notifier`](Self::add_notifier).
    pub fn add_polled_notifier<D: BusyPolled>(
        &self,
        notifier: &EventNotifier,
        device: Rc<D>,
    ) -> Result<NotifierRegistration, AddError<Rc<D>>> {
        let action = |notifier, method| -> Box<dyn Action> {
            Box::new(OnPolledBell { notifier, method, device: Rc::clone(&device) })
        };
        match self.register_notifier(notifier, action) {
            Ok(registration) => Ok(registration),
            Err(error) => Err(AddError { error, handler: device }),
        }
    }

    fn register_notifier(
        &self,
        notifier: &EventNotifier,
        action: impl FnOnce(EventNotifier, Method) -> Box<dyn Action>,
    ) -> io::Result<NotifierRegistration> {
        let (method, fallback) = notifier.resolve(self.inner.info.kind)?;
        let token = self
            .inner
            .register(notifier.as_raw_fd(), watch_for(method), true, || action(notifier.clone(), method))?;
        Ok(NotifierRegistration { registration: self.registration(token), method, fallback })
    }

    fn registration(&self, token: Token) -> Registration {
        Registration { context: Rc::downgrade(&self.inner), token }
    }

    /// Removes a handler by its name. False if it had gone. Its callback will not be entered again.
    pub fn remove(&self, handler: HandlerId) -> bool {
        self.inner.remove_handler(handler.0)
    }

    /// Makes a bottom half; it runs when it is scheduled.
    pub fn bottom_half(&self, callback: impl Fn(&AioContext) + 'static) -> BottomHalf {
        self.inner.bottom_halves.create(&self.inner.shared, Rc::new(callback))
    }

    /// Runs a closure once in the next turn. From another thread: [`Handle::schedule`].
    pub fn defer(&self, callback: impl FnOnce(&AioContext) + 'static) {
        self.inner.bottom_halves.defer(Box::new(callback));
    }

    /// Makes a timer on real time.
    pub fn timer(&self, callback: impl Fn(&AioContext) + 'static) -> Timer {
        self.timer_on(Clock::Realtime, callback)
    }

    /// Makes a timer on the given clock.
    pub fn timer_on(&self, clock: Clock, callback: impl Fn(&AioContext) + 'static) -> Timer {
        self.inner.timers.create(clock, Rc::new(callback))
    }

    /// The clock of [`Clock::Virtual`] timers.
    pub fn virtual_clock(&self) -> &VirtualClock {
        &self.inner.timers.virtual_clock
    }

    /// Turns the loop until [`Handle::stop`]. Each stop request ends one `run`; a nested `run` takes it first.
    ///
    /// # Errors
    /// As for [`poll`](Self::poll).
    pub fn run(&self) -> io::Result<()> {
        while !self.inner.shared.take_stop() {
            self.poll(true)?;
        }
        Ok(())
    }

    /// One turn: waits for events (if `blocking`, and nothing is due) and runs what they call for.
    ///
    /// In this order: completions, bottom halves, handlers, timers. May be called from any callback; such a nested turn
    /// also runs what its parents have collected and not yet run.
    ///
    /// True if a callback ran, idle bottom halves not counted. A blocking call may return false: somebody called
    /// [`Handle::notify`], a signal handler ran, an event was stale, or the kernel confirmed a removal. So:
    /// `while !done.get() { ctx.poll(true)?; }`.
    ///
    /// # Errors
    /// What the monitor's system call says, EINTR excepted; none is expected while memory lasts. The context stays usable.
    pub fn poll(&self, blocking: bool) -> io::Result<bool> {
        let inner = &*self.inner;
        inner.sink.stats.turns.bump();
        if blocking && inner.is_idle() {
            inner.sleep(None)?;
        } else if inner.agenda.has(Item::BusyPolling) {
            return self.busy_turn(blocking);
        } else {
            inner.ask_kernel(if blocking { inner.timeout() } else { Some(0) })?;
        }
        inner.sleeper.accept(&inner.shared.gate);
        self.run_due()
    }

    /// A turn of a context that busy polls.
    #[inline(never)]
    fn busy_turn(&self, blocking: bool) -> io::Result<bool> {
        let inner = &*self.inner;
        let mut timeout = if blocking { inner.timeout() } else { Some(0) };
        let start_ns = monotonic_ns();
        let ask_kernel = self.busy_poll(start_ns, &mut timeout);
        // What the kernel does in a call that does not sleep is work, too: io_uring reads from the page cache there.
        let mut work_ns = monotonic_ns();
        let mut now_ns = work_ns;
        inner.busy_poll.spend(work_ns.saturating_sub(start_ns));
        if ask_kernel {
            let slept = inner.ask_kernel(timeout)?;
            now_ns = monotonic_ns();
            if slept {
                work_ns = now_ns;
            }
        }
        inner.sleeper.accept(&inner.shared.gate);
        let outer = inner.busy_poll.note_turn(Found { start_ns, now_ns });
        let progress = self.run_due();
        inner.busy_poll.note_turn(outer);
        let progress = progress?;
        if progress {
            inner.busy_poll.earn(monotonic_ns().saturating_sub(work_ns));
        }
        Ok(progress)
    }

    /// Runs what has been collected, scheduled or has expired. True if a callback ran.
    #[inline(always)]
    fn run_due(&self) -> io::Result<bool> {
        let inner = &*self.inner;
        let mut progress = false;
        if inner.agenda.has(Item::Completions) {
            progress |= inner.sink.completions.dispatch(self, &inner.sink.stats);
        }
        if inner.agenda.has(Item::BottomHalves) || !inner.shared.bottom_halves.is_empty() {
            progress |= inner.bottom_halves.run(self, &inner.shared.bottom_halves, &inner.sink.stats);
        }
        while let Some(handler) = inner.sink.handlers.next_ready() {
            progress |= handler.action.run(self, &handler, handler.take_ready())?;
        }
        if inner.agenda.has(Item::Timers) {
            progress |= inner.timers.run(self, &inner.sink.stats);
        }
        Ok(progress)
    }

    /// Busy polls within the timeout, and shortens it. False if the kernel need not be asked in this turn.
    #[inline(never)]
    fn busy_poll(&self, start_ns: u64, timeout: &mut TimeoutNs) -> bool {
        let inner = &*self.inner;
        let loop_has_work = || inner.shared.gate.is_notified() || inner.monitor.needs_wait();
        let may_linger = !inner.sink.completions.any_awaited();
        let round = inner.busy_poll.poll(start_ns, *timeout, may_linger, &inner.sink.handlers, loop_has_work);
        match round {
            Round::Hit => inner.sink.stats.poll_hits.bump(),
            Round::Miss => inner.sink.stats.poll_misses.bump(),
            Round::Off | Round::Loop => {}
        }
        let found = matches!(round, Round::Hit | Round::Loop);
        if found {
            *timeout = Some(0);
        }
        // About to sleep: doorbells on, and the last look. The search took its time, and the hooks may have scheduled or
        // armed something.
        if *timeout != Some(0) && inner.busy_poll.leave(&inner.sink.handlers) {
            *timeout = inner.timeout();
        }
        // A ring that tells shows in memory whether there is anything to ask for; the others have to be asked now and then, for
        // what cannot be looked at.
        let unseen = match inner.monitor.ring() {
            Some(_) => usize::MAX,
            None => inner.sink.handlers.len() - 1,
        };
        !found
            || inner.monitor.tells()
            || inner.monitor.needs_wait()
            || inner.busy_poll.must_look_at_fds(unseen)
    }
}

/// Takes the callback that exactly one of the two ends of a registration uses.
fn take<F>(callback: &mut Option<F>) -> F {
    match callback.take() {
        Some(callback) => callback,
        None => unreachable!("a registration either stores its callback or gives it back"),
    }
}

impl Drop for AioContext {
    /// Cancels what the kernel has and waits for it, ends busy polling, and drops every callback. A callback's captures may
    /// use the context while they are dropped.
    fn drop(&mut self) {
        let inner = &*self.inner;
        inner.sink.completions.close();
        inner.busy_poll.set_policy(BusyPolling::OFF, &inner.sink.handlers);
        let handlers = inner.sink.handlers.clear();
        if let Some(ring) = inner.monitor.ring() {
            ring.shutdown(&inner.sink);
        }
        handlers.iter().for_each(|handler| handler.hand_back(false));
        drop(handlers);
        inner.sink.completions.clear();
        inner.timers.clear();
        inner.bottom_halves.clear();
        inner.shared.close();
    }
}

impl fmt::Debug for AioContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AioContext").field("inner", &self.inner).finish()
    }
}

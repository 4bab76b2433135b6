//! Adaptive busy polling: look for work in memory for a while before sleeping in the kernel.
//!
//! While a device is polled its doorbell may be switched off (`begin` .. `end`), which saves the guest's exit, the
//! eventfd write, the wake-up and the wait. How long to look is learned for each handler, by QEMU's rule of 2025: what
//! came within the window keeps it, what came a little later widens it, what came after more than the maximum narrows it.
//! The mode is left only when the loop is about to sleep, and idle handlers drop out after seven seconds.
//!
//! Lingering is the other, simpler way to choose how long: looking may take twice the time that work took before it. It
//! needs no learning, and is right where waking is dear: while the loop was busy, most of all with waking the guest, the guest
//! began to make its next request. Twice, because sleeping and being woken costs about as much again as the work for a small
//! request.

use crate::agenda::{Agenda, Item};
use crate::context::AioContext;
use crate::handler::{Handler, Handlers, Readiness};
use crate::sys::monotonic_ns;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;

/// A device whose work shows in memory, such as a virtqueue by its avail index. Registered with
/// [`AioContext::add_polled_notifier`]. All methods run in the home thread.
pub trait BusyPolled: 'static {
    /// The doorbell rang, or [`is_ready`](Self::is_ready) said true: do the work. Tolerate that there is none.
    fn process(&self, context: &AioContext);

    /// Is there work? Called very often; looks at memory only, takes nothing, calls nothing of the context.
    fn is_ready(&self) -> bool;

    /// Polling begins: the doorbell may be switched off. Must not poll the context.
    fn begin(&self) {}

    /// Polling ends: switch the doorbell on. `is_ready` is asked once more after it. Every `begin` is followed by one
    /// `end`, also when the handler is removed or the context dropped in between; if there is work then, the doorbell is rung
    /// for the next handler. Must not poll the context.
    fn end(&self) {}
}

/// How long to busy poll, and how the window adapts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BusyPolling {
    /// The widest window in nanoseconds; 0 is off, which costs nothing. QEMU's IOThreads use 32,768. A window ends early for
    /// timers, bottom halves and, on a ring that tells ([`RingInfo`](crate::RingInfo)), for every event; elsewhere what cannot
    /// be looked at in memory waits until it is over, so do not make it longer than that may be late.
    pub max_ns: u64,
    /// The factor for widening; 0 means 2.
    pub grow: u32,
    /// The divisor for narrowing; 0 closes the window at once.
    pub shrink: u32,
    /// Lingering: each nanosecond at work earns [`LINGER_FACTOR`](Self::LINGER_FACTOR) of looking, and this many
    /// are the most that is kept; 0 is off. The wider of the two, this and the window, counts. While the kernel works on an
    /// operation of the loop (multishot ones left out) nothing is spent: it will wake the loop, and until then its disk needs
    /// longer than this.
    pub linger_ns: u64,
}

impl BusyPolling {
    /// No busy polling.
    pub const OFF: Self = Self { max_ns: 0, grow: 0, shrink: 0, linger_ns: 0 };

    /// What a nanosecond at work earns.
    pub const LINGER_FACTOR: u64 = 2;

    /// Up to `max_ns`, with QEMU's default factors.
    pub const fn up_to_ns(max_ns: u64) -> Self {
        Self { max_ns, ..Self::OFF }
    }

    /// The same, and lingering for up to `linger_ns`.
    #[must_use]
    pub const fn lingering_ns(self, linger_ns: u64) -> Self {
        Self { linger_ns, ..self }
    }

    pub(crate) fn is_on(self) -> bool {
        self.max_ns != 0 || self.linger_ns != 0
    }

    /// The next window of a handler whose event came `waited_ns` after the loop had begun to wait for it.
    fn adapt(self, window_ns: u64, waited_ns: u64) -> u64 {
        if waited_ns <= window_ns {
            window_ns
        } else if waited_ns > self.max_ns {
            window_ns.checked_div(self.shrink.into()).unwrap_or(0)
        } else if window_ns == 0 {
            FIRST_WINDOW_NS.min(self.max_ns)
        } else {
            let grow = if self.grow == 0 { 2 } else { self.grow };
            window_ns.saturating_mul(grow.into()).min(self.max_ns)
        }
    }
}

/// The first window that a handler gets.
const FIRST_WINDOW_NS: u64 = 4_000;

/// A polled handler without an event for this long is left to its doorbell.
const IDLE_NS: u64 = 7_000_000_000;

/// Where memory does not tell of everything, a turn that found work there makes no system call, unless there is what only the
/// kernel knows of: then every this many turns, so that a busy device cannot starve it.
const LOOK_AT_FDS_EVERY: u32 = 8;

/// The part of a handler.
#[derive(Debug, Default)]
pub(crate) struct HandlerState {
    window_ns: Cell<u64>,
    last_event_ns: Cell<u64>,
    listed: Cell<bool>,
    begun: Cell<bool>,
    running: Cell<bool>,
    /// The mode ended while the handler was running: the look that follows `end` is still to come.
    look_owed: Cell<bool>,
}

/// What a round of busy polling came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Round {
    /// No window is open: nothing was looked at.
    Off,
    /// A device has work; its handler is marked ready.
    Hit,
    /// Something for the loop itself: a producer notified it, or the monitor has something to submit or to reap.
    Loop,
    /// The window passed.
    Miss,
}

/// When a turn began to look for work, and when it had found it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Found {
    pub(crate) start_ns: u64,
    pub(crate) now_ns: u64,
}

#[derive(Default)]
pub(crate) struct BusyPoll {
    policy: Cell<Option<BusyPolling>>,
    /// Handlers that have had an event. `begun` of each says whether its doorbell is off.
    polled: RefCell<Vec<Rc<Handler>>>,
    /// How often a handler has been taken off the list.
    removals: Cell<u64>,
    started: Cell<bool>,
    turns_without_fds: Cell<u32>,
    /// What lingering may spend.
    credit_ns: Cell<u64>,
    turn: Cell<Found>,
    agenda: Rc<Agenda>,
}

impl fmt::Debug for BusyPoll {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let polled = self.polled.borrow().len();
        f.debug_struct("BusyPoll")
            .field("policy", &self.policy)
            .field("polled", &polled)
            .finish_non_exhaustive()
    }
}

impl BusyPoll {
    pub(crate) fn new(agenda: &Rc<Agenda>) -> Self {
        Self { agenda: Rc::clone(agenda), ..Self::default() }
    }

    /// Sets the policy and forgets what was learned.
    pub(crate) fn set_policy(&self, policy: BusyPolling, handlers: &Handlers) {
        self.leave(handlers);
        self.removals.set(self.removals.get() + 1);
        for handler in self.polled.take() {
            // Does nothing unless a hook of another handler has brought us here before its turn to end came.
            handler.end();
            handler.busy.listed.set(false);
            handler.busy.window_ns.set(0);
        }
        self.credit_ns.set(0);
        self.policy.set(policy.is_on().then_some(policy));
        self.agenda.set(Item::BusyPolling, policy.is_on());
    }

    /// The loop has worked for so long: it may linger for as long.
    pub(crate) fn earn(&self, worked_ns: u64) {
        let most = self.policy.get().map_or(0, |policy| policy.linger_ns);
        self.credit_ns.set(
            self.credit_ns
                .get()
                .saturating_add(worked_ns.saturating_mul(BusyPolling::LINGER_FACTOR))
                .min(most),
        );
    }

    /// It has looked for so long.
    pub(crate) fn spend(&self, looked_ns: u64) {
        self.credit_ns.set(self.credit_ns.get().saturating_sub(looked_ns));
    }

    fn get(&self, index: usize) -> Option<Rc<Handler>> {
        self.polled.borrow().get(index).cloned()
    }

    /// Looks until something is found, or the widest window, or what lingering may spend (`limit_ns` at the most), has passed
    /// since `start_ns`.
    pub(crate) fn poll(
        &self,
        start_ns: u64,
        limit_ns: Option<u64>,
        may_linger: bool,
        handlers: &Handlers,
        loop_has_work: impl Fn() -> bool,
    ) -> Round {
        let credit_ns = if may_linger { self.credit_ns.get() } else { 0 };
        let widest =
            self.polled.borrow().iter().map(|h| h.busy.window_ns.get().max(credit_ns)).max().unwrap_or(0);
        let window_ns = limit_ns.map_or(widest, |limit| widest.min(limit));
        if window_ns == 0 && !self.started.get() {
            return Round::Off;
        }
        if loop_has_work() {
            // Something to submit: done first, without leaving the mode.
            return if self.look(handlers) { Round::Hit } else { Round::Loop };
        }
        if !self.started.replace(true) {
            self.each(|handler| handler.begin());
        }
        loop {
            if self.look(handlers) {
                return Round::Hit;
            }
            if loop_has_work() {
                return Round::Loop;
            }
            let now_ns = monotonic_ns();
            if now_ns.saturating_sub(start_ns) >= window_ns {
                self.retire_idle(now_ns, handlers);
                return Round::Miss;
            }
            std::hint::spin_loop();
        }
    }

    /// One look at each polled device; marks those that have work.
    fn look(&self, handlers: &Handlers) -> bool {
        let mut hit = false;
        self.each(|handler| hit |= handler.look(handlers));
        hit
    }

    /// By index, and with a reference of its own to each: a hook may add and remove handlers. A removal moves others to
    /// places that have been visited, so it begins anew; beginning or ending what has begun or ended does nothing.
    fn each(&self, mut visit: impl FnMut(&Rc<Handler>)) {
        let mut index = 0;
        while let Some(handler) = self.get(index) {
            let removals = self.removals.get();
            visit(&handler);
            index = if self.removals.get() == removals { index + 1 } else { 0 };
        }
    }

    /// Ends the mode, if it is on, because the loop is about to sleep, and marks what the last look finds. True if it was
    /// on: hooks have run, so the caller must think again about how long to sleep.
    pub(crate) fn leave(&self, handlers: &Handlers) -> bool {
        let started = self.started.replace(false);
        if started {
            self.each(|handler| {
                handler.end();
                handler.look_if_live(handlers);
            });
        }
        started
    }

    /// Notes when the present turn began to look for work and when it had found it; gives what a turn further up the stack
    /// has noted.
    pub(crate) fn note_turn(&self, turn: Found) -> Found {
        self.turn.replace(turn)
    }

    /// After an event of a handler: lists it, and adapts its window.
    pub(crate) fn had_event(&self, handler: &Rc<Handler>) {
        let Some(policy) = self.policy.get() else { return };
        let Found { start_ns, now_ns } = self.turn.get();
        let state = &handler.busy;
        state.last_event_ns.set(now_ns);
        state.window_ns.set(policy.adapt(state.window_ns.get(), now_ns.saturating_sub(start_ns)));
        if !state.listed.replace(true) {
            self.polled.borrow_mut().push(Rc::clone(handler));
            if self.started.get() {
                handler.begin();
            }
        }
    }

    /// Takes a handler off the list that has left its slot. True if its doorbell was off until now.
    pub(crate) fn forget(&self, handler: &Handler) -> bool {
        let mut ended = false;
        if handler.busy.listed.replace(false) {
            let mut polled = self.polled.borrow_mut();
            let gone = polled.iter().position(|h| h.token == handler.token).map(|i| polled.swap_remove(i));
            drop(polled);
            self.removals.set(self.removals.get() + 1);
            ended = handler.end();
            drop(gone);
        }
        ended
    }

    fn retire_idle(&self, now_ns: u64, handlers: &Handlers) {
        let idle = |h: &Handler| now_ns.saturating_sub(h.busy.last_event_ns.get()) > IDLE_NS;
        let mut index = 0;
        while let Some(handler) = self.get(index) {
            if idle(&handler) {
                self.forget(&handler);
                handler.look_if_live(handlers);
            } else {
                index += 1;
            }
        }
    }

    /// True if a turn that has found work must all the same ask the kernel, `registered` being the handlers whose descriptors it
    /// watches.
    pub(crate) fn must_look_at_fds(&self, registered: usize) -> bool {
        if registered <= self.polled.borrow().len() {
            return false;
        }
        let turns = self.turns_without_fds.get() + 1;
        let due = turns >= LOOK_AT_FDS_EVERY;
        self.turns_without_fds.set(if due { 0 } else { turns });
        due
    }
}

/// What busy polling does with one handler. Without a device these do nothing.
impl Handler {
    fn begin(&self) {
        if let Some(device) = self.action.device()
            && !self.busy.begun.replace(true)
        {
            device.begin();
        }
    }

    /// True if the mode was on.
    fn end(&self) -> bool {
        let Some(device) = self.action.device().filter(|_| self.busy.begun.replace(false)) else {
            return false;
        };
        device.end();
        self.busy.look_owed.set(self.busy.running.get());
        true
    }

    /// Marks the handler ready if its device has work; not while it is being processed further up the stack, or a nested
    /// poll would enter it again and again.
    fn look(self: &Rc<Self>, handlers: &Handlers) -> bool {
        let ready = !self.busy.running.get() && self.action.device().is_some_and(|d| d.is_ready());
        if ready {
            handlers.mark(self, Readiness::POLLED);
        }
        ready
    }

    /// Runs the device's `process`.
    pub(crate) fn process(
        self: &Rc<Self>,
        device: &dyn BusyPolled,
        context: &AioContext,
        handlers: &Handlers,
    ) {
        let outer = self.busy.running.replace(true);
        let running = Restore(&self.busy.running, outer);
        device.process(context);
        drop(running);
        if !outer && self.busy.look_owed.take() {
            self.look_if_live(handlers);
        }
    }

    /// The look after `end`, or after `process`: either may have removed the handler.
    fn look_if_live(self: &Rc<Self>, handlers: &Handlers) {
        if handlers.get(self.token).is_some() {
            self.look(handlers);
        }
    }
}

/// Puts a flag back, also when a callback panics.
struct Restore<'a>(&'a Cell<bool>, bool);

impl Drop for Restore<'_> {
    fn drop(&mut self) {
        self.0.set(self.1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{EventNotifier, MonitorKind, Reset};

    /// A request comes while the doorbell is off, in the very moment of the end.
    #[derive(Default)]
    struct LateDevice {
        ready: Cell<bool>,
        processed: Cell<u32>,
        ends: Cell<u32>,
    }

    impl BusyPolled for LateDevice {
        fn process(&self, _: &AioContext) {
            self.ready.set(false);
            self.processed.set(self.processed.get() + 1);
        }

        fn is_ready(&self) -> bool {
            self.ready.get()
        }

        fn end(&self) {
            self.ready.set(true);
            self.ends.set(self.ends.get() + 1);
        }
    }

    #[test]
    fn idle_handler_drops_out_after_a_last_look() {
        let policy = BusyPolling::up_to_ns(1_000_000_000);
        let builder = AioContext::builder().monitor(MonitorKind::Epoll);
        let ctx = builder.busy_polling(policy).build().unwrap();
        let (device, bell) = (Rc::<LateDevice>::default(), EventNotifier::new(Reset::Classic).unwrap());
        let _registration = ctx.add_polled_notifier(&bell, Rc::clone(&device)).unwrap();
        // An event by the doorbell, and one that is found in memory: polled, and begun.
        bell.notify().unwrap();
        while device.processed.get() == 0 {
            ctx.poll(true).unwrap();
        }
        device.ready.set(true);
        while device.processed.get() == 1 {
            ctx.poll(true).unwrap();
        }
        let inner = &*ctx.inner;
        inner.busy_poll.retire_idle(monotonic_ns(), &inner.sink.handlers);
        assert_eq!((inner.busy_poll.polled.borrow().len(), device.ends.get()), (1, 0), "busy");
        inner.busy_poll.retire_idle(monotonic_ns() + IDLE_NS + 1, &inner.sink.handlers);
        assert_eq!((inner.busy_poll.polled.borrow().len(), device.ends.get()), (0, 1), "idle");
        assert!(ctx.poll(true).unwrap(), "and what the last look found is not slept over");
        assert_eq!(device.processed.get(), 3);
        assert_eq!(inner.busy_poll.polled.borrow().len(), 1, "an event brings it back");
    }

    #[test]
    fn lingering_spends_what_work_has_earned() {
        let busy = BusyPoll::default();
        let handlers = Handlers::default();
        busy.earn(1_000);
        assert_eq!(busy.credit_ns.get(), 0, "off");
        busy.set_policy(BusyPolling::OFF.lingering_ns(5_000), &handlers);
        busy.earn(1_000);
        assert_eq!(busy.credit_ns.get(), 2_000);
        busy.spend(500);
        busy.earn(100);
        assert_eq!(busy.credit_ns.get(), 1_700, "what is left counts");
        busy.earn(u64::MAX);
        assert_eq!(busy.credit_ns.get(), 5_000, "up to the most");
        busy.spend(6_000);
        assert_eq!(busy.credit_ns.get(), 0, "no debts");
        busy.earn(1_000);
        busy.set_policy(BusyPolling::up_to_ns(5_000), &handlers);
        assert_eq!(busy.credit_ns.get(), 0, "a new policy starts with nothing");
    }

    #[test]
    fn window_follows_the_rule_of_2025() {
        let policy = BusyPolling::up_to_ns(32_768);
        assert_eq!(policy.adapt(0, 10_000), 4_000, "opens");
        assert_eq!(policy.adapt(4_000, 10_000), 8_000, "widens");
        assert_eq!(policy.adapt(20_000, 30_000), 32_768, "up to the maximum");
        assert_eq!(policy.adapt(16_000, 10_000), 16_000, "keeps what was enough");
        assert_eq!(policy.adapt(16_000, 50_000), 0, "closes when even the maximum was too short");
        assert_eq!(BusyPolling { shrink: 4, ..policy }.adapt(16_000, 50_000), 4_000, "or narrows");
        assert_eq!(BusyPolling { grow: 3, ..policy }.adapt(4_000, 10_000), 12_000);
        assert_eq!(BusyPolling::up_to_ns(1_000).adapt(0, 500), 1_000);
    }
}

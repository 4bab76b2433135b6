//! Ready handlers and busy polling: who is called, in which order, and what holds if that panics.
//!
//! Everything here that calls a device or an action may be entered again from there, and may
//! unwind.

use super::observer::Watcher;
use super::panics::Panics;
use crate::busy_poll::{BusyPoll, BusyPolling, Round};
use crate::handler::{HandlerRef, Handlers, Live, Processing};
use crate::monitor::{Readiness, Sink};
use crate::profile::CallbackKind;
use crate::stats::Counters;
use crate::sys::monotonic_ns;
use crate::trace;
use std::fmt;
use std::io;

/// What is done with a ready handler. `C` is what callbacks get: the context.
///
/// The callback lies inside its action, so that a ready handler costs one indirect call.
pub(super) trait Action<C> {
    /// Acts on `ready`. Returns true if that is progress: a callback ran.
    fn run(
        &self,
        sources: &Sources<C>,
        context: &C,
        handler: &Registered<C>,
        ready: Readiness,
    ) -> io::Result<bool>;

    /// What kind of callback it has.
    fn kind(&self) -> CallbackKind;

    /// The device behind the doorbell, if its work shows in memory.
    fn hooks(&self) -> Option<&dyn Hooks> {
        None
    }
}

/// The hooks of a device that busy polling calls. See [`BusyPolled`](crate::BusyPolled).
pub(super) trait Hooks {
    fn is_ready(&self) -> bool;
    fn begin(&self);
    fn end(&self);
}

/// A handler of a context.
pub(super) type Registered<C> = HandlerRef<Box<dyn Action<C>>>;

/// The handlers of one context, and its counters.
#[derive(Debug)]
pub(super) struct Sources<C> {
    pub(super) handlers: Handlers<Box<dyn Action<C>>>,
    pub(super) busy: BusyPoll<Registered<C>>,
    pub(super) stats: Counters,
}

impl<C> fmt::Debug for dyn Action<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Action")
    }
}

impl<C> Sink for Sources<C> {
    type Handler = Registered<C>;
    type Live<'a>
        = Live<'a, Box<dyn Action<C>>>
    where
        C: 'a;

    #[inline]
    fn live(&self) -> Self::Live<'_> {
        self.handlers.live()
    }

    #[inline(always)]
    fn mark(&self, handler: &Registered<C>, readiness: Readiness) {
        self.handlers.mark(handler, readiness);
    }

    #[inline]
    fn stats(&self) -> &Counters {
        &self.stats
    }
}

impl<C> Sources<C> {
    /// Acts on every handler that is ready now. Returns true if a callback ran. What callbacks make
    /// ready belongs to the next turn.
    #[inline(always)]
    pub(super) fn dispatch<W: Watcher<C>>(&self, context: &C) -> io::Result<bool> {
        let mut progress = false;
        self.handlers.begin_dispatch();
        while let Some(handler) = self.handlers.next_due() {
            let record = W::record(&handler.record, || handler.action.kind());
            let ran = |ran: &io::Result<bool>| matches!(ran, Ok(true));
            progress |= W::call(context, record, ran, || {
                handler.action.run(self, context, &handler, handler.watched.take_ready())
            })?;
        }
        Ok(progress)
    }

    /// Runs `process` of a polled device for an event that was taken from its doorbell.
    pub(super) fn process(&self, handler: &Registered<C>, process: impl FnOnce()) {
        if self.busy.had_event(handler) {
            // The event was taken, so it is not lost if this panics.
            let again = OnPanic(|| self.mark_if_live(handler));
            begin(handler);
            again.disarm();
        }
        let is_outermost = handler.processing.get() == Processing::No;
        if is_outermost {
            handler.processing.set(Processing::Yes);
        }
        // The event was taken, and nobody knows how much of the work was done.
        let again = OnPanic(|| {
            if is_outermost {
                handler.processing.set(Processing::No);
            }
            self.mark_if_live(handler);
        });
        process();
        again.disarm();
        if is_outermost && handler.processing.replace(Processing::No) == Processing::LookAfter {
            self.look_if_live(handler);
        }
    }

    /// Looks for work until something is found, or `limit_ns` or the window passed since
    /// `start_ns`.
    pub(super) fn busy_round(
        &self,
        start_ns: u64,
        limit_ns: Option<u64>,
        may_linger: bool,
        loop_has_work: impl Fn() -> bool,
    ) -> Round {
        let Some(window_ns) = self.busy.window_ns(limit_ns, may_linger) else {
            return Round::Off;
        };
        if loop_has_work() {
            // Something to submit: done first, without leaving the mode.
            return if self.look_at_all() { Round::Hit } else { Round::Loop };
        }
        self.busy.begin(begin);
        trace::run_poll_handlers_begin(window_ns, limit_ns);
        let round = self.look_until(start_ns, window_ns, loop_has_work);
        trace::run_poll_handlers_end(round != Round::Miss);
        round
    }

    fn look_until(&self, start_ns: u64, window_ns: u64, loop_has_work: impl Fn() -> bool) -> Round {
        loop {
            if self.look_at_all() {
                return Round::Hit;
            }
            if loop_has_work() {
                return Round::Loop;
            }
            let now_ns = monotonic_ns();
            if now_ns.saturating_sub(start_ns) >= window_ns {
                self.drop_idle(now_ns);
                return Round::Miss;
            }
            std::hint::spin_loop();
        }
    }

    /// Ends busy polling, if it is on, because the loop is about to sleep. Marks what the last look
    /// finds. Returns true if it was on: hooks ran, so the timeout must be computed again.
    pub(super) fn leave_busy_polling(&self) -> bool {
        self.busy.end(|handler| self.end(handler))
    }

    /// Sets the policy and forgets what was learned.
    pub(super) fn set_policy(&self, policy: BusyPolling) {
        self.busy.set_policy(policy);
        self.leave_busy_polling();
        self.busy.forget_learned();
    }

    /// The last steps of a handler that left its slot and that no monitor watches any more.
    pub(super) fn retire(&self, handler: &Registered<C>) {
        if handler.watched.is_ready() {
            self.stats.stale.bump();
        }
        let found_work = handler.hand_back();
        let doorbell_was_off = self.busy.remove(handler);
        let Some(hooks) = handler.action.hooks() else { return };
        if found_work {
            handler.ring_again();
        }
        if doorbell_was_off {
            // Its next handler would not hear of what came while the doorbell was off.
            let ring = OnPanic(|| handler.ring_again());
            hooks.end();
            let has_work = hooks.is_ready();
            ring.disarm();
            if has_work && !found_work {
                handler.ring_again();
            }
        }
    }

    /// The same for all handlers, as their context is dropped.
    pub(super) fn retire_all(&self, panics: &mut Panics) {
        let handlers = self.handlers.take_all();
        // What the kernel took comes first: no hook can keep it from being rung again.
        let found_work = handlers.iter().map(|handler| handler.hand_back()).collect::<Vec<_>>();
        for (handler, found_work) in handlers.iter().zip(found_work) {
            if found_work {
                handler.ring_again();
            }
            panics.catch(|| self.retire(handler));
        }
        panics.drop_each(handlers);
    }

    /// One look at each polled device. Marks those that have work.
    fn look_at_all(&self) -> bool {
        let mut hit = false;
        self.busy.each(|handler| hit |= self.look(handler));
        hit
    }

    /// Marks the handler ready if its device has work; not while it is being processed further up
    /// the stack, or a nested poll would enter it again and again.
    fn look(&self, handler: &Registered<C>) -> bool {
        let ready = handler.processing.get() == Processing::No
            && handler.action.hooks().is_some_and(|hooks| hooks.is_ready());
        if ready {
            self.handlers.mark(handler, Readiness::POLLED);
        }
        ready
    }

    /// The look after a hook or a callback, which may have removed the handler.
    fn look_if_live(&self, handler: &Registered<C>) {
        if self.handlers.get(handler.watched.token).is_some() {
            self.look(handler);
        }
    }

    /// In place of a look, for a hook that panicked: it may be called without need.
    fn mark_if_live(&self, handler: &Registered<C>) {
        if self.handlers.get(handler.watched.token).is_some() {
            self.handlers.mark(handler, Readiness::POLLED);
        }
    }

    /// Switches a doorbell on, and looks once more for what came just before.
    fn end(&self, handler: &Registered<C>) {
        let Some(hooks) = handler.action.hooks() else { return };
        let again = OnPanic(|| self.mark_if_live(handler));
        hooks.end();
        if handler.processing.get() == Processing::No {
            self.look_if_live(handler);
        } else {
            handler.processing.set(Processing::LookAfter);
        }
        again.disarm();
    }

    /// Leaves devices that had no event for a long time to their doorbells.
    fn drop_idle(&self, now_ns: u64) {
        while let Some(handler) = self.busy.find_idle(now_ns) {
            if self.busy.remove(&handler) {
                self.end(&handler);
            }
        }
    }
}

/// Switches a doorbell off.
fn begin<C>(handler: &Registered<C>) {
    if let Some(hooks) = handler.action.hooks() {
        hooks.begin();
    }
}

/// Does something if the thread unwinds past it.
struct OnPanic<F: FnMut()>(F);

impl<F: FnMut()> OnPanic<F> {
    fn disarm(self) {
        std::mem::forget(self);
    }
}

impl<F: FnMut()> Drop for OnPanic<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

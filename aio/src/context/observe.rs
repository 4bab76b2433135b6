//! What a user sees of a running loop: names, a profile, slow callbacks, and a dump of everything.

use super::observer::{Slow, SlowCallback};
use super::turn::AioContext;
use crate::monitor::Watch;
use crate::observe::{
    self as dump, BottomHalfEntry, Dump, EndedEntry, HandlerEntry, OperationEntry, TaskEntry, TimerEntry,
};
use crate::profile::{CallbackKind, Figures, Slot};
use crate::worker_pool::Load;
use std::borrow::Cow;
use std::rc::Rc;
use std::time::Duration;

impl AioContext {
    /// Names the callback that runs, for [`SlowCallback`](crate::SlowCallback), and for the figures
    /// of [`Dump::ended`](crate::Dump::ended) if the loop is profiled. For callbacks that `named`
    /// cannot name: closures, the callbacks of operations and of blocking work. Home thread.
    ///
    /// No effect outside of callbacks, on a callback that was given a name where it was made, and
    /// while nobody observes the loop. The last call counts.
    ///
    /// ```
    /// # use aio::{AioContext, CallbackKind};
    /// # fn main() -> std::io::Result<()> {
    /// let ctx = AioContext::new()?;
    /// ctx.set_profiling(true);
    /// ctx.handle().schedule(|ctx| {
    ///     ctx.name_callback("pause");
    ///     // ...
    /// });
    /// ctx.poll(true)?;
    /// let dump = ctx.dump();
    /// let pause = dump.ended().find(|entry| entry.name() == "pause").unwrap();
    /// assert_eq!((pause.kind, pause.figures.calls), (CallbackKind::Closure, 1));
    /// # Ok(())
    /// # }
    /// ```
    pub fn name_callback(&self, name: impl Into<Cow<'static, str>>) {
        if self.parts.is_observed() {
            self.parts.observer.name_callback(name.into());
        }
    }

    /// The same with a name that is made only if somebody observes the loop.
    pub(crate) fn name_callback_with(&self, name: impl FnOnce() -> Cow<'static, str>) {
        if self.parts.is_observed() {
            self.parts.observer.name_callback(name());
        }
    }

    /// Switches the profile on, from the next turn on, or off, at once. While it is on, each
    /// callback is timed with two readings of the clock. It is off at first, and costs nothing
    /// while it is off. Home thread; may be called from a callback.
    ///
    /// Switching it on begins a new profile: all figures are zero. Switching it off keeps them.
    /// [`dump`](Self::dump) has the figures of every handler, timer, bottom half and task, and
    /// [`figures`](Self::figures) those of all callbacks of a kind.
    pub fn set_profiling(&self, on: bool) {
        self.parts.observer.set_profiling(on);
        self.choose_turn();
    }

    /// Returns true while the profile is on.
    pub fn is_profiling(&self) -> bool {
        self.parts.observer.is_profiling()
    }

    /// What the profile has counted for all callbacks of a kind, also for those that were removed
    /// since.
    pub fn figures(&self, kind: CallbackKind) -> Figures {
        self.parts.observer.of_kind(kind)
    }

    /// Calls `hook` after each callback that held the loop up for longer than `limit`, from the
    /// next turn on. It takes the place of an earlier hook.
    ///
    /// A callback that blocks holds up every device of the loop; this finds it. Each callback is
    /// timed while there is a hook, with two readings of the clock. While a callback turns the loop
    /// it does not hold it up, so nested turns do not count. [What it does not
    /// see](crate::guide::debugging#what-is-not-seen) is in the guide.
    ///
    /// After a callback that panics it is called before the panic goes on. If the hook panics, too,
    /// that ends there.
    ///
    /// The hook runs in the home thread, between two callbacks, and may do everything that a
    /// callback may. If it turns the loop it may be entered again from there; that is why it is
    /// `Fn`. Its own time is part of no callback, except of those further up the stack.
    pub fn on_slow_callback(&self, limit: Duration, hook: impl Fn(&Self, &SlowCallback<'_>) + 'static) {
        let limit_ns = u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX);
        self.set_slow(Some(Slow { limit_ns, hook: Rc::new(hook) }));
    }

    /// Removes the hook of [`on_slow_callback`](Self::on_slow_callback), if there is one.
    pub fn remove_slow_callback_hook(&self) {
        self.set_slow(None);
    }

    fn set_slow(&self, slow: Option<Slow<Self>>) {
        let old = self.parts.observer.set_slow(slow);
        self.choose_turn();
        // Last, and outside of any borrow: its captures may call back into the context.
        drop(old);
    }

    /// Takes down what the loop has: every handler, timer, bottom half and task with its name and
    /// state, the operations in flight, and the worker threads. Calls no user code and makes no
    /// system call. Takes a time that grows with all of these, and allocates.
    ///
    /// ```
    /// # use aio::AioContext;
    /// # fn main() -> std::io::Result<()> {
    /// let ctx = AioContext::new()?;
    /// let tick = ctx.timer(|_| ()).named("rtc tick");
    /// tick.arm_at(ctx.now_ns() + 1_000_000);
    /// let dump = ctx.dump();
    /// let mut timers = dump.timers().filter(|timer| timer.deadline_ns.is_some());
    /// assert_eq!(timers.next().unwrap().name(), Some("rtc tick"));
    /// println!("{dump}"); // a table of everything
    /// # Ok(())
    /// # }
    /// ```
    pub fn dump(&self) -> Dump {
        let parts = &*self.parts;
        let mut dump = dump::Parts {
            monitor: parts.info.clone(),
            stats: self.stats(),
            now_ns: self.now_ns(),
            virtual_now_ns: self.virtual_clock().now_ns(),
            handlers: Vec::new(),
            timers: Vec::new(),
            bottom_halves: Vec::new(),
            closures: 0,
            tasks: Vec::new(),
            operations: Vec::new(),
            // In a forked child another thread may hold the lock for ever.
            workers: if parts.is_current() { parts.workers.load().into() } else { Load::default().into() },
            figures: CallbackKind::ALL.map(|kind| self.figures(kind)),
            ended: Vec::new(),
        };
        parts.sources.handlers.each(|handler| {
            let (name, figures) = self.recorded(&handler.record);
            let (kind, watched) = (handler.action.kind(), &handler.watched);
            let interest = match watched.watch.get() {
                Watch::Level(interest) if kind == CallbackKind::Fd => Some(interest),
                _ => None,
            };
            let (fd, ready) = (watched.fd, watched.is_ready());
            dump.handlers.push(HandlerEntry { name, kind, fd, interest, ready, figures });
        });
        parts.timers.each(|record, clock, deadline_ns| {
            let (name, figures) = self.recorded(record);
            dump.timers.push(TimerEntry { name, clock, deadline_ns, figures });
        });
        dump.closures = parts.bottom_halves.each(&parts.shared.bottom_halves, |record, due| {
            let (name, figures) = self.recorded(record);
            dump.bottom_halves.push(BottomHalfEntry { name, state: due.into(), figures });
        });
        if let Some(tasks) = parts.tasks.get() {
            tasks.each(|record, standing| {
                let (name, figures) = self.recorded(record);
                dump.tasks.push(TaskEntry { name, state: standing.into(), figures });
            });
        }
        if let Some(ring) = parts.monitor.ring() {
            ring.completions().each(|token, multishot, in_flight| {
                dump.operations.push(OperationEntry { slot: token.slot(), multishot, in_flight });
            });
        }
        parts.observer.each_ended(|kind, name, figures| {
            dump.ended.push(EndedEntry { name: name.clone(), kind, figures });
        });
        dump.into()
    }

    /// The name and the figures in a slot.
    fn recorded(&self, slot: &Slot) -> (Option<Cow<'static, str>>, Figures) {
        slot.get().map_or_else(Default::default, |record| {
            (record.name.clone(), self.parts.observer.figures(&record.tally))
        })
    }
}

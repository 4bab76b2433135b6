//! The mechanisms of one context, tied together. No callback is called here, except by `retire`.

use super::action::OnOwn;
use super::dispatch::{Action, Registered, Sources};
use super::ending::Endings;
use super::expiry::Expiry;
use super::observer::{Observer, Turn};
use super::panics::Panics;
use super::shared::Shared;
use crate::agenda::{Agenda, Item};
use crate::bottom_half::{BottomHalves, Due};
use crate::busy_poll::{BusyPoll, BusyPolling};
use crate::completion::Completed;
use crate::handler::{Handler, Handlers};
use crate::monitor::{Interest, Monitor, MonitorInfo, MonitorKind, Target, Wanted, Watch, Watched};
use crate::notifier::EventNotifier;
use crate::op::RingId;
use crate::reset::{Method, Obstacle, Reset, resolve, watch_for};
use crate::stats::Counters;
use crate::sys::TimeoutNs;
use crate::sys::process::{Process, forked};
use crate::task::Tasks;
use crate::timer::{Timers, VirtualClock};
use crate::token::Token;
use crate::trace;
use crate::wake_gate::Sleeper;
use crate::worker_pool::{Limits, WorkerPool};
use std::cell::{Cell, OnceCell};
use std::io;
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::sync::Arc;

/// How often a loop looks at a scheduled idle bottom half.
const IDLE_NS: u64 = 10_000_000;

/// A callback that may run many times.
pub(super) type Callback<C> = Rc<dyn Fn(&C)>;
/// A closure of the home thread, run once.
pub(super) type Deferred<C> = Box<dyn FnOnce(&C)>;
/// A closure of another thread, run once.
pub(super) type Sent<C> = Box<dyn FnOnce(&C) + Send>;
/// The timers of a context.
pub(super) type TimersOf<C> = Timers<Expiry<C>, Arc<Shared<Sent<C>>>>;
/// What an operation of the ring holds: the owner that is notified of its completions, and the
/// owner's key for it.
pub(super) type Held<C> = (Rc<dyn Owner<C>>, usize);

/// The owner of the resources of operations; it is notified of their completions.
pub(super) trait Owner<C> {
    /// One completion of the operation with this key. The last one has no F_MORE in `flags`.
    fn complete(&self, context: &C, key: usize, result: i32, flags: u32);

    /// In place of `complete` once the context is being dropped: frees what the kernel has given,
    /// such as a descriptor. Called before the owner is dropped, for each completion that was
    /// reaped and not dispatched.
    fn discard(&self, _key: usize, _result: i32, _flags: u32) {}
}

/// One context without its callbacks' argument, which is `C`.
///
/// `monitor` comes first, so it is dropped first: what the kernel was given is taken back before
/// anything else is freed. (A context has done that already; see its `drop`.)
pub(super) struct Parts<C> {
    pub(super) monitor: Monitor<Held<C>>,
    pub(super) agenda: Rc<Agenda>,
    pub(super) sources: Sources<C>,
    pub(super) info: MonitorInfo,
    /// What registered files, buffers and groups of the ring are checked against.
    pub(super) ring_id: RingId,
    pub(super) bottom_halves: Rc<BottomHalves<Callback<C>, Sent<C>, Deferred<C>>>,
    /// Made for the first task.
    pub(super) tasks: OnceCell<Rc<Tasks>>,
    pub(super) timers: Rc<TimersOf<C>>,
    pub(super) shared: Arc<Shared<Sent<C>>>,
    sleeper: Sleeper,
    /// The process that made the context. In a forked child it is inert, and so is it everywhere
    /// once the context was dropped.
    process: Cell<Process>,
    pub(super) is_closed: Cell<bool>,
    /// How the loop's own notifier is reset, and why not in a better way.
    pub(super) own: (Method, Option<Obstacle>),
    pub(super) workers: WorkerPool<Deferred<C>>,
    pub(super) observer: Observer<C>,
    pub(super) is_embeddable: bool,
    pub(super) outer: OuterSleep,
    pub(super) endings: Rc<Endings<C>>,
}

/// The sleep of an outer loop, as the context knows it.
#[derive(Debug, Default)]
pub(super) struct OuterSleep {
    /// Whether an outer loop has the context.
    pub(super) is_embedded: Cell<bool>,
    /// Whether `notify_me` is raised for it.
    pub(super) is_raised: Cell<bool>,
}

impl<C: 'static> Parts<C> {
    pub(super) fn new(
        wanted: Wanted,
        reset: Reset,
        policy: BusyPolling,
        virtual_clock: Arc<VirtualClock>,
        workers: Limits,
        busy_turn: Turn<C>,
    ) -> io::Result<Self> {
        let agenda = Rc::<Agenda>::default();
        let is_embeddable = wanted.embeddable;
        let (monitor, info) = Monitor::new(wanted, &agenda)?;
        // An embedded poll monitor cannot use EFD_AUTORESET.
        let without_flag = is_embeddable && info.kind == MonitorKind::Poll && reset == Reset::Autoreset;
        let notifier = EventNotifier::new(if without_flag { Reset::Classic } else { reset })?;
        let own = resolve(reset, info.kind, is_embeddable, &notifier.doorbell())?;
        let method = own.0;
        let shared = Arc::new(Shared::new(notifier.clone()));
        let parts = Self {
            monitor,
            sources: Sources {
                handlers: Handlers::default(),
                busy: BusyPoll::new(&agenda),
                stats: Counters::default(),
            },
            info,
            ring_id: RingId::next(),
            bottom_halves: BottomHalves::new(&agenda),
            tasks: OnceCell::new(),
            is_closed: Cell::new(false),
            timers: Timers::new(&agenda, virtual_clock, Arc::clone(&shared)),
            shared,
            sleeper: Sleeper::default(),
            process: Cell::new(Process::current()),
            own,
            workers: WorkerPool::new(workers),
            observer: Observer::new(&agenda, busy_turn),
            is_embeddable,
            outer: OuterSleep::default(),
            endings: Rc::default(),
            agenda,
        };
        if is_embeddable {
            let shared = Arc::clone(&parts.shared);
            parts.agenda.set_interrupt(move || shared.interrupt_outer_sleep());
        }
        let eventfd = Arc::clone(notifier.eventfd());
        let action = || -> Box<dyn Action<C>> { Box::new(OnOwn { eventfd, method }) };
        parts.register(bell_target(&notifier, method), action)?;
        parts.sources.set_policy(policy);
        Ok(parts)
    }

    /// How a notifier is reset in this context, and why not in a better way.
    pub(super) fn resolve(&self, notifier: &EventNotifier) -> io::Result<(Method, Option<Obstacle>)> {
        resolve(notifier.reset(), self.info.kind, self.is_embeddable, &notifier.doorbell())
    }

    /// Watches a descriptor and puts its handler into a slot. A handler that the descriptor number
    /// had already comes back: it left its slot, and the caller retires it
    /// ([`replaced`](Self::replaced)) once it holds on to the new one.
    pub(super) fn register(
        &self,
        target: Target,
        action: impl FnOnce() -> Box<dyn Action<C>>,
    ) -> io::Result<(Token, Option<Registered<C>>)> {
        self.check_process()?;
        let Sources { handlers, stats, .. } = &self.sources;
        let old = handlers.get_by_fd(target.fd);
        let token = handlers.next_token()?;
        let state = self.monitor.add(token, &target, stats)?;
        handlers.insert(Handler::new(Watched::new(token, target, state), action()));
        self.agenda.nudge();
        Ok((token, old.and_then(|old| handlers.remove(old.watched.token))))
    }

    /// Retires a handler that another one replaced. Runs hooks of the user.
    pub(super) fn replaced(&self, old: Option<Registered<C>>) {
        if let Some(old) = old {
            self.retire(&old, true);
        }
    }

    /// Removes a handler. Returns false if it was removed already.
    pub(super) fn remove(&self, token: Token) -> bool {
        let Some(handler) = self.sources.handlers.remove(token) else {
            return false;
        };
        self.retire(&handler, false);
        true
    }

    pub(super) fn is_live(&self, token: Token) -> bool {
        self.sources.handlers.get(token).is_some()
    }

    /// Whether callbacks go through [`On`](super::observer::On).
    pub(super) fn is_observed(&self) -> bool {
        self.observer.is_on() || trace::is_on()
    }

    /// Refuses what would touch the parent's kernel objects in a forked child, and what would have
    /// no effect because the context was dropped.
    #[inline]
    pub(super) fn check_process(&self) -> io::Result<()> {
        if self.is_current() { Ok(()) } else { Err(self.why_inert()) }
    }

    /// Returns false in a forked child, and once the context was dropped.
    #[inline]
    pub(super) fn is_current(&self) -> bool {
        self.process.get().is_current()
    }

    #[cold]
    fn why_inert(&self) -> io::Error {
        match self.is_closed.get() {
            true => io::Error::new(io::ErrorKind::NotConnected, "this event loop was dropped"),
            false => forked(),
        }
    }

    /// The last steps of a handler that left its slot: first the kernel, then hooks of the user.
    /// None of them in a forked child: the monitor and the doorbell are its parent's.
    fn retire(&self, handler: &Registered<C>, replaced: bool) {
        if !self.is_current() {
            return;
        }
        self.monitor.remove(&handler.watched, replaced, &self.sources);
        self.nudge_after_reaping();
        self.sources.retire(handler);
    }

    /// Changes the interest of an fd handler.
    pub(super) fn set_interest(&self, token: Token, interest: Interest) -> io::Result<()> {
        self.check_process()?;
        let removed = || io::Error::new(io::ErrorKind::NotFound, "this handler was removed or replaced");
        let handler = self.sources.handlers.get(token).ok_or_else(removed)?;
        let watched = &handler.watched;
        match watched.watch.get() {
            Watch::Level(old) if watched.eventfd.is_none() => {
                if old == interest {
                    return Ok(());
                }
                watched.watch.set(Watch::Level(interest));
                let changed = self.monitor.modify(watched, &self.sources.stats);
                self.agenda.nudge();
                changed.inspect_err(|_| watched.watch.set(Watch::Level(old)))
            }
            _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "a notifier is always and only readable")),
        }
    }

    #[inline]
    pub(super) fn has(&self, item: Item) -> bool {
        self.agenda.has(item)
    }

    /// Returns true if completions or bottom halves may wait to be run.
    #[inline]
    pub(super) fn has_queued(&self) -> bool {
        self.agenda.has_either(Item::Completions, Item::BottomHalves) || !self.shared.bottom_halves.is_empty()
    }

    /// Collects what the kernel has, and sleeps until it has something if it may. Returns true if
    /// it might have slept.
    ///
    /// To be followed by `accept` before anything is looked at: whoever publishes work from there
    /// on notifies again.
    #[inline(never)]
    pub(super) fn ask_kernel(&self, timeout: TimeoutNs) -> io::Result<bool> {
        if timeout == Some(0) { self.look() } else { self.sleep(timeout) }
    }

    /// The same with a timeout that is not zero. Inlined with all that it calls, because the usual
    /// turn has no timeout.
    #[inline(always)]
    pub(super) fn sleep(&self, timeout: TimeoutNs) -> io::Result<bool> {
        let sleeps = !self.sleeper.prepare(&self.shared.gate);
        let woken = if sleeps { self.monitor.wait(timeout, &self.sources) } else { self.look() };
        self.sleeper.finish(&self.shared.gate);
        if woken? && sleeps {
            self.sources.stats.wakeups.bump();
        }
        Ok(sleeps)
    }

    /// The same without a sleep.
    #[inline(never)]
    pub(super) fn look(&self) -> io::Result<bool> {
        if self.monitor.wait(Some(0), &self.sources)? {
            self.sources.stats.wakeups.bump();
        }
        Ok(false)
    }

    /// After `ask_kernel` or `sleep`, before the turn looks for work.
    #[inline]
    pub(super) fn accept(&self) {
        self.sleeper.accept(&self.shared.gate);
    }

    /// Returns true if only the kernel can have work for a turn.
    #[inline]
    pub(super) fn is_idle(&self) -> bool {
        !self.sources.handlers.any_ready() && self.agenda.is_empty() && self.shared.bottom_halves.is_empty()
    }

    /// How long the next wait may sleep.
    #[inline(never)]
    pub(super) fn timeout(&self) -> TimeoutNs {
        if self.sources.handlers.any_ready() || self.agenda.has_either(Item::Completions, Item::Tasks) {
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

    /// Ends everything, as the context is dropped. Those who asked for it get a callback while
    /// everything still works. Then what the kernel holds comes first and calls no user code. Then
    /// each hook and each `Drop` of the user runs, whatever the others do; they may still use the
    /// context. In a forked child only the `Drop`s run.
    pub(super) fn shut_down(&self, context: &C) {
        let mut panics = Panics::default();
        let is_ours = self.is_current();
        self.endings.end(context, is_ours, &mut panics);
        if is_ours {
            // Before any user code, which could submit more of it.
            let unstarted = self.workers.close();
            self.monitor.shutdown(&self.sources);
            // A task may hold on to the context, and use it while it is dropped.
            self.is_closed.set(true);
            self.process.set(Process::NONE);
            self.sources.retire_all(&mut panics);
            panics.drop_each(unstarted);
        } else {
            self.monitor.abandon();
            panics.drop_each(self.sources.handlers.take_all());
        }
        if let Some(tasks) = self.tasks.get() {
            let tasks = tasks.close();
            tasks.iter().for_each(|task| panics.catch(|| task.cancel()));
            panics.drop_each(tasks);
        }
        if let Some(ring) = self.monitor.ring() {
            let (reaped, in_flight) = ring.completions().take_all();
            for Completed { held: (owner, key), result, flags } in reaped {
                panics.catch(|| owner.discard(key, result, flags));
                panics.catch(|| drop(owner));
            }
            panics.drop_each(in_flight);
        }
        panics.drop_each(self.timers.take_all());
        let (callbacks, jobs) = self.bottom_halves.take_all();
        panics.drop_each(callbacks);
        panics.drop_each(jobs);
        panics.drop_each(self.observer.set_slow(None));
        self.shared.close(&mut panics);
        // Last, because work may wait for a closure that it has scheduled: it learns that the loop
        // has ended.
        if is_ours {
            self.workers.join();
        }
        panics.drop_each(self.workers.take_all());
        panics.resume();
    }
}

/// What a monitor watches for a notifier that is reset by `method`.
pub(super) fn bell_target(notifier: &EventNotifier, method: Method) -> Target {
    let eventfd = Some(Arc::clone(notifier.eventfd()));
    Target { fd: notifier.as_raw_fd(), watch: watch_for(method), known: true, eventfd }
}

impl<C> std::fmt::Debug for Parts<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parts")
            .field("monitor", &self.info)
            .field("handlers", &self.sources.handlers)
            .field("timers", &self.timers)
            .field("tasks", &self.tasks.get())
            .field("bottom_halves", &self.bottom_halves)
            .finish_non_exhaustive()
    }
}

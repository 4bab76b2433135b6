//! One cell of the table: a hook of a source, and the place where it panics.

use crate::bomb::{Ended, Fuse, Hook, Ledger, ended};
use crate::source::{self, Bench, Kind, Source};
use crate::traffic::{Traffic, Writers, settle};
use crate::{os, quarantine};
use aio::{AioContext, Builder, BusyPolling, IoThread, MonitorKind, Reset, RingSetup, Timer};
use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// A monitor, a reset mode for all notifiers, and a set-up of the ring.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup {
    pub(crate) monitor: MonitorKind,
    pub(crate) reset: Reset,
    pub(crate) ring: RingSetup,
}

impl Setup {
    pub(crate) fn builder(self) -> Builder {
        AioContext::builder().monitor(self.monitor).reset(self.reset).ring_setup(self.ring).ring_entries(16)
    }

    /// What this machine lacks.
    pub(crate) fn missing(self) -> Option<String> {
        if self.monitor != MonitorKind::IoUring {
            return None;
        }
        match self.builder().build() {
            Err(e) => Some(e.to_string()),
            Ok(ctx) => match ctx.monitor().ring {
                Some(ring) if ring.setup == self.ring => None,
                other => Some(format!("asked for {:?}, and the kernel gave {other:?}", self.ring)),
            },
        }
    }
}

/// What the program does when the hook panics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Doing {
    /// Turns the loop.
    Turn,
    /// Drops the registration, the timer, the bottom half, the operations.
    Remove,
    /// Registers another handler for the descriptor.
    Replace,
    /// Switches busy polling off.
    SetPolicy,
    /// Drops the context.
    DropContext,
    /// Turns the loop of an `IoThread`.
    TurnInThread,
    /// Ends an `IoThread`, whose state holds the registration.
    EndThread,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Cell {
    kind: Kind,
    hook: Hook,
    doing: Doing,
    /// Turns around it: 0 is outside of any turn, or in an ordinary one, 1 and 2 are nested.
    depth: u32,
}

impl std::fmt::Display for Cell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { kind, hook, doing, depth } = self;
        write!(f, "{kind:?}.{hook:?} panics in {doing:?} at depth {depth}")
    }
}

/// All cells that there are on a monitor.
pub(crate) fn all(monitor: MonitorKind) -> Vec<Cell> {
    let mut cells = Vec::new();
    for kind in Kind::ALL {
        if kind.needs_ring() && monitor != MonitorKind::IoUring {
            continue;
        }
        for hook in Hook::ALL.into_iter().filter(|hook| kind.has(*hook)) {
            let mut add = |doing, depths: std::ops::RangeInclusive<u32>| {
                cells.extend(depths.map(|depth| Cell { kind, hook, doing, depth }));
            };
            let in_turns = !(kind == Kind::Schedule && hook == Hook::Held);
            let dropped = hook == Hook::Capture;
            let hooks_of_removal = matches!(hook, Hook::End | Hook::IsReady);
            if in_turns {
                add(Doing::Turn, 0..=2);
                if hook != Hook::Capture {
                    add(Doing::TurnInThread, 0..=0);
                }
            }
            if (dropped && !kind.is_one_shot()) || hooks_of_removal {
                add(Doing::Remove, 0..=2);
            }
            if (dropped && kind.is_handler()) || hooks_of_removal {
                add(Doing::Replace, 0..=2);
            }
            if hooks_of_removal {
                add(Doing::SetPolicy, 0..=2);
            }
            // The callback for room belongs to its registration, and a subscriber to its manager.
            let is_elsewhere = matches!(kind, Kind::Writable | Kind::Subscriber);
            if (dropped && !is_elsewhere) || hook == Hook::Held || hooks_of_removal {
                add(Doing::DropContext, 0..=0);
            }
            if dropped || hook == Hook::Held || hooks_of_removal {
                add(Doing::EndThread, 0..=0);
            }
        }
    }
    cells
}

/// The window opens with the first event and neither grows nor closes.
const POLICY: BusyPolling = BusyPolling { max_ns: 600_000_000_000, grow: 1, ..BusyPolling::OFF };

/// A wake-up for blocking turns.
const SOON: Duration = Duration::from_micros(100);

impl Cell {
    /// Runs the cell. Returns what was wrong, nothing if all is well.
    pub(crate) fn run(self, setup: Setup) -> Vec<String> {
        let before = os::open_descriptors();
        quarantine::begin();
        let (fuse, writers) = (Fuse::new(self.hook), Writers::default());
        let ledger = Ledger::new(&fuse);
        let mut complaints = Vec::new();
        let outcome = ended(|| {
            let run = match self.doing {
                Doing::TurnInThread | Doing::EndThread => self.in_thread(setup, &fuse, &ledger, &writers),
                _ => self.in_this_thread(setup, &fuse, &ledger, &writers),
            };
            complaints = run.unwrap_or_else(|e| vec![format!("the cell could not run: {e}")]);
        });
        if outcome != Ended::Returned {
            complaints.push(format!("the cell itself ended unexpectedly: {outcome:?}"));
        }
        writers.give_the_kernel_its_chance();
        complaints.extend(ledger.complaints());
        drop((writers, ledger, fuse));
        match quarantine::end() {
            None => complaints.push("more blocks were freed than can be watched".to_owned()),
            Some(written) => complaints.extend(
                written
                    .iter()
                    .map(|w| format!("{} of {} bytes of freed memory were written to", w.changed, w.size)),
            ),
        }
        let after = os::open_descriptors();
        if after != before {
            complaints.push(format!("{before} descriptors were open before and {after} are now"));
        }
        complaints
    }

    fn context(self, setup: Setup) -> Builder {
        let policy = if self.kind == Kind::Device { POLICY } else { BusyPolling::OFF };
        setup.builder().busy_polling(policy)
    }

    fn in_this_thread(
        self,
        setup: Setup,
        fuse: &Fuse,
        ledger: &Ledger,
        writers: &Writers,
    ) -> io::Result<Vec<String>> {
        let ctx = self.context(setup).build()?;
        let handle = ctx.handle();
        let traffic = Traffic::new(&ctx, ledger, writers, setup.reset)?;
        let bench = Bench::new(fuse, ledger, setup.reset);
        let source = source::make(self.kind, &bench, &ctx)?;
        let mut complaints = Vec::new();
        if matches!(self.doing, Doing::Turn | Doing::DropContext) {
            source.prime(&ctx);
        }
        settle(&ctx)?;
        if self.doing == Doing::DropContext {
            source.warm(&ctx);
            // Dropping the operations cancels nothing: those in flight keep the callback.
            if matches!(self.kind, Kind::Operations | Kind::Pool) {
                source.remove();
            }
            source.pend(&ctx);
            fuse.arm();
            let outcome = ended(|| drop(ctx));
            complaints.extend(expect_blown(fuse, outcome));
        } else {
            self.prepare_removal_in_the_callback(&bench, &source);
            let outcome = {
                let (fuse, source, doing) = (fuse.clone(), Rc::clone(&source), self.doing);
                ended(|| at_depth(&ctx, self.depth, Box::new(move |ctx| act(doing, ctx, &fuse, &source))))
            };
            complaints.extend(expect_blown(fuse, outcome));
            fuse.disarm();
            bench.on_call.take();
            complaints.extend(traffic.complaints(&ctx, setup.reset));
            complaints.extend(self.source_complaint(&ctx, &bench, &source));
            match ended(|| drop(ctx)) {
                Ended::Returned => {}
                other => complaints.push(format!("dropping the context afterwards: {other:?}")),
            }
        }
        fuse.disarm();
        let late = ledger.witness("a closure for a loop that has been dropped");
        let before = ledger.complaints();
        handle.schedule(move |_| drop(late));
        if ledger.complaints().len() >= before.len() {
            complaints.push("a closure for a loop that has been dropped is kept".to_owned());
        }
        complaints.extend(traffic.complaints_after_the_drop());
        complaints.extend(source.complaints());
        writers.give_the_kernel_its_chance();
        source.remove();
        Ok(complaints)
    }

    /// A source whose hook has panicked in a turn is served as before.
    fn source_complaint(self, ctx: &AioContext, bench: &Bench, source: &Rc<dyn Source>) -> Option<String> {
        let stays = matches!(self.doing, Doing::Turn | Doing::SetPolicy) && self.hook != Hook::Capture;
        if !stays || !self.kind.is_repeatable() {
            return None;
        }
        let called = |fire: &dyn Fn()| {
            let before = bench.calls.get();
            let outcome = ended(|| {
                fire();
                turn_until(ctx, || bench.calls.get() > before);
            });
            (outcome == Ended::Returned && bench.calls.get() > before).then_some(()).ok_or(outcome)
        };
        if let Err(outcome) = called(&|| source.fire(ctx)) {
            return Some(format!("the source itself does not work afterwards: {outcome:?}"));
        }
        // Its policy may or may not have changed if the change panicked.
        if self.doing != Doing::Turn || !source.fire_in_memory() {
            return None;
        }
        let polled = called(&|| _ = source.fire_in_memory());
        polled.err().map(|outcome| format!("the device is not polled any more afterwards: {outcome:?}"))
    }

    /// A capture is dropped within a turn if its callback removes itself.
    fn prepare_removal_in_the_callback(self, bench: &Bench, source: &Rc<dyn Source>) {
        let in_turn = matches!(self.doing, Doing::Turn | Doing::TurnInThread);
        if in_turn && self.hook == Hook::Capture && !self.kind.is_one_shot() {
            let source = Rc::clone(source);
            bench.on_call.replace(Some(Box::new(move || source.remove())));
        }
    }

    fn in_thread(
        self,
        setup: Setup,
        fuse: &Fuse,
        ledger: &Ledger,
        writers: &Writers,
    ) -> io::Result<Vec<String>> {
        let thread = {
            let (fuse, ledger, writers) = (fuse.clone(), ledger.clone(), writers.clone());
            IoThread::spawn_with("unwind", self.context(setup), move |ctx| {
                State::new(self, setup, ctx, &fuse, &ledger, &writers)
            })?
        };
        let is_over = || match self.doing {
            Doing::TurnInThread => fuse.is_blown(),
            // It ends its loop itself once it has armed the fuse.
            _ => fuse.is_armed() || fuse.is_blown(),
        };
        let deadline = Instant::now() + Duration::from_secs(2);
        while !is_over() && Instant::now() < deadline {
            std::thread::yield_now();
        }
        let stopped = thread.stop();
        let mut complaints = Vec::new();
        if !fuse.is_blown() {
            complaints.push("the hook was not reached".to_owned());
        }
        if !stopped.is_err_and(|e| e.to_string().contains("panicked")) {
            complaints.push("stop does not report the panic".to_owned());
        }
        Ok(complaints)
    }
}

fn expect_blown(fuse: &Fuse, outcome: Ended) -> Option<String> {
    match outcome {
        Ended::Blown => None,
        Ended::Returned if !fuse.is_blown() => Some("the hook was not reached".to_owned()),
        other => Some(format!("the panic did not reach the caller: {other:?}")),
    }
}

/// What makes the hook panic, outside of or within turns.
fn act(doing: Doing, ctx: &AioContext, fuse: &Fuse, source: &Rc<dyn Source>) {
    if doing == Doing::Turn {
        fuse.arm();
        source.fire(ctx);
        turn_until(ctx, || fuse.is_blown());
        return;
    }
    source.warm(ctx);
    fuse.arm();
    match doing {
        Doing::Remove => source.remove(),
        Doing::Replace => source.replace(ctx),
        _ => ctx.set_busy_polling(BusyPolling::OFF),
    }
}

/// Blocking turns until `done`, but not for ever.
fn turn_until(ctx: &AioContext, done: impl Fn() -> bool) {
    let alarm = ctx.timer(|_| ());
    for _ in 0..100 {
        if done() {
            break;
        }
        alarm.arm_after(SOON);
        ctx.poll(true).expect("a turn");
    }
}

/// Runs `work` with so many turns around it.
fn at_depth(ctx: &AioContext, depth: u32, work: Box<dyn FnOnce(&AioContext)>) {
    if depth == 0 {
        return work(ctx);
    }
    ctx.defer(move |ctx| at_depth(ctx, depth - 1, work));
    ctx.poll(false).expect("a turn");
}

/// What an `IoThread` keeps.
struct State {
    _traffic: Traffic,
    source: Rc<dyn Source>,
    /// Wakes the loop again and again.
    _alarm: Rc<RefCell<Option<Timer>>>,
}

impl State {
    fn new(
        cell: Cell,
        setup: Setup,
        ctx: &AioContext,
        fuse: &Fuse,
        ledger: &Ledger,
        writers: &Writers,
    ) -> io::Result<Self> {
        let traffic = Traffic::new(ctx, ledger, writers, setup.reset)?;
        let bench = Bench::new(fuse, ledger, setup.reset);
        let source = source::make(cell.kind, &bench, ctx)?;
        source.prime(ctx);
        settle(ctx)?;
        let alarm = Rc::new(RefCell::new(None::<Timer>));
        let again = Rc::downgrade(&alarm);
        let timer = ctx.timer(move |_| {
            if let Some(alarm) = again.upgrade()
                && let Some(alarm) = &*alarm.borrow()
            {
                alarm.arm_after(SOON);
            }
        });
        timer.arm_after(SOON);
        alarm.replace(Some(timer));
        ctx.defer({
            let (fuse, source) = (fuse.clone(), Rc::clone(&source));
            move |ctx| {
                if cell.doing == Doing::TurnInThread {
                    fuse.arm();
                    source.fire(ctx);
                } else {
                    source.warm(ctx);
                    source.pend(ctx);
                    fuse.arm();
                    ctx.handle().stop();
                }
            }
        });
        Ok(Self { _traffic: traffic, source, _alarm: alarm })
    }
}

impl Drop for State {
    fn drop(&mut self) {
        self.source.remove();
    }
}

//! A turn ends, however much work its own callbacks and other threads add to it.
//!
//! Work that is found or added after a turn has begun to run its callbacks waits for the next turn.
//! So one source that is always ready cannot keep a turn from returning, `stop` is seen, and the
//! other sources are served in between. What a callback does again and again is limited in every
//! test, so that a turn that would not end fails the test instead of hanging it.

use crate::polled::{InProcess, Polled};
use crate::setup::Setup;
use crate::support::{Count, Slot, look, settle, turn, turn_until};
use aio::io_uring::opcode;
use aio::{
    AioContext, BottomHalf, BusyPolling, EventNotifier, Handle, Interest, NotifierRegistration, Operations,
    Registration, Timer,
};
use std::cell::Cell;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The first window, 4,000 ns, stays the only one.
const SHORT: BusyPolling = BusyPolling { max_ns: 600_000_000_000, grow: 1, ..BusyPolling::OFF };

/// How often a callback adds work before it gives up. A turn that runs it so often would not end.
const GIVES_UP: u64 = 50;

/// A ready source is served within this many turns, whatever else is ready.
const SOON: u64 = 32;

/// Makes `process` wait in nested turns for a timer of 2 ms, at most [`GIVES_UP`] times. That is
/// longer than the window, so a nested turn sleeps, and busy polling ends inside `process`.
fn nests(ctx: &AioContext, calls: &Count) -> InProcess {
    let (calls, expired) = (calls.clone(), Count::default());
    let timer = ctx.timer({
        let expired = expired.clone();
        move |_| expired.bump()
    });
    Box::new(move |ctx| {
        calls.bump();
        if calls.get() <= GIVES_UP {
            let before = expired.get();
            timer.arm_after(Duration::from_millis(2));
            turn_until(ctx, || expired.get() > before);
        }
    })
}

/// A device that stays ready and runs nested turns.
fn restless_device(setup: &Setup) -> (Polled, Count) {
    let (p, calls) = (Polled::new(setup, SHORT), Count::default());
    p.first_event();
    p.device.on_process.replace(Some(nests(&p.ctx, &calls)));
    p.device.endless.set(true);
    (p, calls)
}

pub(crate) fn a_device_that_stays_ready_runs_once_in_a_turn(setup: &Setup) {
    let (p, calls) = restless_device(setup);
    for n in 1..=5 {
        assert!(turn(&p.ctx));
        assert_eq!(calls.get(), n, "calls of process after {n} turns");
    }
    assert!(p.device.begins.get() > 0, "busy polling was on");
}

pub(crate) fn two_devices_that_stay_ready_do_not_keep_the_turn(setup: &Setup) {
    let (p, calls) = restless_device(setup);
    let (other, bell, _registration) = Polled::device(setup, &p.ctx);
    p.device.endless.set(false);
    other.add(1);
    bell.notify().unwrap();
    turn_until(&p.ctx, || other.processed.get() == 1);
    settle(&p.ctx);
    let before = calls.get();
    other.on_process.replace(Some(nests(&p.ctx, &calls)));
    p.device.endless.set(true);
    other.endless.set(true);
    assert!(turn(&p.ctx));
    let calls = calls.get() - before;
    assert!((1..=10).contains(&calls), "{calls} calls of process in one turn");
}

pub(crate) fn stop_ends_run_while_a_device_stays_ready(setup: &Setup) {
    let (p, calls) = restless_device(setup);
    let (nest, handle) = (nests(&p.ctx, &calls), p.ctx.handle());
    p.device.on_process.replace(Some(Box::new({
        let calls = calls.clone();
        move |ctx| {
            if calls.get() == 2 {
                handle.stop();
            }
            nest(ctx);
        }
    })));
    p.ctx.run().unwrap();
    let calls = calls.get();
    assert!((3..=4).contains(&calls), "{calls} calls of process, and the third one asked for the stop");
}

/// An fd handler that is ready in every turn, a doorbell, and a timer.
struct Others {
    // Dropped in this order: a descriptor must outlive its registration.
    _on: Registration,
    _streams: (UnixStream, UnixStream),
    reads: Count,
    bell: EventNotifier,
    _on_bell: NotifierRegistration,
    rings: Count,
    timer: Timer,
    expired: Count,
}

impl Others {
    fn new(setup: &Setup, ctx: &AioContext) -> Self {
        let [reads, rings, expired] = [(); 3].map(|()| Count::default());
        let counting = |count: &Count| {
            let count = count.clone();
            move |_: &AioContext| count.bump()
        };
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        ours.write_all(b"x").unwrap();
        let on_read = counting(&reads);
        let on = ctx.add_borrowed_fd(&theirs, Interest::READABLE, move |ctx, _| on_read(ctx)).unwrap();
        let bell = setup.notifier();
        let on_bell = ctx.add_notifier(&bell, counting(&rings)).unwrap();
        let timer = ctx.timer(counting(&expired));
        Self { _streams: (ours, theirs), _on: on, reads, bell, _on_bell: on_bell, rings, timer, expired }
    }

    /// Turns until each of them has been called three times, and asserts that none waits for long.
    fn are_served(&self, ctx: &AioContext) {
        for _ in 0..3 {
            let counts = [&self.reads, &self.rings, &self.expired];
            let before = counts.map(Count::get);
            self.bell.notify().unwrap();
            self.timer.arm_at(0);
            let served = || counts.iter().zip(before).all(|(count, before)| count.get() > before);
            let mut turns = 0;
            while !served() {
                assert!(turns < SOON, "after {turns} turns some source has not been called");
                turn(ctx);
                turns += 1;
            }
        }
    }
}

pub(crate) fn others_are_served_while_a_device_stays_ready(setup: &Setup) {
    let (p, calls) = restless_device(setup);
    p.device.endless.set(false);
    let others = Others::new(setup, &p.ctx);
    p.device.endless.set(true);
    others.are_served(&p.ctx);
    let calls = calls.get();
    assert!(calls < GIVES_UP, "process was called {calls} times meanwhile");
}

pub(crate) fn a_handler_that_rings_itself_and_nests_loses_nothing_of_its_parent(setup: &Setup) {
    const ALL: usize = 10;
    let ctx = setup.context();
    let bells: Vec<_> = (0..ALL).map(|_| setup.notifier()).collect();
    let counts: Vec<_> = (0..ALL).map(|_| Count::default()).collect();
    let first = Count::default();
    let _on: Vec<_> = bells
        .iter()
        .zip(&counts)
        .map(|(bell, count)| {
            bell.notify().unwrap();
            let (own, count, first) = (bell.clone(), count.clone(), first.clone());
            let on = ctx.add_notifier(bell, move |ctx| {
                count.bump();
                first.bump();
                if first.get() == 1 {
                    // Whichever runs first: the nested turns collect its own second ring.
                    own.notify().unwrap();
                    turn(ctx);
                    look(ctx);
                }
            });
            on.unwrap()
        })
        .collect();
    assert!(turn(&ctx));
    settle(&ctx);
    let mut counts: Vec<_> = counts.iter().map(Count::get).collect();
    counts.sort_unstable();
    let mut expected = vec![1; ALL];
    expected[ALL - 1] = 2;
    assert_eq!(counts, expected, "each once, and twice the one that rang itself");
}

/// Registrations to drop, one at a time. With ring reads each removal enters the kernel and reaps
/// completions in the middle of a turn.
struct Spares(Slot<Vec<NotifierRegistration>>);

impl Spares {
    fn new(setup: &Setup, ctx: &AioContext) -> Self {
        let on = (0..GIVES_UP).map(|_| ctx.add_notifier(&setup.notifier(), |_| ()).unwrap()).collect();
        let slot = Slot::new();
        slot.put(on);
        settle(ctx);
        Self(slot)
    }

    fn drop_one(&self) {
        if let Some(mut on) = self.0.take() {
            let spare = on.pop();
            self.0.put(on);
            drop(spare);
        }
    }
}

pub(crate) fn what_a_removal_collects_waits_for_the_next_turn(setup: &Setup) {
    let ctx = setup.context();
    let spares = Rc::new(Spares::new(setup, &ctx));
    let calls = Count::default();
    // Each rings the next one and removes a spare.
    let bells: Vec<_> = (0..GIVES_UP).map(|_| setup.notifier()).collect();
    let _on: Vec<_> = bells
        .iter()
        .enumerate()
        .map(|(n, bell)| {
            let (next, spares, calls) = (bells.get(n + 1).cloned(), Rc::clone(&spares), calls.clone());
            let on = ctx.add_notifier(bell, move |_| {
                calls.bump();
                if let Some(next) = &next {
                    next.notify().unwrap();
                    spares.drop_one();
                }
            });
            on.unwrap()
        })
        .collect();
    settle(&ctx);
    bells[0].notify().unwrap();
    let mut most = 0;
    while calls.get() < GIVES_UP {
        let before = calls.get();
        turn(&ctx);
        most = most.max(calls.get() - before);
    }
    assert!(most <= 2, "{most} handlers ran in one turn, each made ready by the one before");
}

/// How far the producers may be ahead. It saves a thread switch for each closure.
const AHEAD: u64 = 2048;

/// Two threads that schedule closures without a pause. They keep pace with the loop: for each
/// closure that runs they schedule two, and no closure returns before they have. So a turn that
/// runs all that has been scheduled when it begins runs more closures than all turns before
/// together.
struct Producers {
    threads: Vec<JoinHandle<()>>,
    pace: Arc<Pace>,
}

#[derive(Default)]
struct Pace {
    scheduled: AtomicU64,
    ran: AtomicU64,
    over: AtomicBool,
    /// The turn of the last closure that ran.
    turn: AtomicU64,
    /// How many had run when the first closure of a turn asked for a stop; 0 if none has.
    asked: AtomicU64,
}

impl Pace {
    /// Called by each closure. `stops`: the first closure of a turn asks for a stop, once more than
    /// [`CLOSURES`] have run, so that more than those wait already.
    fn run(&self, ctx: &AioContext, stops: bool) {
        let ran = self.ran.fetch_add(1, Ordering::AcqRel) + 1;
        let turn = ctx.stats().turns;
        let is_first = self.turn.swap(turn, Ordering::AcqRel) != turn;
        if stops && is_first && ran > CLOSURES + 1 && self.asked.load(Ordering::Acquire) == 0 {
            self.asked.store(ran, Ordering::Release);
            ctx.handle().stop();
        }
        let deadline = Instant::now() + Duration::from_secs(2);
        while self.scheduled.load(Ordering::Acquire) < 2 * ran + 1
            && !self.over.load(Ordering::Acquire)
            && Instant::now() < deadline
        {
            std::thread::yield_now();
        }
    }

    fn ran(&self) -> u64 {
        self.ran.load(Ordering::Acquire)
    }
}

impl Producers {
    fn start(handle: &Handle, stops: bool) -> Self {
        let pace = Arc::new(Pace::default());
        let threads = (0..2).map(|_| {
            let (handle, pace) = (handle.clone(), Arc::clone(&pace));
            std::thread::spawn(move || {
                while !pace.over.load(Ordering::Acquire) {
                    if pace.scheduled.load(Ordering::Acquire) > 2 * pace.ran() + AHEAD {
                        std::thread::yield_now();
                        continue;
                    }
                    let in_loop = Arc::clone(&pace);
                    handle.schedule(move |ctx| in_loop.run(ctx, stops));
                    pace.scheduled.fetch_add(1, Ordering::AcqRel);
                }
            })
        });
        Self { threads: threads.collect(), pace }
    }

    /// Ends the threads and runs what is left.
    fn end(self, ctx: &AioContext) {
        self.pace.over.store(true, Ordering::Release);
        self.threads.into_iter().for_each(|thread| thread.join().unwrap());
        settle(ctx);
        assert_eq!(
            self.pace.ran(),
            self.pace.scheduled.load(Ordering::Acquire),
            "none is lost or runs twice"
        );
    }
}

/// The most closures that one turn may run while other threads schedule more.
const CLOSURES: u64 = 4096;

pub(crate) fn closures_of_threads_that_never_rest_do_not_keep_the_turn(setup: &Setup) {
    let ctx = setup.context();
    let others = Others::new(setup, &ctx);
    let producers = Producers::start(&ctx.handle(), false);
    let mut most = 0;
    while most <= CLOSURES && producers.pace.ran() < 3 * CLOSURES {
        let before = producers.pace.ran();
        turn(&ctx);
        most = most.max(producers.pace.ran() - before);
    }
    if most <= CLOSURES {
        others.are_served(&ctx);
    }
    // The loop does not become idle while they run.
    drop(others);
    producers.end(&ctx);
    assert!(most <= CLOSURES, "{most} closures in one turn");
}

pub(crate) fn stop_ends_run_while_threads_never_rest(setup: &Setup) {
    let ctx = setup.context();
    let producers = Producers::start(&ctx.handle(), true);
    ctx.run().unwrap();
    let after = producers.pace.ran() - producers.pace.asked.load(Ordering::Acquire);
    producers.end(&ctx);
    assert!(after <= CLOSURES, "{after} closures ran after one of them had asked for the stop");
}

pub(crate) fn a_bottom_half_that_schedules_itself_runs_once_in_a_turn(setup: &Setup) {
    let ctx = setup.context();
    let (slot, runs) = (Slot::<BottomHalf>::new(), Count::default());
    slot.put(ctx.bottom_half({
        let (slot, runs) = (slot.clone(), runs.clone());
        move |_| {
            runs.bump();
            slot.with(BottomHalf::schedule);
        }
    }));
    slot.with(BottomHalf::schedule);
    once_in_a_turn(setup, &ctx, &runs);
    drop(slot.take());
}

fn defer_again(ctx: &AioContext, runs: &Count, limit: u64) {
    let again = runs.clone();
    ctx.defer(move |ctx| {
        again.bump();
        if again.get() < limit {
            defer_again(ctx, &again, limit);
        }
    });
}

pub(crate) fn a_deferred_closure_that_defers_again_runs_once_in_a_turn(setup: &Setup) {
    let ctx = setup.context();
    let runs = Count::default();
    defer_again(&ctx, &runs, 20 * SOON);
    once_in_a_turn(setup, &ctx, &runs);
}

pub(crate) fn a_closure_that_schedules_another_runs_once_in_a_turn(setup: &Setup) {
    fn again(handle: Handle, runs: Arc<AtomicU64>) {
        let next = handle.clone();
        handle.schedule(move |_| {
            if runs.fetch_add(1, Ordering::Relaxed) < 20 * SOON {
                again(next, runs);
            }
        });
    }
    let ctx = setup.context();
    let runs = Arc::new(AtomicU64::new(0));
    again(ctx.handle(), Arc::clone(&runs));
    for n in 1..=10 {
        assert!(turn(&ctx));
        assert_eq!(runs.load(Ordering::Relaxed), n);
    }
    Others::new(setup, &ctx).are_served(&ctx);
}

pub(crate) fn a_timer_that_is_armed_in_the_past_again_runs_once_in_a_turn(setup: &Setup) {
    let ctx = setup.context();
    let (slot, runs) = (Slot::<Timer>::new(), Count::default());
    slot.put(ctx.timer({
        let (slot, runs) = (slot.clone(), runs.clone());
        move |_| {
            runs.bump();
            slot.with(|timer| timer.arm_at(0));
        }
    }));
    slot.with(|timer| timer.arm_at(0));
    once_in_a_turn(setup, &ctx, &runs);
    drop(slot.take());
}

/// Something that is due again as soon as it has run: one call for each turn, the others are served
/// in between, and a stop is seen.
fn once_in_a_turn(setup: &Setup, ctx: &AioContext, runs: &Count) {
    for n in 1..=10 {
        assert!(turn(ctx));
        assert_eq!(runs.get(), n, "runs after {n} turns");
    }
    Others::new(setup, ctx).are_served(ctx);
    let before = runs.get();
    ctx.handle().stop();
    ctx.run().unwrap();
    assert_eq!(runs.get(), before, "the stop came before the run");
    let handle = ctx.handle();
    ctx.defer(move |_| handle.stop());
    ctx.run().unwrap();
    assert_eq!(runs.get(), before + 1, "one turn");
}

/// A timer that is due again at once and a bottom half that schedules itself, both nesting a turn:
/// the nested turn may run the other one, and the turn must still end.
pub(crate) fn sources_that_are_due_again_and_nest_do_not_keep_the_turn(setup: &Setup) {
    let ctx = setup.context();
    let (half, timer) = (Slot::<BottomHalf>::new(), Slot::<Timer>::new());
    let (calls, depth) = (Count::default(), Rc::new(Cell::new(0)));
    let nest = {
        let (calls, depth) = (calls.clone(), Rc::clone(&depth));
        move |ctx: &AioContext| {
            calls.bump();
            // Nested once: a callback that is due again at once and always nests never returns.
            if depth.get() == 0 {
                depth.set(1);
                look(ctx);
                depth.set(0);
            }
        }
    };
    half.put(ctx.bottom_half({
        let (half, nest, calls) = (half.clone(), nest.clone(), calls.clone());
        move |ctx| {
            if calls.get() < GIVES_UP {
                half.with(BottomHalf::schedule);
            }
            nest(ctx);
        }
    }));
    timer.put(ctx.timer({
        let (timer, nest, calls) = (timer.clone(), nest.clone(), calls.clone());
        move |ctx| {
            if calls.get() < GIVES_UP {
                timer.with(|timer| timer.arm_at(0));
            }
            nest(ctx);
        }
    }));
    half.with(BottomHalf::schedule);
    timer.with(|timer| timer.arm_at(0));
    assert!(turn(&ctx));
    let calls = calls.get();
    assert!((1..=8).contains(&calls), "{calls} calls in one turn");
    drop((half.take(), timer.take()));
}

fn submit_nop(operations: &Operations<()>) {
    #[expect(unsafe_code, reason = "an SQE without a pointer")]
    // SAFETY: points to nothing.
    let submitted = unsafe { operations.submit(opcode::Nop::new().build(), ()) };
    submitted.unwrap();
}

pub(crate) fn an_operation_that_submits_the_next_does_not_keep_the_turn(setup: &Setup) {
    let ctx = setup.context();
    let spares = Spares::new(setup, &ctx);
    let (slot, calls) = (Slot::<Operations<()>>::new(), Count::default());
    let nested = Cell::new(false);
    let operations = ctx.operations({
        let (slot, calls) = (slot.clone(), calls.clone());
        move |ctx, _, ()| {
            calls.bump();
            if calls.get() < GIVES_UP {
                slot.with(submit_nop);
                // Reaps the next one in the middle of the turn, with ring reads.
                spares.drop_one();
            }
            if !nested.replace(true) {
                look(ctx);
                nested.set(false);
            }
        }
    });
    slot.put(operations.unwrap());
    slot.with(submit_nop);
    let others = Others::new(setup, &ctx);
    let mut most = 0;
    while calls.get() < GIVES_UP {
        let before = calls.get();
        turn(&ctx);
        most = most.max(calls.get() - before);
    }
    assert!(most <= 4, "{most} completions in one turn, each submitted by the one before");
    others.are_served(&ctx);
    turn_until(&ctx, || slot.with(Operations::in_flight) == 0);
    drop(slot.take());
}

/// All of these at once.
pub(crate) fn others_are_served_while_nothing_rests(setup: &Setup) {
    let (p, calls) = restless_device(setup);
    p.device.endless.set(false);
    let others = Others::new(setup, &p.ctx);
    let (half, timer, runs) = (Slot::<BottomHalf>::new(), Slot::<Timer>::new(), Count::default());
    half.put(p.ctx.bottom_half({
        let half = half.clone();
        move |_| half.with(BottomHalf::schedule)
    }));
    timer.put(p.ctx.timer({
        let timer = timer.clone();
        move |_| timer.with(|timer| timer.arm_at(0))
    }));
    half.with(BottomHalf::schedule);
    timer.with(|timer| timer.arm_at(0));
    defer_again(&p.ctx, &runs, u64::MAX);
    p.device.endless.set(true);
    others.are_served(&p.ctx);
    let handle = p.ctx.handle();
    let stopper = std::thread::spawn(move || handle.stop());
    p.ctx.run().unwrap();
    stopper.join().unwrap();
    let calls = calls.get();
    assert!(calls < GIVES_UP, "process was called {calls} times meanwhile");
    drop((half.take(), timer.take()));
}

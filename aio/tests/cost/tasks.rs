//! What it costs to await instead of being called back.

use crate::allocations::{during as allocations, steady};
use crate::{instructions, monitors};
use aio::{AioContext, EventNotifier, MonitorKind, NotifierRegistration, Reset};
use std::cell::Cell;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

const LATER: Duration = Duration::from_secs(3600);

/// A loop with one doorbell that counts.
struct Counting {
    ctx: AioContext,
    kick: EventNotifier,
    rings: Rc<Cell<u64>>,
    _registration: Option<NotifierRegistration>,
}

impl Counting {
    fn new(builder: aio::Builder, awaited: bool) -> Self {
        let ctx = builder.build().unwrap();
        let (kick, rings) = (EventNotifier::new(Reset::Autoreset).unwrap(), Rc::new(Cell::new(0)));
        let count = Rc::clone(&rings);
        let registration = if awaited {
            let mut doorbell = ctx.doorbell(&kick).unwrap();
            drop(ctx.spawn(async move {
                loop {
                    doorbell.rung().await;
                    count.set(count.get() + 1);
                }
            }));
            None
        } else {
            Some(ctx.add_notifier(&kick, move |_| count.set(count.get() + 1)).unwrap())
        };
        let this = Self { ctx, kick, rings, _registration: registration };
        (0..3).for_each(|_| this.turn());
        this
    }

    fn turn(&self) {
        self.kick.notify().unwrap();
        let before = self.rings.get();
        while self.rings.get() == before {
            self.ctx.poll(true).unwrap();
        }
    }
}

#[test]
fn an_awaited_ring_makes_the_system_calls_of_a_callback() {
    for (kind, builder) in monitors() {
        let calls = [false, true].map(|awaited| {
            let bell = Counting::new(builder.clone(), awaited);
            let before = bell.ctx.stats();
            (0..100).for_each(|_| bell.turn());
            let stats = bell.ctx.stats() - before;
            (stats.turns, stats.syscalls())
        });
        assert_eq!(calls[0], calls[1], "{kind}");
    }
}

#[test]
fn an_awaited_ring_allocates_nothing() {
    for (kind, builder) in monitors() {
        let bell = Counting::new(builder, true);
        assert_eq!(steady(|| bell.turn()), 0, "{kind}");
    }
}

#[test]
fn a_task_is_one_allocation_and_no_system_call() {
    for (kind, builder) in monitors() {
        let ctx = builder.build().unwrap();
        let local = ctx.local_handle();
        let (counted, calls) = ctx
            .block_on(async {
                local.spawn(async {}).await.unwrap();
                local.spawn(async {}).await.unwrap();
                let (mut allocated, before) = (0, ctx.stats());
                for _ in 0..20 {
                    let mut task = None;
                    allocated += allocations(|| task = Some(local.spawn(async { 7 })));
                    assert_eq!(task.take().unwrap().await.unwrap(), 7);
                }
                (allocated, (ctx.stats() - before).syscalls())
            })
            .unwrap();
        assert_eq!((counted, calls), (20, 0), "{kind}");
    }
}

/// While a waker of a task that ended is kept, its node is not used again.
#[test]
fn a_task_beside_a_stale_waker_is_two_allocations() {
    let ctx = AioContext::new().unwrap();
    let kept = Rc::new(Cell::new(None::<Waker>));
    let keep = Rc::clone(&kept);
    drop(ctx.spawn(std::future::poll_fn(move |cx| {
        keep.set(Some(cx.waker().clone()));
        Poll::Ready(())
    })));
    ctx.poll(true).unwrap();
    assert_eq!(allocations(|| drop(ctx.spawn(async {}))), 2);
    ctx.poll(true).unwrap();
    assert_eq!(allocations(|| drop(ctx.spawn(async {}))), 1);
}

/// Instructions of two rings on epoll, by callback and awaited. The limit holds for optimised code
/// (`cargo test --release`); without optimisation the numbers are only printed.
#[test]
fn an_awaited_ring_takes_few_instructions_more_than_a_callback() {
    const LIMIT: u64 = 310;
    let builder = AioContext::builder().monitor(MonitorKind::Epoll);
    let [called, awaited] = [false, true].map(|awaited| {
        let bell = Counting::new(builder.clone(), awaited);
        (0..20).for_each(|_| bell.turn());
        instructions::during(|| (0..2).for_each(|_| bell.turn()))
    });
    let (Some(called), Some(awaited)) = (called, awaited) else { return };
    let more = awaited.saturating_sub(called) / 2;
    println!("a ring: {} instructions by callback, {more} more if it is awaited", called / 2);
    assert!(cfg!(debug_assertions) || more <= LIMIT, "{more} instructions, {LIMIT} at most");
}

/// Waits twice: with a time limit, or without.
fn wait_twice(ctx: &AioContext, limited: bool) {
    let wait = async {
        for _ in 0..2 {
            if limited {
                ctx.timeout(LATER, ctx.yield_now()).await.unwrap();
            } else {
                ctx.yield_now().await;
            }
        }
    };
    ctx.block_on(wait).unwrap();
}

#[test]
fn a_timeout_allocates_nothing() {
    for (kind, builder) in monitors() {
        let ctx = builder.build().unwrap();
        let [with, without] = [true, false].map(|limited| steady(|| wait_twice(&ctx, limited)));
        assert_eq!(with, without, "{kind}");
    }
}

/// Instructions of a time limit for a future that waits once. One clock reading is among them,
/// whose length varies. The limit holds for optimised code.
#[test]
fn a_timeout_takes_few_instructions() {
    const LIMIT: u64 = 560;
    let ctx = AioContext::builder().monitor(MonitorKind::Epoll).build().unwrap();
    let [with, without] = [true, false].map(|limited| {
        (0..20).for_each(|_| wait_twice(&ctx, limited));
        (0..5).filter_map(|_| instructions::during(|| wait_twice(&ctx, limited))).min()
    });
    let (Some(with), Some(without)) = (with, without) else { return };
    let more = with.saturating_sub(without) / 2;
    println!("a timeout: {more} instructions");
    assert!(cfg!(debug_assertions) || more <= LIMIT, "{more} instructions, {LIMIT} at most");
}

/// Names, and a profile or a hook that was removed, leave nothing in the way of a task, neither in
/// a turn nor between turns.
#[test]
fn observing_that_has_ended_costs_a_task_no_instruction() {
    let ctx = AioContext::builder().monitor(MonitorKind::Epoll).build().unwrap();
    let local = ctx.local_handle();
    let polls = || {
        for _ in 0..2 {
            let task = local.spawn(local.yield_now());
            ctx.poll(true).unwrap();
            drop(task);
            ctx.block_on(local.spawn(local.yield_now())).unwrap().unwrap();
        }
    };
    let count = || {
        (0..20).for_each(|_| polls());
        instructions::during(polls)
    };
    let Some(before) = count() else { return };
    let named = ctx.spawn(std::future::pending::<()>()).named("pending");
    let with_name = count().unwrap();
    ctx.set_profiling(true);
    let profiled = count().unwrap();
    ctx.set_profiling(false);
    let after = count().unwrap();
    drop(named);
    println!("{before} instructions, {with_name} beside a name, {profiled} with a profile, {after} after it");
    assert_eq!((with_name, after), (before, before));
    assert!(profiled > before, "the count detects what a profile costs");
}

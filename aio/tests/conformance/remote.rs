//! Tasks that are spawned on another loop, and their results.

use crate::setup::Setup;
use crate::support::{Count, settle, turn};
use aio::{AioContext, IoThread};
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

fn other(setup: &Setup) -> IoThread {
    IoThread::spawn("other", setup.builder()).unwrap()
}

pub(crate) fn a_task_on_another_loop_returns_its_result(setup: &Setup) {
    let (ctx, other) = (setup.context(), other(setup));
    let here = std::thread::current().id();
    let task = other.handle().spawn(|other| {
        let other = other.local_handle();
        // Neither the future nor what it holds is Send.
        let kept = Rc::new(Cell::new(20));
        async move {
            other.yield_now().await;
            (kept.get() + 1, std::thread::current().id())
        }
    });
    let (result, thread) = ctx.block_on(task).unwrap().unwrap();
    assert_eq!(result, 21);
    assert_ne!(thread, here);
    other.stop().unwrap();
    settle(&ctx);
}

/// Both ends sleep: each is woken by the other.
pub(crate) fn a_thousand_results_come_back_and_none_is_lost(setup: &Setup) {
    let (ctx, other) = (setup.context(), other(setup));
    for round in 0..1000_u32 {
        let task = other.handle().spawn(move |_| async move { round });
        assert_eq!(ctx.block_on(task).unwrap().unwrap(), round);
    }
    let tasks: Vec<_> =
        (0..100_u32).map(|index| other.handle().spawn(move |_| async move { index })).collect();
    let sum = ctx.block_on(async {
        let mut sum = 0;
        for task in tasks {
            sum += task.await.unwrap();
        }
        sum
    });
    assert_eq!(sum.unwrap(), 4950);
    other.stop().unwrap();
}

pub(crate) fn remote_tasks_keep_the_order_of_schedule(setup: &Setup) {
    let (ctx, other) = (setup.context(), other(setup));
    let order = Arc::new(AtomicUsize::new(0));
    let next = |wanted: usize| {
        let order = Arc::clone(&order);
        move || assert_eq!(order.fetch_add(1, Ordering::Relaxed), wanted)
    };
    let (first, second, third) = (next(0), next(1), next(2));
    other.handle().schedule(move |_| first());
    let task = other.handle().spawn(move |_| {
        second();
        async {}
    });
    other.handle().schedule(move |_| third());
    ctx.block_on(task).unwrap().unwrap();
    other.stop().unwrap();
    assert_eq!(order.load(Ordering::Relaxed), 3);
}

pub(crate) fn a_panic_of_a_remote_task_is_an_error_and_its_loop_goes_on(setup: &Setup) {
    let (ctx, other) = (setup.context(), other(setup));
    let task = other.handle().spawn(|_| async { panic!("a task that panics") });
    let error = ctx.block_on(task).unwrap().unwrap_err();
    assert!(error.is_panic(), "{error}");
    assert!(other.is_alive());
    other.stop().unwrap();
}

/// Wherever the loop is when it ends: the closure not yet run, the future not yet done, or the loop
/// gone before.
pub(crate) fn a_loop_that_ends_first_is_an_error(setup: &Setup) {
    let ctx = setup.context();
    let target = setup.context();
    let handle = target.handle();
    let not_run = handle.spawn(|_| async {});
    let waiting = handle.spawn(|_| std::future::pending::<()>());
    let waits = ctx.spawn(async move { (waiting.await, not_run.await) });
    turn(&ctx);
    drop(target);
    let gone = handle.spawn(|_| async {});
    let (waiting, not_run) = ctx.block_on(waits).unwrap().unwrap();
    assert!(waiting.unwrap_err().is_aborted());
    assert!(not_run.unwrap_err().is_aborted());
    assert!(ctx.block_on(gone).unwrap().unwrap_err().is_aborted());
    settle(&ctx);
}

/// Dropping the handle is not an abort.
pub(crate) fn a_remote_task_runs_on_without_its_handle(setup: &Setup) {
    let target = setup.context();
    let ran = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&ran);
    drop(target.handle().spawn(move |context: &AioContext| {
        let context = context.local_handle();
        async move {
            context.yield_now().await;
            counted.fetch_add(1, Ordering::Relaxed);
        }
    }));
    let turns = Count::default();
    while ran.load(Ordering::Relaxed) == 0 {
        turn(&target);
        turns.bump();
        assert!(turns.get() < 10);
    }
    settle(&target);
}

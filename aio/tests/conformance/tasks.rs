//! Tasks: spawning, waking, aborting, panics, and the end of their context.

use crate::setup::Setup;
use crate::support::{Count, Slot, look, settle, turn, turn_until};
use aio::{AioContext, JoinHandle};
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll, Waker};

/// A place where a task leaves its waker, and a gate that it waits for.
#[derive(Clone, Default)]
struct Gate {
    open: Rc<Cell<bool>>,
    waker: Rc<RefCell<Option<Waker>>>,
    polls: Count,
}

impl Gate {
    async fn wait(&self) {
        poll_fn(|cx| {
            self.polls.bump();
            *self.waker.borrow_mut() = Some(cx.waker().clone());
            if self.open.replace(false) { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    fn wake(&self) {
        self.waker().wake();
    }

    fn waker(&self) -> Waker {
        self.waker.borrow().clone().expect("the task was polled")
    }

    fn open(&self) {
        self.open.set(true);
        self.wake();
    }
}

/// Counts when it is dropped, and may panic.
struct OnDrop(Count, bool);

impl Drop for OnDrop {
    fn drop(&mut self) {
        self.0.bump();
        assert!(!self.1, "a drop that panics");
    }
}

/// The result of a task that is over.
fn result<T>(mut handle: JoinHandle<T>) -> Result<T, aio::JoinError> {
    match Pin::new(&mut handle).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => result,
        Poll::Pending => panic!("the task is not over"),
    }
}

pub(crate) fn a_spawned_future_runs_in_the_next_turn(setup: &Setup) {
    let ctx = setup.context();
    let ran = Count::default();
    let handle = ctx.spawn({
        let ran = ran.clone();
        async move {
            ran.bump();
            "done"
        }
    });
    assert_eq!((ran.get(), handle.is_finished()), (0, false));
    assert!(turn(&ctx), "it does not sleep, and this is progress");
    assert_eq!((ran.get(), handle.is_finished()), (1, true));
    assert_eq!(result(handle).unwrap(), "done");
    assert_eq!(ctx.stats().task_polls, 1);
    settle(&ctx);
}

pub(crate) fn a_handle_is_awaited_by_another_task(setup: &Setup) {
    let ctx = setup.context();
    let gate = Gate::default();
    let inner = ctx.spawn({
        let gate = gate.clone();
        async move {
            gate.wait().await;
            7
        }
    });
    let outer = ctx.spawn(async move { inner.await.unwrap() + 1 });
    turn(&ctx);
    assert!(!outer.is_finished());
    gate.open();
    turn(&ctx);
    assert_eq!(result(outer).unwrap(), 8, "both in one turn");
}

pub(crate) fn tasks_come_last_in_a_turn(setup: &Setup) {
    let ctx = setup.context();
    let order = Rc::new(RefCell::new(Vec::new()));
    let log = |what: &'static str| {
        let order = Rc::clone(&order);
        move || order.borrow_mut().push(what)
    };
    let (task, timer, bell, half) = (log("task"), log("timer"), log("handler"), log("bottom half"));
    drop(ctx.spawn(async move { task() }));
    let timer = ctx.timer(move |_| timer());
    timer.arm_at(0);
    let notifier = setup.notifier();
    let _bell = ctx.add_notifier(&notifier, move |_| bell()).unwrap();
    notifier.notify().unwrap();
    ctx.defer(move |_| half());
    turn(&ctx);
    assert_eq!(*order.borrow(), ["bottom half", "handler", "timer", "task"]);
}

pub(crate) fn a_task_runs_in_the_turn_in_which_it_is_woken(setup: &Setup) {
    let ctx = setup.context();
    let gate = Gate::default();
    drop(ctx.spawn({
        let gate = gate.clone();
        async move {
            loop {
                gate.wait().await;
            }
        }
    }));
    turn(&ctx);
    let (from_timer, from_handler) = (gate.clone(), gate.clone());
    let timer = ctx.timer(move |_| from_timer.open());
    let notifier = setup.notifier();
    let _bell = ctx.add_notifier(&notifier, move |_| from_handler.open()).unwrap();
    let half = ctx.bottom_half({
        let gate = gate.clone();
        move |_| gate.open()
    });
    settle(&ctx);
    for wake in [&(|| timer.arm_at(0)) as &dyn Fn(), &|| notifier.notify().unwrap(), &|| half.schedule()] {
        let (turns, polls) = (ctx.stats().turns, gate.polls.get());
        wake();
        turn(&ctx);
        // A gate that was open is entered again.
        assert_eq!((ctx.stats().turns - turns, gate.polls.get() - polls), (1, 2));
    }
}

pub(crate) fn many_wakes_are_one_poll(setup: &Setup) {
    let ctx = setup.context();
    let gate = Gate::default();
    let _task = ctx.spawn({
        let gate = gate.clone();
        async move { gate.wait().await }
    });
    turn(&ctx);
    (0..100).for_each(|_| gate.wake());
    let waker = gate.waker();
    std::thread::spawn(move || (0..100).for_each(|_| waker.wake_by_ref())).join().unwrap();
    turn(&ctx);
    settle(&ctx);
    assert_eq!(gate.polls.get(), 2);
}

/// A wake in the home thread makes no system call, however long the loop has slept undisturbed.
pub(crate) fn a_wake_in_the_home_thread_writes_nothing(setup: &Setup) {
    let ctx = setup.context();
    let gate = Gate::default();
    let _task = ctx.spawn({
        let gate = gate.clone();
        async move {
            loop {
                gate.wait().await;
            }
        }
    });
    let notifier = setup.notifier();
    let open = gate.clone();
    let _bell = ctx.add_notifier(&notifier, move |_| open.open()).unwrap();
    turn(&ctx);
    for n in 1..=100 {
        notifier.notify().unwrap();
        turn_until(&ctx, || gate.polls.get() >= 2 * n);
    }
    let stats = ctx.stats();
    assert_eq!((stats.syscalls_write, stats.own_wakeups, stats.bottom_halves), (0, 0, 0));
}

pub(crate) fn a_wake_from_another_thread_ends_the_sleep(setup: &Setup) {
    let ctx = setup.context();
    let gate = Gate::default();
    let task = ctx.spawn({
        let gate = gate.clone();
        async move { gate.wait().await }
    });
    turn(&ctx);
    let waker = gate.waker();
    gate.open.set(true);
    let other = std::thread::spawn(move || waker.wake());
    turn_until(&ctx, || task.is_finished());
    other.join().unwrap();
}

/// After each wake there is a poll that sees what the thread had written before it.
pub(crate) fn wakes_of_four_threads_are_all_followed_by_a_poll(setup: &Setup) {
    const WAKES: u64 = 2_000;
    let ctx = setup.context();
    let counts: Arc<[AtomicU64; 4]> = Arc::default();
    let (wakers, receiver) = mpsc::channel();
    let task = ctx.spawn({
        let counts = Arc::clone(&counts);
        poll_fn(move |cx| {
            let _ = wakers.send(cx.waker().clone());
            // Relaxed: only the waking can make the writes visible.
            match counts.iter().all(|count| count.load(Ordering::Relaxed) == WAKES) {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }
        })
    });
    turn(&ctx);
    let waker = receiver.recv().unwrap();
    let threads: Vec<_> = (0..4)
        .map(|n| {
            let (waker, counts) = (waker.clone(), Arc::clone(&counts));
            std::thread::spawn(move || {
                for count in 1..=WAKES {
                    counts[n].store(count, Ordering::Relaxed);
                    waker.wake_by_ref();
                }
            })
        })
        .collect();
    turn_until(&ctx, || task.is_finished());
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

/// A task that wakes itself gets so many polls in a turn, and others are served in between.
pub(crate) fn a_task_that_never_rests_does_not_keep_the_turn(setup: &Setup) {
    let ctx = setup.context();
    let polls = Count::default();
    let task = ctx.spawn({
        let polls = polls.clone();
        poll_fn(move |cx| -> Poll<()> {
            polls.bump();
            cx.waker().wake_by_ref();
            Poll::Pending
        })
    });
    for n in 1..=3 {
        turn(&ctx);
        assert_eq!(polls.get(), 64 * n);
    }
    let (notifier, rings) = (setup.notifier(), Count::default());
    let bell = ctx.add_notifier(&notifier, {
        let rings = rings.clone();
        move |_| rings.bump()
    });
    let _bell = bell.unwrap();
    notifier.notify().unwrap();
    for _ in 0..3 {
        turn(&ctx);
    }
    assert_eq!(rings.get(), 1);
    ctx.handle().stop();
    ctx.run().unwrap();
    task.abort();
    turn(&ctx);
    assert!(result(task).unwrap_err().is_aborted());
    settle(&ctx);
}

pub(crate) fn as_many_tasks_as_were_ready_are_polled_in_a_turn(setup: &Setup) {
    let ctx = setup.context();
    let ran = Count::default();
    let spawn = |n: u64| {
        for _ in 0..n {
            let ran = ran.clone();
            drop(ctx.spawn(async move { ran.bump() }));
        }
    };
    spawn(1000);
    turn(&ctx);
    assert_eq!(ran.get(), 1000);
    spawn(3000);
    let per_turn = [(); 3].map(|()| {
        let before = ran.get();
        turn(&ctx);
        ran.get() - before
    });
    assert_eq!(per_turn, [1024, 1024, 952]);
}

pub(crate) fn two_tasks_hand_over_without_growing_the_stack(setup: &Setup) {
    const HANDOVERS: u64 = 25_000;
    let ctx = setup.context();
    let gates = [Gate::default(), Gate::default()];
    let lowest = Rc::new(Cell::new(usize::MAX));
    let highest = Rc::new(Cell::new(0));
    let tasks = [0, 1].map(|n| {
        let (mine, other) = (gates[n].clone(), gates[1 - n].clone());
        let (lowest, highest) = (Rc::clone(&lowest), Rc::clone(&highest));
        ctx.spawn(async move {
            for _ in 0..HANDOVERS {
                mine.wait().await;
                let here = 0u8;
                let at = (&raw const here) as usize;
                lowest.set(lowest.get().min(at));
                highest.set(highest.get().max(at));
                other.open();
            }
        })
    });
    turn(&ctx);
    gates[0].open();
    // The last handover finds nobody.
    turn_until(&ctx, || tasks.iter().all(JoinHandle::is_finished));
    assert!(highest.get() - lowest.get() < 4096, "the stack has grown");
    let stats = ctx.stats();
    assert!(stats.task_polls >= 2 * HANDOVERS, "{stats:?}");
}

pub(crate) fn an_aborted_task_is_dropped_in_the_next_turn(setup: &Setup) {
    let ctx = setup.context();
    let (gate, dropped) = (Gate::default(), Count::default());
    let value = OnDrop(dropped.clone(), false);
    let task = ctx.spawn({
        let gate = gate.clone();
        async move {
            let _value = value;
            gate.wait().await;
        }
    });
    turn(&ctx);
    task.abort();
    task.abort();
    assert_eq!((dropped.get(), task.is_finished()), (0, false));
    gate.open();
    turn(&ctx);
    assert_eq!((dropped.get(), gate.polls.get()), (1, 1), "dropped, not polled");
    task.abort();
    let error = result(task).unwrap_err();
    assert!(error.is_aborted() && !error.is_panic());
    gate.wake();
    settle(&ctx);
    assert_eq!(gate.polls.get(), 1);
}

pub(crate) fn a_task_aborts_itself(setup: &Setup) {
    let ctx = setup.context();
    let (handle, dropped, gate) = (Slot::new(), Count::default(), Gate::default());
    let value = OnDrop(dropped.clone(), false);
    handle.put(ctx.spawn({
        let (handle, gate) = (handle.clone(), gate.clone());
        async move {
            let _value = value;
            handle.with(JoinHandle::<()>::abort);
            gate.wait().await;
            unreachable!("it was aborted before");
        }
    }));
    turn(&ctx);
    assert_eq!(dropped.get(), 1, "as soon as it returned");
    assert!(result(handle.take().unwrap()).unwrap_err().is_aborted());
    settle(&ctx);
    // One that finishes in the same poll has a result.
    handle.put(ctx.spawn({
        let handle = handle.clone();
        async move { handle.with(JoinHandle::<()>::abort) }
    }));
    turn(&ctx);
    result(handle.take().unwrap()).unwrap();
    settle(&ctx);
}

pub(crate) fn a_task_drops_its_own_handle(setup: &Setup) {
    let ctx = setup.context();
    let (handle, dropped) = (Slot::new(), Count::default());
    let output = OnDrop(dropped.clone(), false);
    handle.put(ctx.spawn({
        let handle = handle.clone();
        async move {
            drop(handle.take());
            output
        }
    }));
    turn(&ctx);
    assert_eq!(dropped.get(), 1, "nobody takes the result");
}

pub(crate) fn a_panic_is_a_result_or_unwinds_out_of_poll(setup: &Setup) {
    let ctx = setup.context();
    let joined = ctx.spawn(async { panic!("for the handle") });
    turn(&ctx);
    let error = result::<()>(joined).unwrap_err();
    assert_eq!(error.to_string(), "the task panicked: for the handle");
    assert_eq!(error.into_panic().unwrap().downcast_ref(), Some(&"for the handle"));

    let ran = Count::default();
    let after = ran.clone();
    drop(ctx.spawn(async { panic!("out of poll") }));
    drop(ctx.spawn(async move { after.bump() }));
    let payload = catch_unwind(AssertUnwindSafe(|| ctx.poll(true))).unwrap_err();
    assert_eq!(payload.downcast_ref(), Some(&"out of poll"));
    assert_eq!(ran.get(), 0);
    assert!(turn(&ctx), "the others run in the next turn");
    assert_eq!(ran.get(), 1);
}

/// The drops of the future and of the result may panic, too.
pub(crate) fn a_panic_of_a_drop_is_reported_once(setup: &Setup) {
    let ctx = setup.context();
    let dropped = Count::default();
    let bomb = || OnDrop(dropped.clone(), true);
    // The future of an aborted task.
    let value = bomb();
    let task = ctx.spawn(async move {
        let _value = value;
        std::future::pending::<()>().await;
    });
    turn(&ctx);
    task.abort();
    turn(&ctx);
    assert!(result(task).unwrap_err().is_panic());
    // The result that nobody takes.
    let value = bomb();
    drop(ctx.spawn(async move { value }));
    catch_unwind(AssertUnwindSafe(|| ctx.poll(true))).unwrap_err();
    // The result whose handle is dropped.
    let value = bomb();
    let task = ctx.spawn(async move { value });
    turn(&ctx);
    catch_unwind(AssertUnwindSafe(|| drop(task))).unwrap_err();
    assert_eq!(dropped.get(), 3);
    settle(&ctx);
}

pub(crate) fn a_dropped_context_drops_its_tasks(setup: &Setup) {
    let ctx = setup.context();
    let (dropped, gates) = (Count::default(), [(); 4].map(|()| Gate::default()));
    let mut handles = Vec::new();
    for (n, gate) in gates.iter().enumerate() {
        // Every other one panics in its drop; all are dropped.
        let (value, gate) = (OnDrop(dropped.clone(), n % 2 == 0), gate.clone());
        // A task that holds the context does not keep it alive.
        let local = ctx.local_handle();
        handles.push(ctx.spawn(async move {
            let (_value, _local) = (value, local);
            gate.wait().await;
        }));
    }
    turn(&ctx);
    // Woken in the middle of it all, from here and from elsewhere.
    gates[0].wake();
    let waker = gates[1].waker();
    std::thread::spawn(move || waker.wake()).join().unwrap();
    let kept = handles.pop().unwrap();
    let panicked = catch_unwind(AssertUnwindSafe(|| drop(ctx)));
    // Their panics are results, as long as there are handles for them.
    assert!(panicked.is_ok());
    assert_eq!(dropped.get(), 4);
    assert!(result(kept).unwrap_err().is_aborted());
    assert!(result(handles.remove(0)).unwrap_err().is_panic());
    // After the context, a wake does nothing, whoever makes it.
    gates[0].wake();
    let waker = gates[2].waker();
    std::thread::spawn(move || waker.wake()).join().unwrap();
}

pub(crate) fn panics_of_detached_tasks_go_on_when_the_context_is_dropped(setup: &Setup) {
    let ctx = setup.context();
    let dropped = Count::default();
    for _ in 0..3 {
        let value = OnDrop(dropped.clone(), true);
        drop(ctx.spawn(async move {
            let _value = value;
            std::future::pending::<()>().await;
        }));
    }
    turn(&ctx);
    catch_unwind(AssertUnwindSafe(|| drop(ctx))).unwrap_err();
    assert_eq!(dropped.get(), 3);
}

/// A waker of a task that ended wakes nobody, and in particular not the next task in its slot.
pub(crate) fn a_stale_waker_wakes_nobody(setup: &Setup) {
    let ctx = setup.context();
    let old = Gate::default();
    let task = ctx.spawn({
        let old = old.clone();
        async move { old.wait().await }
    });
    turn(&ctx);
    let (here, there) = (old.waker(), old.waker());
    old.open();
    turn(&ctx);
    assert!(task.is_finished());
    let new = Gate::default();
    let _task = ctx.spawn({
        let new = new.clone();
        async move { new.wait().await }
    });
    turn(&ctx);
    here.wake();
    std::thread::spawn(move || there.wake()).join().unwrap();
    settle(&ctx);
    assert_eq!(new.polls.get(), 1);
    new.open();
    turn(&ctx);
    assert_eq!(new.polls.get(), 2);
}

pub(crate) fn a_task_that_turns_the_loop_is_not_entered_again(setup: &Setup) {
    let ctx = setup.context();
    let (gate, other, inside) = (Gate::default(), Count::default(), Rc::new(Cell::new(0)));
    let task = ctx.spawn({
        let (gate, other, inside) = (gate.clone(), other.clone(), Rc::clone(&inside));
        let local = ctx.local_handle();
        async move {
            poll_fn(|cx| {
                *gate.waker.borrow_mut() = Some(cx.waker().clone());
                gate.polls.bump();
                inside.set(inside.get() + 1);
                assert_eq!(inside.get(), 1, "entered again");
                // Woken before, inside, and by a task inside of the nested turns.
                cx.waker().wake_by_ref();
                let (waker, other) = (gate.clone(), other.clone());
                let task = local.spawn(async move {
                    waker.wake();
                    other.bump();
                });
                local.block_on(task).unwrap().unwrap();
                settle(&local);
                inside.set(inside.get() - 1);
                if gate.polls.get() == 2 { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
        }
    });
    turn(&ctx);
    turn_until(&ctx, || task.is_finished());
    assert_eq!((gate.polls.get(), other.get()), (2, 2), "its wake-up was kept for later");
    settle(&ctx);
}

pub(crate) fn block_on_returns_the_result(setup: &Setup) {
    let ctx = setup.context();
    let gate = Gate::default();
    let borrowed = String::from("from the stack");
    let timer = ctx.timer({
        let gate = gate.clone();
        move |_| gate.open()
    });
    timer.arm_after(std::time::Duration::from_micros(200));
    let output = ctx.block_on(async {
        gate.wait().await;
        borrowed.len()
    });
    assert_eq!(output.unwrap(), 14);
    assert_eq!(gate.polls.get(), 2);
    // Its waker is worth nothing any more.
    gate.wake();
    settle(&ctx);
    // One that does not wait needs no turn.
    let turns = ctx.stats().turns;
    assert_eq!(ctx.block_on(async { 1 }).unwrap(), 1);
    assert_eq!(ctx.stats().turns, turns);
}

pub(crate) fn block_on_is_woken_by_another_thread(setup: &Setup) {
    let ctx = setup.context();
    let done = Arc::new(AtomicBool::new(false));
    let mut thread = None;
    let future = poll_fn(|cx| {
        if done.load(Ordering::Relaxed) {
            return Poll::Ready(());
        }
        if thread.is_none() {
            let (done, waker) = (Arc::clone(&done), cx.waker().clone());
            thread = Some(std::thread::spawn(move || {
                done.store(true, Ordering::Relaxed);
                waker.wake();
            }));
        }
        Poll::Pending
    });
    ctx.block_on(future).unwrap();
    thread.unwrap().join().unwrap();
}

pub(crate) fn a_panic_in_block_on_leaves_the_loop_working(setup: &Setup) {
    let ctx = setup.context();
    let future = async { panic!("in block_on") };
    let result = catch_unwind(AssertUnwindSafe(|| ctx.block_on::<_>(future)));
    assert!(result.map(|r: std::io::Result<()>| r.is_ok()).is_err());
    let task = ctx.spawn(async { 3 });
    assert_eq!(ctx.block_on(task).unwrap().unwrap(), 3);
}

pub(crate) fn yielding_lets_the_others_go_first(setup: &Setup) {
    let ctx = setup.context();
    let order = Rc::new(RefCell::new(Vec::new()));
    for name in ["a", "b"] {
        let (local, order) = (ctx.local_handle(), Rc::clone(&order));
        drop(ctx.spawn(async move {
            for _ in 0..3 {
                order.borrow_mut().push(name);
                local.yield_now().await;
            }
        }));
    }
    turn(&ctx);
    assert_eq!(*order.borrow(), ["a", "b", "a", "b", "a", "b"]);
}

pub(crate) fn a_local_handle_outlives_its_context(setup: &Setup) {
    let ctx = setup.context();
    let local = ctx.local_handle();
    let dropped = Count::default();
    drop(ctx);
    for refused in
        [local.poll(true).err(), local.add_notifier(&setup.notifier(), |_| ()).err().map(|e| e.error)]
    {
        assert_eq!(refused.unwrap().kind(), std::io::ErrorKind::NotConnected);
    }
    let value = OnDrop(dropped.clone(), false);
    let task = local.spawn(async move { drop(value) });
    assert_eq!(dropped.get(), 1, "in the call");
    assert!(result(task).unwrap_err().is_aborted());
    let blocked = local.block_on(std::future::pending::<()>());
    assert_eq!(blocked.unwrap_err().kind(), std::io::ErrorKind::NotConnected);
}

/// The context goes while a task of it is being polled, in a turn that runs on a handle.
pub(crate) fn a_task_drops_its_context(setup: &Setup) {
    let ctx = Slot::new();
    ctx.put(setup.context());
    let local = ctx.with(AioContext::local_handle);
    let (dropped, other) = (Count::default(), Count::default());
    let (value, others) = (OnDrop(dropped.clone(), false), OnDrop(other.clone(), false));
    let waiting = local.spawn(async move {
        let _value = others;
        std::future::pending::<()>().await;
    });
    let task = local.spawn({
        let (ctx, dropped, other) = (ctx.clone(), dropped.clone(), other.clone());
        async move {
            let _value = value;
            drop(ctx.take());
            assert_eq!((dropped.get(), other.get()), (0, 1), "this one is still being polled");
            std::future::pending::<()>().await;
        }
    });
    assert!(local.poll(true).unwrap());
    assert_eq!(dropped.get(), 1, "as soon as it returned");
    assert!(result(task).unwrap_err().is_aborted());
    assert!(result(waiting).unwrap_err().is_aborted());
    assert_eq!(look_at(&local), std::io::ErrorKind::NotConnected);
}

fn look_at(ctx: &AioContext) -> std::io::ErrorKind {
    ctx.poll(false).unwrap_err().kind()
}

/// Nothing is left in the table: slots are used again.
pub(crate) fn slots_are_used_again(setup: &Setup) {
    const TASKS: u64 = 20_000;
    let ctx = setup.context();
    let ran = Count::default();
    let local = ctx.local_handle();
    let count = ran.clone();
    let all = async move {
        for _ in 0..TASKS {
            let ran = count.clone();
            local.spawn(async move { ran.bump() }).await.unwrap();
        }
    };
    ctx.block_on(all).unwrap();
    assert_eq!(ran.get(), TASKS);
    assert!(format!("{ctx:?}").contains("tasks: Some(Tasks { tasks: 0"), "{ctx:?}");
    assert!(!look(&ctx));
}

/// The last poll that is made between two turns makes the future ready. It is then in no queue any
/// more, so the turn that follows must not sleep.
pub(crate) fn block_on_does_not_sleep_over_a_future_that_the_last_poll_made_ready(setup: &Setup) {
    const POLLS: usize = 64;
    // The future's own place in the queue is one poll. The limit may be met a little earlier or
    // later, depending on who is woken first.
    for polls in POLLS - 4..=POLLS + 4 {
        let ctx = setup.context();
        settle(&ctx);
        // Nothing else wakes the loop, so a sleep ends only with this, and shows in `late`.
        let late = Count::default();
        let bump = late.clone();
        let alarm = ctx.timer(move |_| bump.bump());
        alarm.arm_after(std::time::Duration::from_secs(5));
        let local = ctx.local_handle();
        let task = ctx.spawn(async move {
            for _ in 1..polls {
                local.yield_now().await;
            }
        });
        ctx.block_on(task).unwrap().unwrap();
        assert_eq!((late.get(), alarm.is_pending()), (0, true), "{polls} polls");
    }
}

//! Blocking work in worker threads. The first tests are the scenarios of QEMU's thread pool:
//! submit, submit many, cancel, cancel without waiting.

use crate::setup::Setup;
use crate::support::{Count, Slot, look, settle, turn, turn_until};
use aio::{AioContext, Blocking};
use std::cell::{Cell, RefCell};
use std::io::ErrorKind;
use std::pin::pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::thread::ThreadId;

/// Work that has begun, and that ends when it is let go.
struct Running {
    let_go: Sender<()>,
    job: Blocking,
    done: Count,
}

impl Running {
    fn start(ctx: &AioContext) -> Self {
        let (begun, has_begun) = mpsc::channel();
        let (let_go, may_end): (_, Receiver<()>) = mpsc::channel();
        let done = Count::default();
        let count = done.clone();
        let work = move || {
            begun.send(()).unwrap();
            may_end.recv().is_ok()
        };
        let job = ctx.spawn_blocking(work, move |_, result| {
            assert!(result.unwrap(), "let go by the test");
            count.bump();
        });
        has_begun.recv().unwrap();
        Self { let_go, job: job.unwrap(), done }
    }

    fn finish(self, ctx: &AioContext) {
        self.let_go.send(()).unwrap();
        turn_until(ctx, || self.done.get() == 1);
    }
}

/// Records in which thread it is dropped.
#[derive(Debug)]
struct Dropped(Arc<Mutex<Vec<ThreadId>>>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.lock().unwrap().push(std::thread::current().id());
    }
}

pub(crate) fn a_result_comes_back_to_the_home_thread(setup: &Setup) {
    let ctx = setup.context();
    let home = std::thread::current().id();
    let got = Rc::new(Cell::new(None));
    let result = Rc::clone(&got);
    let work = || (std::thread::current().id(), std::thread::current().name().map(str::to_owned));
    let job =
        ctx.spawn_blocking(work, move |_, r| result.set(Some((r.unwrap(), std::thread::current().id()))));
    let job = job.unwrap();
    // Without a turn nothing is called back.
    std::thread::yield_now();
    assert!(!job.is_finished());
    let mut progress = false;
    while got.take().is_none_or(|((worker, name), back)| {
        assert!(worker != home && back == home && name.as_deref() == Some("aio-worker"));
        false
    }) {
        progress = turn(&ctx);
    }
    assert!(progress, "a callback for a result is progress");
    assert!(job.is_finished() && !job.cancel());
}

pub(crate) fn many_come_back_once_each(setup: &Setup) {
    const MANY: usize = 500;
    let ctx = setup.builder().worker_threads(0..=8).build().unwrap();
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let returned = Rc::new(RefCell::new(vec![0; MANY]));
    for n in 0..MANY {
        let (now, most, returned) = (Arc::clone(&now), Arc::clone(&most), Rc::clone(&returned));
        let work = move || {
            most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            std::thread::yield_now();
            now.fetch_sub(1, Ordering::SeqCst);
            n
        };
        ctx.spawn_blocking(work, move |_, n| returned.borrow_mut()[n.unwrap()] += 1).unwrap();
    }
    turn_until(&ctx, || returned.borrow().iter().sum::<usize>() >= MANY);
    settle(&ctx);
    assert!(returned.borrow().iter().all(|times| *times == 1), "{returned:?}");
    let most = most.load(Ordering::SeqCst);
    assert!((1..=8).contains(&most), "{most} threads at once");
}

pub(crate) fn cancel_reaches_work_that_has_not_begun(setup: &Setup) {
    let ctx = setup.builder().worker_threads(0..=2).build().unwrap();
    let running = [Running::start(&ctx), Running::start(&ctx)];
    let (drops, ran, cancelled) = (Arc::default(), Arc::new(AtomicUsize::new(0)), Count::default());
    let waiting: Vec<_> = (0..10)
        .map(|_| {
            let (ran, capture, cancelled) =
                (Arc::clone(&ran), Dropped(Arc::clone(&drops)), cancelled.clone());
            let work = move || {
                let _ = &capture;
                ran.fetch_add(1, Ordering::SeqCst)
            };
            let done = move |_: &AioContext, result: Result<_, aio::BlockingError>| {
                let error = result.unwrap_err();
                assert!(error.is_cancelled() && !error.is_panic(), "{error}");
                assert_eq!(std::io::Error::from(error).raw_os_error(), Some(libc::ECANCELED));
                cancelled.bump();
            };
            ctx.spawn_blocking(work, done).unwrap()
        })
        .collect();
    for job in &waiting {
        assert!(job.cancel() && !job.cancel(), "once");
        assert!(!job.is_finished(), "the callback runs in a turn");
    }
    assert_eq!((drops.lock().unwrap().len(), cancelled.get()), (10, 0), "dropped at once, called back later");
    assert!(look(&ctx));
    assert_eq!((cancelled.get(), ran.load(Ordering::SeqCst)), (10, 0));
    assert!(waiting.iter().all(Blocking::is_finished));
    running.into_iter().for_each(|running| running.finish(&ctx));
}

pub(crate) fn cancel_is_too_late_for_work_that_has_begun(setup: &Setup) {
    let ctx = setup.context();
    let running = Running::start(&ctx);
    assert!(!running.job.cancel());
    running.finish(&ctx);
}

pub(crate) fn work_begins_in_order(setup: &Setup) {
    let ctx = setup.builder().worker_threads(0..=1).build().unwrap();
    let first = Running::start(&ctx);
    let order = Arc::new(Mutex::new(Vec::new()));
    let done = Count::default();
    for n in 0..20 {
        let (order, done) = (Arc::clone(&order), done.clone());
        ctx.spawn_blocking(move || order.lock().unwrap().push(n), move |_, _| done.bump()).unwrap();
    }
    first.finish(&ctx);
    turn_until(&ctx, || done.get() == 20);
    assert_eq!(*order.lock().unwrap(), (0..20).collect::<Vec<_>>());
}

pub(crate) fn a_panic_of_the_work_is_a_result(setup: &Setup) {
    let ctx = setup.context();
    let errors = Rc::new(RefCell::new(Vec::new()));
    for _ in 0..2 {
        let errors = Rc::clone(&errors);
        let work = || -> () { std::panic::resume_unwind(Box::new("no such disk")) };
        ctx.spawn_blocking(work, move |_, result| errors.borrow_mut().push(result.unwrap_err())).unwrap();
    }
    turn_until(&ctx, || errors.borrow().len() == 2);
    let mut errors = errors.take();
    let error = errors.remove(0);
    assert!(error.is_panic() && !error.is_cancelled());
    assert_eq!(error.to_string(), "the work panicked: no such disk");
    assert_eq!(error.into_panic().unwrap().downcast_ref(), Some(&"no such disk"));
    assert_eq!(std::io::Error::from(errors.remove(0)).kind(), ErrorKind::Other);
    // The pool works on.
    Running::start(&ctx).finish(&ctx);
}

pub(crate) fn a_sleeping_loop_is_woken_by_a_result(setup: &Setup) {
    let ctx = setup.context();
    let running = Running::start(&ctx);
    let wakes = ctx.stats().syscalls_write;
    let let_go = running.let_go.clone();
    let helper = std::thread::spawn(move || {
        // Long enough that the loop usually sleeps; correct if it does not.
        std::thread::sleep(std::time::Duration::from_millis(2));
        let_go.send(()).unwrap();
    });
    turn_until(&ctx, || running.done.get() == 1);
    helper.join().unwrap();
    let wakes = ctx.stats().syscalls_write - wakes;
    assert!(wakes <= 1, "{wakes} writes for one result");
}

pub(crate) fn the_callback_may_submit_turn_and_cancel(setup: &Setup) {
    let ctx = setup.builder().worker_threads(1..=1).build().unwrap();
    let (inner, outer) = (Count::default(), Count::default());
    let counts = (inner.clone(), outer.clone());
    let done = move |ctx: &AioContext, _| {
        let (inner, outer) = counts;
        let bump = inner.clone();
        ctx.spawn_blocking(|| (), move |_, _| bump.bump()).unwrap();
        turn_until(ctx, || inner.get() == 1);
        let bump = inner.clone();
        let first = Running::start(ctx);
        let job = ctx.spawn_blocking(|| (), move |_, r| r.map_or_else(|_| bump.bump(), |()| ())).unwrap();
        assert!(job.cancel());
        turn_until(ctx, || inner.get() == 2);
        first.finish(ctx);
        outer.bump();
    };
    ctx.spawn_blocking(|| (), done).unwrap();
    turn_until(&ctx, || outer.get() == 1);
}

pub(crate) fn a_dropped_context_waits_for_work_that_has_begun(setup: &Setup) {
    let ctx = setup.builder().worker_threads(0..=1).build().unwrap();
    let home = std::thread::current().id();
    let (drops, ended) = (Arc::<Mutex<Vec<_>>>::default(), Arc::new(AtomicUsize::new(0)));
    let (begun, has_begun) = mpsc::channel();
    let (let_go, may_end) = mpsc::channel::<()>();
    let (result, count, handle) = (Dropped(Arc::clone(&drops)), Arc::clone(&ended), ctx.handle());
    let work = move || {
        begun.send(()).unwrap();
        may_end.recv().unwrap();
        // Waits for its own loop: it is not left alone with that.
        let (answer, answered) = mpsc::channel::<()>();
        handle.schedule(move |_| answer.send(()).unwrap());
        assert!(answered.recv().is_err(), "dropped, not run");
        count.fetch_add(1, Ordering::SeqCst);
        result
    };
    let called = Count::default();
    let (count, capture) = (called.clone(), Dropped(Arc::clone(&drops)));
    let running = ctx.spawn_blocking(work, move |_, _| {
        let _ = &capture;
        count.bump();
    });
    has_begun.recv().unwrap();
    let (capture, count) = (Dropped(Arc::clone(&drops)), called.clone());
    let waiting = ctx.spawn_blocking(move || drop(capture), move |_, _| count.bump());
    let helper = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(2));
        let_go.send(()).unwrap();
    });
    drop(ctx);
    assert_eq!((ended.load(Ordering::SeqCst), called.get()), (1, 0), "waited for, and nothing called");
    assert_eq!(*drops.lock().unwrap(), [home; 3], "result and captures, by the home thread");
    for job in [running.unwrap(), waiting.unwrap()] {
        assert!(job.is_finished() && !job.cancel());
    }
    helper.join().unwrap();
}

pub(crate) fn captures_of_a_dropped_context_may_cancel(setup: &Setup) {
    struct Cancels(Slot<Blocking>, Count);
    impl Drop for Cancels {
        fn drop(&mut self) {
            self.0.with(|job| assert!(!job.cancel(), "taken back already"));
            self.1.bump();
        }
    }
    let ctx = setup.builder().worker_threads(0..=1).build().unwrap();
    let running = Running::start(&ctx);
    let (slot, dropped) = (Slot::new(), Count::default());
    slot.put(ctx.spawn_blocking(|| (), |_, _| panic!("the context was dropped")).unwrap());
    let on_timer = Cancels(slot.clone(), dropped.clone());
    std::mem::forget(ctx.timer(move |_| _ = &on_timer));
    let on_done = Cancels(slot.clone(), dropped.clone());
    ctx.spawn_blocking(|| (), move |_, _| drop(on_done)).unwrap();
    running.let_go.send(()).unwrap();
    drop(ctx);
    assert_eq!(dropped.get(), 2);
}

pub(crate) fn a_range_without_a_thread_is_refused(setup: &Setup) {
    #[expect(clippy::reversed_empty_ranges, reason = "that is what is refused")]
    for range in [0..=0, 5..=4] {
        let error = setup.builder().worker_threads(range).build().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
    }
}

pub(crate) fn blocking_work_is_awaited(setup: &Setup) {
    let ctx = setup.context();
    let (home, local) = (std::thread::current().id(), ctx.local_handle());
    let task = ctx.spawn(async move {
        let worker = local.blocking(|| std::thread::current().id()).await.unwrap();
        let both = [3, 4].map(|n| local.spawn(local.blocking(move || n * n)));
        let mut sum = 0;
        for square in both {
            sum += square.await.unwrap().unwrap();
        }
        let panicked = local.blocking(|| panic!("at work")).await.map(|(): ()| ()).unwrap_err();
        (worker, sum, panicked)
    });
    let (worker, sum, panicked) = ctx.block_on(task).unwrap().unwrap();
    assert_ne!(worker, home);
    assert_eq!(sum, 25);
    assert!(panicked.is_panic() && !panicked.is_refused(), "{panicked}");
    assert_eq!(panicked.into_panic().unwrap().downcast_ref(), Some(&"at work"));
}

pub(crate) fn a_dropped_future_cancels_work_that_has_not_begun(setup: &Setup) {
    let ctx = setup.builder().worker_threads(0..=1).build().unwrap();
    let (home, drops) = (std::thread::current().id(), Arc::new(Mutex::new(Vec::new())));
    let poll = |future: &mut (dyn Future<Output = _> + Unpin)| {
        pin!(future).poll(&mut Context::from_waker(Waker::noop())).is_pending()
    };
    // Work that has begun goes on, and nobody gets its result.
    let (begun, has_begun) = mpsc::channel();
    let (let_go, may_end) = mpsc::channel::<()>();
    let result = Dropped(Arc::clone(&drops));
    let mut first = ctx.blocking(move || {
        begun.send(()).unwrap();
        may_end.recv().unwrap();
        Some(result)
    });
    assert!(has_begun.try_recv().is_err() && ctx.dump().workers().threads == 0, "not before it is polled");
    assert!(poll(&mut first));
    has_begun.recv().unwrap();
    // Work behind it has not begun.
    let waiting = || {
        let capture = Dropped(Arc::clone(&drops));
        ctx.blocking(move || {
            let _ = &capture;
            panic!("it was cancelled");
        })
    };
    let (mut second, third) = (waiting(), waiting());
    assert!(poll(&mut second));
    assert_eq!(ctx.dump().workers().queued, 1);
    drop(second);
    assert_eq!(*drops.lock().unwrap(), [home], "at once");
    assert_eq!(ctx.dump().workers().queued, 0);
    drop(third);
    assert_eq!(drops.lock().unwrap().len(), 2, "never submitted");
    drop(first);
    assert_eq!(drops.lock().unwrap().len(), 2, "it cannot be stopped");
    let_go.send(()).unwrap();
    turn_until(&ctx, || drops.lock().unwrap().len() == 3);
    assert_eq!(*drops.lock().unwrap(), [home; 3], "the result, too, by the home thread");
    settle(&ctx);
}

pub(crate) fn blocking_work_that_cannot_be_submitted_is_an_error(setup: &Setup) {
    let ctx = setup.context();
    let drops = Arc::new(Mutex::new(Vec::new()));
    let capture = Dropped(Arc::clone(&drops));
    let mut future = ctx.blocking(move || drop(capture));
    drop(ctx);
    let polled = pin!(&mut future).poll(&mut Context::from_waker(Waker::noop()));
    let Poll::Ready(Err(error)) = polled else { panic!("{polled:?}") };
    assert!(error.is_refused() && !error.is_panic() && !error.is_cancelled(), "{error}");
    assert_eq!(std::io::Error::from(error).kind(), ErrorKind::NotConnected);
    assert_eq!(drops.lock().unwrap().len(), 1);
}

//! Loom models of wakes from several threads. Run with
//!
//! ```text
//! RUSTFLAGS="--cfg loom" cargo test -p aio-context --release --lib loom
//! ```

use super::{Join, JoinError, Spawned, Tasks, Ticket};
use crate::sync::{AtomicU32, Ordering};
use loom::thread;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};

/// Checks all schedules with at most three preemptions; LOOM_MAX_PREEMPTIONS overrides this.
fn check(model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(Some(3));
    builder.check(model);
}

/// The home thread's side: a table of tasks, and how often other threads woke its loop.
struct Home {
    tasks: Rc<Tasks>,
    woken: Arc<AtomicU32>,
}

impl Home {
    fn new() -> Self {
        let woken = Arc::new(AtomicU32::new(0));
        let wakes = Arc::clone(&woken);
        let wake_loop = move || {
            wakes.fetch_add(1, Ordering::SeqCst);
        };
        Self { tasks: Tasks::new(&Rc::default(), Box::new(wake_loop)), woken }
    }

    /// Spawns a task and polls it once, so that it has left its waker.
    fn spawn<F: Future + 'static>(&self, future: F) -> (Rc<Spawned<F>>, Ticket) {
        let (ticket, waker) = self.tasks.reserve().unwrap();
        let task = Spawned::new(future, waker);
        self.tasks.put(ticket, Rc::clone(&task) as _);
        self.tasks.wake(ticket);
        self.turn();
        (task, ticket)
    }

    /// What a turn does after the loop was woken.
    fn turn(&self) {
        self.tasks.receive();
        let phase = self.tasks.begin().unwrap();
        while let Some(task) = phase.next() {
            let outcome = task.run();
            assert!(self.tasks.polled(&task, outcome).is_none());
        }
    }

    /// Sleeps until the loop is woken again, and turns.
    fn sleep(&self, seen: &mut u32) {
        while self.woken.load(Ordering::SeqCst) == *seen {
            thread::yield_now();
        }
        *seen = self.woken.load(Ordering::SeqCst);
        self.turn();
    }
}

/// A future that waits until both flags are set, and leaves its waker here.
fn both(
    flags: &Arc<[AtomicU32; 2]>,
    left: &Rc<std::cell::RefCell<Option<Waker>>>,
) -> impl Future<Output = ()> + use<> {
    let (flags, left) = (Arc::clone(flags), Rc::clone(left));
    std::future::poll_fn(move |cx| {
        left.borrow_mut().get_or_insert_with(|| cx.waker().clone());
        // Relaxed: only the waking makes them visible.
        match flags.iter().all(|flag| flag.load(Ordering::Relaxed) == 1) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    })
}

fn flags() -> Arc<[AtomicU32; 2]> {
    Arc::new([AtomicU32::new(0), AtomicU32::new(0)])
}

fn set_and_wake(flags: &Arc<[AtomicU32; 2]>, n: usize, waker: Waker) -> thread::JoinHandle<()> {
    let flags = Arc::clone(flags);
    thread::spawn(move || {
        flags[n].store(1, Ordering::Relaxed);
        waker.wake();
    })
}

#[test]
fn each_wake_of_two_threads_is_followed_by_a_poll_that_sees_what_was_written() {
    check(|| {
        let (home, flags, left) = (Home::new(), flags(), Rc::default());
        let (task, _) = home.spawn(both(&flags, &left));
        let waker = left.borrow_mut().take().unwrap();
        let threads = [set_and_wake(&flags, 0, waker.clone()), set_and_wake(&flags, 1, waker)];
        let mut seen = 0;
        while !Join::<()>::is_finished(&*task) {
            home.sleep(&mut seen);
        }
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        home.turn();
    });
}

/// The home thread wakes the task, too, and others may find it on the queue already.
#[test]
fn wakes_from_both_sides_are_not_lost() {
    check(|| {
        let (home, flags, left) = (Home::new(), flags(), Rc::default());
        let (task, _) = home.spawn(both(&flags, &left));
        let waker = left.borrow_mut().take().unwrap();
        let thread = set_and_wake(&flags, 0, waker.clone());
        flags[1].store(1, Ordering::Relaxed);
        waker.wake();
        home.turn();
        let mut seen = 0;
        while !Join::<()>::is_finished(&*task) {
            home.sleep(&mut seen);
        }
        thread.join().unwrap();
        home.turn();
    });
}

/// An abort meets a wake: the task ends once, and the next one in its place is not disturbed.
#[test]
fn an_abort_meets_a_wake() {
    check(|| {
        let (home, flags, left) = (Home::new(), flags(), Rc::default());
        let (task, ticket) = home.spawn(both(&flags, &left));
        let thread = set_and_wake(&flags, 0, left.borrow_mut().take().unwrap());
        Join::<()>::request_abort(&*task);
        home.tasks.wake(ticket);
        home.turn();
        let result: Poll<Result<(), JoinError>> = task.poll_join(Waker::noop());
        assert!(matches!(result, Poll::Ready(Err(error)) if error.is_aborted()));
        let polls = Rc::new(std::cell::Cell::new(0));
        let count = Rc::clone(&polls);
        let _next = home.spawn(std::future::poll_fn(move |_| -> Poll<()> {
            count.set(count.get() + 1);
            Poll::Pending
        }));
        thread.join().unwrap();
        home.turn();
        assert_eq!(polls.get(), 1, "the waker of the task before does not wake it");
    });
}

/// The context is dropped while a thread wakes a task. Loom fails the model if a node is leaked.
#[test]
fn a_wake_meets_the_end_of_the_context() {
    check(|| {
        let (home, flags, left) = (Home::new(), flags(), Rc::default());
        let (task, _) = home.spawn(both(&flags, &left));
        let thread = set_and_wake(&flags, 0, left.borrow_mut().take().unwrap());
        home.tasks.close().iter().for_each(|task| task.cancel());
        assert!(Join::<()>::is_finished(&*task));
        drop((task, home));
        thread.join().unwrap();
    });
}

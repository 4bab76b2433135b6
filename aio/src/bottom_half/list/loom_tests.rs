//! Loom models of the bottom-half list. Run with
//!
//! ```text
//! RUSTFLAGS="--cfg loom" cargo test -p aio-context --release --lib loom
//! ```
//!
//! Loom tracks the references to each node, and fails a model in which one is leaked or freed
//! twice.

use super::{Due, List, Node};
use crate::request::{Request, Target, Wanted};
use crate::sync::{Arc, Ordering};
use loom::cell::UnsafeCell;
use loom::sync::atomic::AtomicBool;
use loom::thread::{self, JoinHandle};
use std::cell::{Cell, RefCell};

/// Flags that the scheduling threads write for the callback, with relaxed stores. Only the
/// scheduling can make them visible to the callback.
type Written = [AtomicBool; 2];
type Half = Arc<Node<Written>>;

fn half() -> Half {
    Arc::new(Node::new([AtomicBool::new(false), AtomicBool::new(false)]))
}

/// The home thread's side, the same as `BottomHalves::run`.
#[derive(Default)]
struct Home {
    runs: Cell<usize>,
    runs_now: Cell<usize>,
    /// Which flags the callbacks have seen.
    seen: [Cell<bool>; 2],
    queue: RefCell<Vec<Half>>,
}

impl Home {
    fn run(&self, list: &List<Written>) {
        list.take(|node| self.queue.borrow_mut().push(node));
        for node in self.queue.take() {
            let due = node.dequeue();
            if due != Due::Cancelled {
                self.callback(&node, due);
            }
        }
    }

    fn callback(&self, node: &Node<Written>, due: Due) {
        self.runs.set(self.runs.get() + 1);
        self.runs_now.set(self.runs_now.get() + usize::from(due == Due::Now));
        for (seen, written) in self.seen.iter().zip(&node.value) {
            seen.set(seen.get() | written.load(Ordering::Relaxed));
        }
    }

    fn seen(&self) -> [bool; 2] {
        self.seen.each_ref().map(Cell::get)
    }
}

/// A thread that acts on a bottom half.
fn act(
    list: &Arc<List<Written>>,
    half: &Half,
    action: impl FnOnce(&Half, &List<Written>) + Send + 'static,
) -> JoinHandle<()> {
    let (list, half) = (Arc::clone(list), Arc::clone(half));
    thread::spawn(move || action(&half, &list))
}

/// Writes for the callback as thread `who` and schedules it.
fn write_and_schedule(who: usize) -> impl FnOnce(&Half, &List<Written>) {
    move |half, list| {
        half.value[who].store(true, Ordering::Relaxed);
        Node::schedule(half, list);
    }
}

/// The home thread runs turns while the other threads act, and once more after they have finished.
fn run_all<const N: usize>(home: &Home, list: &List<Written>, threads: [JoinHandle<()>; N]) {
    home.run(list);
    threads.into_iter().for_each(|t| t.join().unwrap());
    home.run(list);
    let runs = home.runs.get();
    home.run(list);
    assert_eq!(home.runs.get(), runs, "nothing must be left to run");
}

/// Checks all schedules with at most three preemptions; LOOM_MAX_PREEMPTIONS overrides this.
fn check(model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(Some(3));
    builder.check(model);
}

#[test]
fn one_schedule_is_one_run_which_sees_what_was_written_before() {
    check(|| {
        let list = Arc::new(List::new());
        let node = Arc::new(Node::new(UnsafeCell::new(0)));
        let scheduler = {
            let (list, node) = (Arc::clone(&list), Arc::clone(&node));
            thread::spawn(move || {
                // SAFETY: loom checks that there is no concurrent access.
                node.value.with_mut(|value| unsafe { *value = 7 });
                Node::schedule(&node, &list);
            })
        };
        let mut runs = 0;
        let mut run = || {
            list.take(|node| {
                assert_eq!(node.dequeue(), Due::Now);
                // SAFETY: as above.
                assert_eq!(node.value.with(|value| unsafe { *value }), 7);
                runs += 1;
            });
        };
        run();
        scheduler.join().unwrap();
        run();
        run();
        assert_eq!(runs, 1);
    });
}

#[test]
fn each_schedule_of_two_threads_is_followed_by_a_run() {
    check(|| {
        let (home, list, half) = (Home::default(), Arc::new(List::new()), half());
        let threads = [0, 1].map(|who| act(&list, &half, write_and_schedule(who)));
        run_all(&home, &list, threads);
        assert_eq!(home.seen(), [true, true], "a run must see what was written before the schedule");
        assert!(home.runs.get() <= 2, "ran twice for one schedule");
    });
}

#[test]
fn schedules_before_a_turn_are_one_run() {
    check(|| {
        let (home, list, half) = (Home::default(), Arc::new(List::new()), half());
        let threads = [0, 1].map(|who| act(&list, &half, write_and_schedule(who)));
        threads.into_iter().for_each(|t| t.join().unwrap());
        run_all(&home, &list, []);
        assert_eq!((home.runs.get(), home.seen()), (1, [true, true]));
    });
}

#[test]
fn different_bottom_halves_run_once_each() {
    check(|| {
        let (home, list, halves) = (Home::default(), Arc::new(List::new()), [half(), half()]);
        let threads = [0, 1].map(|who| act(&list, &halves[who], write_and_schedule(who)));
        run_all(&home, &list, threads);
        assert_eq!((home.runs.get(), home.seen()), (2, [true, true]));
    });
}

/// Two nodes are at the head of the stack; a third is pushed while the home thread takes and
/// examines them.
#[test]
fn a_push_does_not_lose_its_neighbours() {
    check(|| {
        let (home, list) = (Home::default(), Arc::new(List::new()));
        let (a, b) = (half(), half());
        let threads = [
            act(&list, &a, |half, list| {
                Node::schedule(half, list);
                Node::schedule(half, list);
            }),
            act(&list, &b, write_and_schedule(1)),
        ];
        // Walks the list while others push.
        let due = list.peek();
        assert!(due == Due::Now || due == Due::Cancelled);
        run_all(&home, &list, threads);
        assert!((2..=3).contains(&home.runs.get()), "{} runs", home.runs.get());
        assert!(home.seen()[1]);
    });
}

#[test]
fn a_bottom_half_can_be_scheduled_while_it_runs() {
    check(|| {
        let (home, list, half) = (Home::default(), Arc::new(List::new()), half());
        Node::schedule(&half, &list);
        let thread = act(&list, &half, write_and_schedule(0));
        // Its callback also schedules it.
        home.run(&list);
        Node::schedule(&half, &list);
        run_all(&home, &list, [thread]);
        assert!(home.seen()[0]);
        assert!((2..=3).contains(&home.runs.get()), "{} runs", home.runs.get());
    });
}

#[test]
fn a_cancelled_schedule_does_not_run_and_the_next_one_does() {
    check(|| {
        let (home, list, half) = (Home::default(), Arc::new(List::new()), half());
        let threads = [act(&list, &half, write_and_schedule(0)), act(&list, &half, |half, _| half.cancel())];
        run_all(&home, &list, threads);
        let runs = home.runs.get();
        assert!(runs <= 1);
        write_and_schedule(1)(&half, &list);
        run_all(&home, &list, []);
        assert_eq!((home.runs.get(), home.seen()[1]), (runs + 1, true));
        Node::schedule(&half, &list);
        half.cancel();
        run_all(&home, &list, []);
        assert_eq!(home.runs.get(), runs + 1, "cancelled in time");
    });
}

#[test]
fn a_schedule_after_a_cancel_runs_whatever_the_home_thread_does_meanwhile() {
    check(|| {
        let (home, list, half) = (Home::default(), Arc::new(List::new()), half());
        Node::schedule(&half, &list);
        let thread = act(&list, &half, |half, list| {
            half.cancel();
            write_and_schedule(0)(half, list);
        });
        run_all(&home, &list, [thread]);
        assert!(home.seen()[0]);
        assert!(home.runs.get() <= 2);
    });
}

#[test]
fn a_schedule_is_not_made_idle_by_an_idle_one() {
    check(|| {
        let (home, list, half) = (Home::default(), Arc::new(List::new()), half());
        let threads = [
            act(&list, &half, |half, list| {
                half.value[0].store(true, Ordering::Relaxed);
                Node::schedule_idle(half, list);
            }),
            act(&list, &half, write_and_schedule(1)),
        ];
        run_all(&home, &list, threads);
        assert_eq!(home.runs_now.get(), 1);
        assert_eq!(home.seen(), [true, true]);
        assert!(home.runs.get() <= 2);
    });
}

#[test]
fn the_last_request_is_carried_out_and_none_twice() {
    check(|| {
        let list = Arc::new(List::new());
        let request = Request::new(Target { slot: 0, version: 1 });
        let node = Arc::new(Node::new(request));
        let thread = {
            let (list, node) = (Arc::clone(&list), Arc::clone(&node));
            thread::spawn(move || {
                for at_ns in [1, 2] {
                    node.value.make(Wanted::Armed { at_ns });
                    Node::schedule(&node, &list);
                }
            })
        };
        let mut taken = Vec::new();
        let mut run = || {
            list.take(|node| {
                if node.dequeue() == Due::Now
                    && let Some(wanted) = node.value.take()
                {
                    taken.push(wanted);
                }
            });
        };
        run();
        thread.join().unwrap();
        run();
        run();
        let [first, last] = [1, 2].map(|at_ns| Wanted::Armed { at_ns });
        assert!(taken == [first, last] || taken == [last], "{taken:?}");
    });
}

#[test]
fn a_list_frees_what_is_left_on_it() {
    check(|| {
        let (list, halves) = (Arc::new(List::new()), [half(), half()]);
        let threads = [0, 1].map(|who| act(&list, &halves[who], write_and_schedule(who)));
        threads.into_iter().for_each(|t| t.join().unwrap());
        // Loom fails the model if a node is leaked.
        drop((list, halves));
    });
}

#[test]
#[should_panic(expected = "Arc leaked")]
fn a_list_that_is_forgotten_leaks() {
    check(|| {
        let (list, half) = (List::new(), half());
        Node::schedule(&half, &list);
        std::mem::forget(list);
    });
}

/// The mistake: PENDING is cleared after the callback, not before it.
#[test]
#[should_panic(expected = "a run must see what was written before the schedule")]
fn dequeuing_after_the_callback_loses_a_schedule() {
    check(|| {
        let (home, list, half) = (Home::default(), Arc::new(List::new()), half());
        Node::schedule(&half, &list);
        let thread = act(&list, &half, write_and_schedule(0));
        list.take(|node| {
            home.callback(&node, node.due());
            node.dequeue();
        });
        run_all(&home, &list, [thread]);
        assert!(home.seen()[0], "a run must see what was written before the schedule");
    });
}

//! Loom models of the wake-up handshake. Run them, and those of the bottom-half list, with
//!
//! ```text
//! RUSTFLAGS="--cfg loom" cargo test -p aio-context --release --lib loom
//! ```
//!
//! Each model is a home thread that turns as `AioContext::poll` does, and producers that publish
//! their work with relaxed stores, so only the gate can make the work visible to the home thread. A
//! lost wake-up leaves the home thread sleeping forever, which loom reports as a deadlock. The
//! models with a deliberate mistake must end that way.

use super::{NOTIFIED, Sleeper, WRITTEN, WakeGate, loom_fence};
use crate::bottom_half::{Due, List, Node};
use crate::sync::Ordering;
use loom::sync::atomic::AtomicBool;
use loom::sync::{Condvar, Mutex};
use loom::thread::{self, JoinHandle};
use std::cell::Cell;
// Not loom's type, because it cannot be dropped when loom unwinds from a deadlock.
use std::sync::Arc;

/// How the loop's own eventfd is reset.
#[derive(Clone, Copy)]
enum Reset {
    /// Ready while the counter is not zero; read in the dispatch, after the look for work.
    Classic,
    /// Ready once for each write since the last report; never read.
    Edge,
}

/// A deliberate mistake in the protocol, which loses wake-ups.
#[derive(Clone, Copy, PartialEq)]
enum Mistake {
    /// The accesses on both sides of a Dekker pair may be reordered.
    NoFence,
    /// The consumer checks `notified` before it raises `notify_me`.
    LooksBeforeItSaysSo,
    /// The consumer clears `notified` after it has looked for work.
    AcceptsAfterTheLook,
    /// The producer does not write if its swap found `notified` set, because it relies on the other
    /// producer to write.
    SkipsIfSet,
    /// The same, but with a load instead of the exchange.
    SkipsIfSeenSet,
    /// The producer skips the write if it sees with a load that another one has written.
    SkipsIfSeenWritten,
    /// The producer marks its write whatever the consumer has done since (3).
    MarksAnyRound,
}

struct EventFd {
    count: Mutex<u64>,
    written: Condvar,
}

impl EventFd {
    fn new() -> Self {
        Self { count: Mutex::new(0), written: Condvar::new() }
    }

    fn write(&self) {
        *self.count.lock().unwrap() += 1;
        self.written.notify_one();
    }

    /// Waits as a monitor does. Returns true if the eventfd is ready. `reported` is the number of
    /// writes whose edges the monitor has already reported.
    fn wait(&self, reset: Reset, sleep: bool, reported: &Cell<u64>) -> bool {
        let mut count = self.count.lock().unwrap();
        let ready = |count: u64| match reset {
            Reset::Classic => count != 0,
            Reset::Edge => count != reported.get(),
        };
        while sleep && !ready(*count) {
            count = self.written.wait(count).unwrap();
        }
        let is_ready = ready(*count);
        reported.set(*count);
        is_ready
    }

    fn read(&self) {
        *self.count.lock().unwrap() = 0;
    }
}

/// State shared by all threads.
struct Loop {
    gate: WakeGate,
    eventfd: EventFd,
    reset: Reset,
    mistake: Option<Mistake>,
    /// For each producer: whether its work is published.
    work: Vec<AtomicBool>,
}

/// State of the home thread only.
#[derive(Default)]
struct Home {
    reported: Cell<u64>,
    /// The loop's own notifier is collected and not yet dispatched. A nested turn may dispatch it
    /// instead of its parent.
    ready: Cell<bool>,
    done: Cell<usize>,
    turns: Cell<usize>,
    /// The home thread may leave `notify_me` raised.
    sleeper: Option<Sleeper>,
}

impl Loop {
    fn new(reset: Reset, producers: usize, mistake: Option<Mistake>) -> Arc<Self> {
        Arc::new(Self {
            gate: WakeGate::new(),
            eventfd: EventFd::new(),
            reset,
            mistake,
            work: (0..producers).map(|_| AtomicBool::new(false)).collect(),
        })
    }

    /// As `Shared::notify` does it.
    fn notify(&self) {
        let write = || {
            self.eventfd.write();
            true
        };
        let gate = &self.gate;
        match self.mistake {
            Some(Mistake::NoFence) => {
                gate.notified.fetch_or(NOTIFIED, Ordering::AcqRel);
                if gate.notify_me.load(Ordering::Acquire) != 0 {
                    write();
                }
            }
            Some(Mistake::SkipsIfSet) => {
                let first = gate.notified.fetch_or(NOTIFIED, Ordering::SeqCst) & NOTIFIED == 0;
                loom_fence();
                if first && gate.notify_me.load(Ordering::SeqCst) != 0 {
                    write();
                }
            }
            Some(Mistake::SkipsIfSeenSet) if gate.notified.load(Ordering::SeqCst) & NOTIFIED != 0 => {}
            Some(Mistake::SkipsIfSeenWritten) if gate.notified.load(Ordering::SeqCst) & WRITTEN != 0 => {}
            Some(Mistake::MarksAnyRound) => {
                let before = gate.notified.fetch_or(NOTIFIED, Ordering::SeqCst);
                loom_fence();
                if before & WRITTEN == 0 && gate.notify_me.load(Ordering::SeqCst) != 0 {
                    write();
                    gate.notified.fetch_or(WRITTEN, Ordering::Release);
                }
            }
            _ => gate.notify(write),
        }
    }

    fn prepare(&self) -> bool {
        let gate = &self.gate;
        match self.mistake {
            Some(Mistake::NoFence) => {
                gate.notify_me.fetch_add(1, Ordering::AcqRel);
                gate.is_notified()
            }
            Some(Mistake::LooksBeforeItSaysSo) => {
                let notified = gate.is_notified();
                loom_fence();
                gate.notify_me.fetch_add(1, Ordering::SeqCst);
                notified
            }
            _ => gate.prepare(),
        }
    }

    fn produce(this: &Arc<Self>, producer: usize) -> JoinHandle<()> {
        let this = Arc::clone(this);
        thread::spawn(move || {
            this.work[producer].store(true, Ordering::Relaxed);
            this.notify();
        })
    }

    /// A producer without work that is preempted between (3) and (4), and not resumed while the
    /// model runs.
    fn stall(this: &Arc<Self>) -> JoinHandle<()> {
        let this = Arc::clone(this);
        thread::spawn(move || {
            this.gate.notified.fetch_or(NOTIFIED, Ordering::SeqCst);
        })
    }

    fn look(&self, home: &Home) {
        let done = self.work.iter().filter(|w| w.load(Ordering::Relaxed)).count();
        home.done.set(done);
    }

    /// One turn that may sleep; `callback` is called if it found work.
    fn turn(&self, home: &Home, callback: impl FnOnce()) {
        home.turns.set(home.turns.get() + 1);
        let sleep = !match &home.sleeper {
            Some(sleeper) => sleeper.prepare(&self.gate),
            None => self.prepare(),
        };
        let ready = self.eventfd.wait(self.reset, sleep, &home.reported);
        home.ready.set(home.ready.get() | ready);
        match &home.sleeper {
            Some(sleeper) => sleeper.finish(&self.gate),
            None => self.gate.finish(),
        }
        let before = home.done.get();
        if self.mistake == Some(Mistake::AcceptsAfterTheLook) {
            self.look(home);
            self.gate.accept();
        } else if let Some(sleeper) = &home.sleeper {
            sleeper.accept(&self.gate);
            self.look(home);
        } else {
            self.gate.accept();
            self.look(home);
        }
        if home.done.get() > before {
            callback();
        }
        if home.ready.take() && matches!(self.reset, Reset::Classic) {
            self.eventfd.read();
        }
    }

    /// Turns until the work of all producers is done.
    fn run(&self, home: &Home) {
        while home.done.get() < self.work.len() {
            self.turn(home, || {});
        }
    }
}

/// Checks all schedules with at most three preemptions (LOOM_MAX_PREEMPTIONS overrides this), so
/// all models together take seconds. The mistakes below need two preemptions.
fn check(model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(Some(3));
    builder.check(model);
}

fn every_producer_is_heard(reset: Reset, producers: usize, mistake: Option<Mistake>) {
    check(move || {
        let event_loop = Loop::new(reset, producers, mistake);
        let threads: Vec<_> = (0..producers).map(|p| Loop::produce(&event_loop, p)).collect();
        let home = Home::default();
        event_loop.run(&home);
        // One producer causes at most three turns: for its work, for `notified`, and for the
        // eventfd.
        assert!(home.turns.get() <= 3 * producers, "more turns than the producers can cause");
        threads.into_iter().for_each(|t| t.join().unwrap());
    });
}

#[test]
fn one_producer_is_heard() {
    every_producer_is_heard(Reset::Classic, 1, None);
    every_producer_is_heard(Reset::Edge, 1, None);
}

#[test]
fn two_producers_are_heard_by_a_loop_that_reads() {
    every_producer_is_heard(Reset::Classic, 2, None);
}

#[test]
fn two_producers_are_heard_by_a_loop_that_never_reads() {
    every_producer_is_heard(Reset::Edge, 2, None);
}

/// The loop leaves `notify_me` raised, either from before the first producer or from its first
/// sleep on, and lowers it when a producer has notified. (In these models it leaves it raised
/// immediately, not after some quiet turns.)
#[test]
fn producers_are_heard_by_a_loop_that_leaves_the_gate_up() {
    for (reset, up_before) in
        [(Reset::Classic, false), (Reset::Edge, false), (Reset::Classic, true), (Reset::Edge, true)]
    {
        check(move || {
            let event_loop = Loop::new(reset, 2, None);
            let sleeper = Sleeper::default();
            if up_before {
                assert!(!sleeper.prepare(&event_loop.gate));
                sleeper.finish(&event_loop.gate);
            }
            let threads: Vec<_> = (0..2).map(|p| Loop::produce(&event_loop, p)).collect();
            let home = Home { sleeper: Some(sleeper), ..Home::default() };
            event_loop.run(&home);
            threads.into_iter().for_each(|t| t.join().unwrap());
        });
    }
}

/// A callback runs nested turns until it also has the other producer's work. A nested turn takes
/// over what its parent has collected.
#[test]
fn a_nested_poll_hears_what_comes_after_its_parent_slept() {
    check(|| {
        let event_loop = Loop::new(Reset::Classic, 2, None);
        let threads = [0, 1].map(|p| Loop::produce(&event_loop, p));
        let home = Home::default();
        event_loop.turn(&home, || event_loop.run(&home));
        // The first turn may have been woken early; later turns handle what is left.
        event_loop.run(&home);
        threads.into_iter().for_each(|t| t.join().unwrap());
    });
}

/// `notify_me` is a counter, for a consumer that prepares again between prepare and finish.
#[test]
fn producers_write_until_the_outermost_wait_is_over() {
    check(|| {
        let event_loop = Loop::new(Reset::Edge, 1, None);
        assert!(!event_loop.gate.prepare());
        assert!(!event_loop.gate.prepare());
        event_loop.gate.finish();
        let producer = Loop::produce(&event_loop, 0);
        // Sleeps forever unless the producer writes.
        assert!(event_loop.eventfd.wait(Reset::Edge, true, &Cell::new(0)));
        event_loop.gate.finish();
        producer.join().unwrap();
        let written = *event_loop.eventfd.count.lock().unwrap();
        event_loop.notify();
        assert_eq!(*event_loop.eventfd.count.lock().unwrap(), written, "nobody sleeps");
    });
}

#[test]
fn a_busy_polling_loop_is_not_written_to() {
    check(|| {
        let event_loop = Loop::new(Reset::Edge, 1, None);
        let producer = Loop::produce(&event_loop, 0);
        while !event_loop.gate.is_notified() {
            thread::yield_now();
        }
        assert!(event_loop.gate.accept());
        assert!(!event_loop.gate.accept(), "taken once");
        let home = Home::default();
        event_loop.look(&home);
        assert_eq!(home.done.get(), 1, "work published before `notified` must be visible");
        producer.join().unwrap();
        assert_eq!(*event_loop.eventfd.count.lock().unwrap(), 0);
    });
}

/// Until the loop looks for work, one write is enough.
#[test]
fn a_loop_that_was_written_to_is_not_written_to_again() {
    check(|| {
        let event_loop = Loop::new(Reset::Classic, 0, None);
        let written = || *event_loop.eventfd.count.lock().unwrap();
        for round in 1..=2 {
            assert!(!event_loop.gate.prepare());
            (0..3).for_each(|_| event_loop.notify());
            assert_eq!(written(), round);
            event_loop.gate.finish();
            event_loop.notify();
            assert!(event_loop.gate.accept());
            assert_eq!(written(), round);
        }
    });
}

/// No producer depends on another that has not written: it wakes the loop even if an earlier one
/// was preempted after setting `notified`.
fn a_stalled_producer_stops_nobody(mistake: Option<Mistake>) {
    check(move || {
        let event_loop = Loop::new(Reset::Edge, 1, mistake);
        let threads = [Loop::stall(&event_loop), Loop::produce(&event_loop, 0)];
        event_loop.run(&Home::default());
        threads.into_iter().for_each(|t| t.join().unwrap());
    });
}

#[test]
fn a_producer_is_heard_although_another_one_stalls() {
    a_stalled_producer_stops_nobody(None);
}

/// The promela model's BUG2. With this gate's swap it loses nothing as long as all producers keep
/// running, but a producer that skips the write depends on another thread for its wake-up.
#[test]
#[should_panic(expected = "deadlock")]
fn skipping_the_write_when_notified_was_set_depends_on_another_producer() {
    a_stalled_producer_stops_nobody(Some(Mistake::SkipsIfSet));
}

#[test]
#[should_panic(expected = "deadlock")]
fn skipping_the_write_when_notified_is_seen_set_loses_a_wake_up() {
    every_producer_is_heard(Reset::Edge, 2, Some(Mistake::SkipsIfSeenSet));
}

#[test]
#[should_panic(expected = "deadlock")]
fn skipping_the_write_when_a_write_is_seen_loses_a_wake_up() {
    every_producer_is_heard(Reset::Edge, 2, Some(Mistake::SkipsIfSeenWritten));
}

#[test]
#[should_panic(expected = "deadlock")]
fn marking_a_write_in_a_later_round_loses_a_wake_up() {
    every_producer_is_heard(Reset::Edge, 2, Some(Mistake::MarksAnyRound));
}

#[test]
#[should_panic(expected = "deadlock")]
fn without_the_fences_a_wake_up_is_lost() {
    every_producer_is_heard(Reset::Edge, 1, Some(Mistake::NoFence));
}

#[test]
#[should_panic(expected = "deadlock")]
fn looking_at_notified_too_early_loses_a_wake_up() {
    every_producer_is_heard(Reset::Edge, 1, Some(Mistake::LooksBeforeItSaysSo));
}

#[test]
#[should_panic(expected = "deadlock")]
fn accepting_after_the_look_loses_a_wake_up() {
    every_producer_is_heard(Reset::Edge, 2, Some(Mistake::AcceptsAfterTheLook));
}

/// The gate and the list of bottom halves together, as `Shared` and `AioContext::poll` use them.
#[test]
fn a_bottom_half_scheduled_by_another_thread_ends_the_sleep() {
    check(|| {
        let event_loop = Loop::new(Reset::Classic, 0, None);
        let list = Arc::new(List::new());
        let nodes = [(); 2].map(|()| crate::sync::Arc::new(Node::new(())));
        let threads = nodes.clone().map(|node| {
            let (event_loop, list) = (Arc::clone(&event_loop), Arc::clone(&list));
            thread::spawn(move || {
                Node::schedule(&node, &list);
                event_loop.notify();
            })
        });
        let home = Home::default();
        let ran = Cell::new(0);
        while ran.get() < nodes.len() {
            // `Inner::timeout` looks before `prepare` does.
            if list.peek() == Due::Cancelled {
                event_loop.turn(&home, || {});
            } else {
                event_loop.gate.accept();
            }
            list.take(|node| ran.set(ran.get() + usize::from(node.dequeue() == Due::Now)));
        }
        threads.into_iter().for_each(|t| t.join().unwrap());
    });
}

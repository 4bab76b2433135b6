//! A context in a GLib main context: nothing is lost, nothing polls, and GLib's own sources run.
//! Each test runs with every monitor that the kernel has.

use aio::{AioContext, EventNotifier, MonitorKind, Reset};
use aio_glib::{Attached, attach};
use glib::thread_guard::ThreadGuard;
use glib::{ControlFlow, MainContext, Priority};
use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

type Count = Rc<Cell<u64>>;

fn bump(count: &Count) {
    count.set(count.get() + 1);
}

/// One context in one main context of its own.
struct Loop {
    main: MainContext,
    context: Rc<AioContext>,
    attached: Option<Attached>,
}

impl Loop {
    fn attach(&mut self, priority: Priority) -> io::Result<()> {
        self.attached = Some(attach(&self.context, priority, |error| panic!("{error}"))?);
        Ok(())
    }

    /// Iterates until `done`, and returns how often. Blocks in each iteration, so the test hangs
    /// if an event is lost.
    fn until(&self, mut done: impl FnMut() -> bool) -> u64 {
        let mut iterations = 0;
        while !done() {
            self.main.iteration(true);
            iterations += 1;
            assert!(iterations < 100_000, "the loop spins");
        }
        iterations
    }

    /// Leaves nothing due of what the start was about.
    fn settle(&self) {
        for _ in 0..20 {
            self.main.iteration(false);
        }
    }
}

fn on_every_monitor(priority: Priority, test: impl Fn(&mut Loop)) {
    for kind in MonitorKind::ALL {
        let context = match AioContext::builder().embeddable().monitor(kind).build() {
            Ok(context) => Rc::new(context),
            Err(error) => {
                println!("skipped on {kind}: {error}");
                continue;
            }
        };
        let main = MainContext::new();
        main.clone()
            .with_thread_default(|| {
                let mut here = Loop { main, context, attached: None };
                here.attach(priority).unwrap();
                here.settle();
                test(&mut here);
            })
            .unwrap();
    }
}

/// A time-out of the thread's default main context, which that of `timeout_add_local` is not; 0 ms
/// is an idle function.
fn every(ms: u64, priority: Priority, callback: impl FnMut() -> ControlFlow + 'static) -> glib::Source {
    let mut callback = ThreadGuard::new(callback);
    let source = if ms == 0 {
        glib::idle_source_new(None, priority, move || callback.get_mut()())
    } else {
        glib::timeout_source_new(Duration::from_millis(ms), None, priority, move || callback.get_mut()())
    };
    source.attach(Some(&MainContext::ref_thread_default()));
    source
}

/// Rings a doorbell `kicks` times, each time after the last answer.
fn guest(kick: EventNotifier, kicks: u64, answered: mpsc::Receiver<()>) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        for _ in 0..kicks {
            kick.notify().unwrap();
            answered.recv().unwrap();
        }
    })
}

#[test]
fn each_doorbell_is_served_and_costs_what_the_monitor_costs() {
    const KICKS: u64 = 500;
    on_every_monitor(Priority::DEFAULT, |here| {
        let (answer, answered) = mpsc::channel();
        let (kick, seen) = (EventNotifier::new(Reset::Autoreset).unwrap(), Count::default());
        let count = Rc::clone(&seen);
        let _bell = here
            .context
            .add_notifier(&kick, move |_| {
                bump(&count);
                answer.send(()).unwrap();
            })
            .unwrap();
        here.settle();
        let before = here.context.stats();
        let guest = guest(kick, KICKS, answered);
        let iterations = here.until(|| seen.get() == KICKS);
        guest.join().unwrap();
        let stats = here.context.stats() - before;
        let kind = here.context.monitor().kind;
        println!(
            "{kind}: {KICKS} kicks, {iterations} iterations, {} system calls: {stats:?}",
            stats.syscalls()
        );
        assert_eq!(stats.notifier_dispatches, KICKS);
        // On a ring, the signal of a completion may interrupt poll(2) first.
        assert!(iterations <= 2 * KICKS + 10, "{kind}: {iterations} iterations");
        // Inside an outer loop, the monitor poll resets a notifier by read(2).
        let most = match kind {
            MonitorKind::Poll => 2 * KICKS,
            MonitorKind::Epoll => KICKS,
            _ => 0,
        };
        assert!(stats.syscalls() <= most + 10, "{kind}: {} system calls", stats.syscalls());
    });
}

#[test]
fn an_idle_context_neither_iterates_nor_makes_system_calls() {
    on_every_monitor(Priority::DEFAULT, |here| {
        let kick = EventNotifier::new(Reset::Autoreset).unwrap();
        let _bell = here.context.add_notifier(&kick, |_| ()).unwrap();
        here.settle();
        let (before, ticks) = (here.context.stats(), Count::default());
        let count = Rc::clone(&ticks);
        every(20, Priority::DEFAULT, move || {
            bump(&count);
            if count.get() == 5 { ControlFlow::Break } else { ControlFlow::Continue }
        });
        let iterations = here.until(|| ticks.get() == 5);
        let stats = here.context.stats() - before;
        // One for each tick of GLib's.
        assert!(iterations <= 6, "{iterations} iterations");
        assert_eq!((stats.turns, stats.syscalls()), (0, 0), "{}: {stats:?}", here.context.monitor().kind);
    });
}

#[test]
fn a_timer_is_not_early_and_nothing_spins_before_it() {
    on_every_monitor(Priority::DEFAULT, |here| {
        let fired = Count::default();
        let count = Rc::clone(&fired);
        let timer = here.context.timer(move |_| bump(&count));
        for round in 1..=5 {
            let start = Instant::now();
            timer.arm_after(Duration::from_micros(3_300));
            let iterations = here.until(|| fired.get() == round);
            assert!(start.elapsed() >= Duration::from_micros(3_300));
            // To arm it may wake the loop once.
            assert!(iterations <= 3, "{iterations} iterations");
        }
    });
}

#[test]
fn other_threads_wake_the_main_loop() {
    on_every_monitor(Priority::DEFAULT, |here| {
        const ROUNDS: u64 = 100;
        let (answer, answered) = mpsc::channel();
        let halves = Count::default();
        let count = Rc::clone(&halves);
        let half = here.context.bottom_half(move |_| {
            bump(&count);
            answer.send(()).unwrap();
        });
        let schedule = half.handle();
        let other = std::thread::spawn(move || {
            for _ in 0..ROUNDS {
                schedule.schedule();
                answered.recv().unwrap();
            }
        });
        let iterations = here.until(|| halves.get() == ROUNDS);
        other.join().unwrap();
        assert!(iterations <= 2 * ROUNDS + 10, "{iterations} iterations");
    });
}

#[test]
fn what_sources_of_glib_add_is_not_slept_over() {
    on_every_monitor(Priority::DEFAULT, |here| {
        for priority in [Priority::HIGH, Priority::DEFAULT, Priority::LOW] {
            let (context, ran) = (Rc::clone(&here.context), Count::default());
            let count = Rc::clone(&ran);
            every(1, priority, move || {
                let count = Rc::clone(&count);
                // A timer, armed by a bottom half that a source of GLib schedules.
                context.defer(move |context| {
                    let timer = Rc::new(RefCell::new(None));
                    let owned = Rc::clone(&timer);
                    let armed = context.timer(move |_| {
                        bump(&count);
                        drop(owned.take());
                    });
                    armed.arm_after(Duration::from_millis(1));
                    *timer.borrow_mut() = Some(armed);
                });
                ControlFlow::Break
            });
            here.until(|| ran.get() == 1);
        }
    });
}

/// Schedules itself, so the context always has something to do.
fn busy(context: &Rc<AioContext>) -> (aio::BottomHalf, Count) {
    let (slot, runs) = (Rc::new(RefCell::new(None::<aio::BottomHalfHandle>)), Count::default());
    let (again, count) = (Rc::clone(&slot), Rc::clone(&runs));
    let half = context.bottom_half(move |_| {
        bump(&count);
        if let Some(again) = &*again.borrow() {
            again.schedule();
        }
    });
    *slot.borrow_mut() = Some(half.handle());
    half.schedule();
    (half, runs)
}

fn counted_idle(priority: Priority) -> (glib::Source, Count) {
    let runs = Count::default();
    let count = Rc::clone(&runs);
    let id = every(0, priority, move || {
        bump(&count);
        ControlFlow::Continue
    });
    (id, runs)
}

#[test]
fn a_busy_context_takes_turns_with_sources_of_its_priority() {
    on_every_monitor(Priority::DEFAULT, |here| {
        let (_half, halves) = busy(&here.context);
        let (idle, runs) = counted_idle(Priority::DEFAULT);
        // Its descriptors, too, are served in each turn.
        let (kick, rung) = (EventNotifier::new(Reset::Autoreset).unwrap(), Count::default());
        let count = Rc::clone(&rung);
        let _bell = here.context.add_notifier(&kick, move |_| bump(&count)).unwrap();
        for _ in 0..100 {
            kick.notify().unwrap();
            here.main.iteration(true);
        }
        idle.destroy();
        assert!(runs.get() >= 99 && halves.get() >= 98, "{} and {}", runs.get(), halves.get());
        here.until(|| rung.get() >= 90);
    });
}

#[test]
fn sources_of_higher_priority_run_first_and_those_of_lower_in_the_gaps() {
    on_every_monitor(Priority::DEFAULT, |here| {
        // A source of lower priority answers the guest, so a kick is served while one is idle.
        const KICKS: u64 = 100;
        let (answer, answered) = mpsc::channel();
        let (kick, seen) = (EventNotifier::new(Reset::Autoreset).unwrap(), Count::default());
        let count = Rc::clone(&seen);
        let _bell = here
            .context
            .add_notifier(&kick, move |_| {
                bump(&count);
                let answer = answer.clone();
                every(0, Priority::LOW, move || {
                    answer.send(()).unwrap();
                    ControlFlow::Break
                });
            })
            .unwrap();
        let guest = guest(kick, KICKS, answered);
        here.until(|| seen.get() == KICKS);
        here.until(|| guest.is_finished() || !here.main.pending());
        here.settle();
        guest.join().unwrap();

        // A source of higher priority holds the context up, and then nothing of it is lost.
        let (half, halves) = busy(&here.context);
        let (idle, runs) = counted_idle(Priority::HIGH);
        for _ in 0..50 {
            here.main.iteration(true);
        }
        assert_eq!((runs.get(), halves.get()), (50, 0));
        idle.destroy();
        here.until(|| halves.get() == 3);

        // At a lower priority, the context itself leaves room for an idle function.
        drop(half);
        here.attached = None;
        here.attach(Priority::LOW).unwrap();
        let (_half, halves) = busy(&here.context);
        let (idle, runs) = counted_idle(Priority::LOW);
        here.until(|| halves.get() >= 20);
        idle.destroy();
        assert!(runs.get() >= 19, "{}", runs.get());
    });
}

#[test]
fn a_nested_main_loop_serves_the_context() {
    on_every_monitor(Priority::DEFAULT, |here| {
        let (kick, rung) = (EventNotifier::new(Reset::Autoreset).unwrap(), Count::default());
        let count = Rc::clone(&rung);
        let _bell = here.context.add_notifier(&kick, move |_| bump(&count)).unwrap();
        let (main, inner, done) = (here.main.clone(), Rc::clone(&rung), Count::default());
        let count = Rc::clone(&done);
        here.context.defer(move |_| {
            kick.notify().unwrap();
            while inner.get() == 0 {
                main.iteration(true);
            }
            bump(&count);
        });
        here.until(|| done.get() == 1);
        assert_eq!(rung.get(), 1);
    });
}

#[test]
fn a_callback_takes_the_context_out_and_it_goes_in_again() {
    on_every_monitor(Priority::DEFAULT, |here| {
        let again = attach(&here.context, Priority::DEFAULT, |_| ()).unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::ResourceBusy);

        let (slot, ran) = (Rc::new(Cell::new(here.attached.take())), Count::default());
        let count = Rc::clone(&ran);
        here.context.defer(move |_| {
            drop(slot.take());
            bump(&count);
        });
        here.until(|| ran.get() == 1);

        let count = Rc::clone(&ran);
        here.context.defer(move |_| bump(&count));
        here.settle();
        assert_eq!(ran.get(), 1, "nobody turns it");
        here.attach(Priority::DEFAULT).unwrap();
        here.until(|| ran.get() == 2);
    });
}

#[test]
fn a_context_that_is_not_embeddable_is_refused() {
    let context = Rc::new(AioContext::new().unwrap());
    let error = attach(&context, Priority::DEFAULT, |_| ()).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
}

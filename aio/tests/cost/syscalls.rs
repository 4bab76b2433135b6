//! System calls by kind, as the loop counts them. Calls of the test itself, mainly the rings of the
//! doorbell, are not included.

use crate::{doorbells, monitors};
use aio::io_uring::opcode;
use aio::{
    AioContext, BusyPolled, BusyPolling, EventNotifier, Interest, Method, MonitorKind, Reset, RingSetup,
    Stats,
};
use std::cell::Cell;
use std::io::Write;
use std::rc::Rc;
use std::time::Duration;

const N: u64 = 100;

/// What the loop counted during `work`.
fn during(ctx: &AioContext, work: impl FnOnce()) -> Stats {
    let before = ctx.stats();
    work();
    ctx.stats() - before
}

/// The calls that sleep, whichever the monitor makes.
fn waits(stats: Stats) -> u64 {
    stats.syscalls_wait + stats.syscalls_enter
}

#[test]
fn a_doorbell_costs_one_wait_and_classic_one_read_more() {
    for bell in doorbells() {
        bell.turn(); // What was queued when it was registered.
        let stats = during(&bell.ctx, || (0..N).for_each(|_| bell.turn()));
        let name = format!("{} with {}", bell.kind, bell.method);
        assert_eq!(bell.handled.get(), N + 1, "{name}");
        let enter = bell.kind == MonitorKind::IoUring;
        let calls = (stats.syscalls_wait, stats.syscalls_enter, stats.syscalls_read, stats.syscalls());
        let expected = match (enter, bell.method == Method::Read) {
            (false, true) => (N, 0, N, 2 * N),
            (false, false) => (N, 0, 0, N),
            (true, true) => (0, N, N, 2 * N),
            (true, false) => (0, N, 0, N),
        };
        assert_eq!(calls, expected, "{name}: wait, enter, read, all");
        assert_eq!((stats.spurious, stats.stale), (0, 0), "{name}");
    }
}

#[test]
fn older_ring_set_ups_cost_no_more_than_one_enter() {
    for setup in [RingSetup::CoopTaskrun, RingSetup::Plain] {
        let builder = AioContext::builder().monitor(MonitorKind::IoUring).ring_setup(setup);
        if let Err(e) = builder.clone().build() {
            println!("skipped: {setup:?}: {e}");
            continue;
        }
        for method in [Method::Edge, Method::RingRead] {
            let bell = crate::Doorbell::new(MonitorKind::IoUring, builder.clone(), method).unwrap();
            bell.turn();
            let stats = during(&bell.ctx, || (0..N).for_each(|_| bell.turn()));
            assert_eq!(bell.handled.get(), N + 1, "{setup:?} with {method}");
            // Completions that the kernel has put into memory already are found there.
            assert!(stats.syscalls_enter <= N, "{setup:?} with {method}: {stats:?}");
            assert_eq!(stats.syscalls(), stats.syscalls_enter, "{setup:?} with {method}");
        }
    }
}

#[derive(Default)]
struct Queue {
    filled: Cell<bool>,
    processed: Cell<u64>,
}

impl BusyPolled for Queue {
    fn process(&self, _: &AioContext) {
        self.processed.set(self.processed.get() + u64::from(self.filled.replace(false)));
    }

    fn is_ready(&self) -> bool {
        self.filled.get()
    }
}

#[test]
fn a_busy_polled_doorbell_costs_nothing() {
    for (kind, builder) in monitors() {
        for method in Method::ALL {
            // So wide that no stall of the machine closes the window.
            let policy = BusyPolling::up_to_ns(60_000_000_000);
            let reset = Reset::AutoresetBy(method);
            let builder = builder.clone().reset(reset).busy_polling(policy);
            // What does not fit is said by `doorbells`.
            let Ok(ctx) = builder.build() else { continue };
            let kick = EventNotifier::new(reset).unwrap();
            let queue = Rc::new(Queue::default());
            let _kick = ctx.add_polled_notifier(&kick, Rc::clone(&queue)).unwrap();
            // The first event comes through the doorbell and opens the window.
            queue.filled.set(true);
            kick.notify().unwrap();
            while queue.processed.get() == 0 {
                ctx.poll(true).unwrap();
            }
            let fill = || {
                queue.filled.set(true);
                assert!(ctx.poll(true).unwrap());
            };
            // On io_uring the first look also submits what the event has queued.
            fill();
            let stats = during(&ctx, || (0..N).for_each(|_| fill()));
            assert_eq!(queue.processed.get(), N + 2, "{kind} with {method}");
            assert_eq!((stats.syscalls(), stats.poll_hits), (0, N), "{kind} with {method}");
        }
    }
}

#[test]
fn a_look_costs_nothing_on_a_ring_that_tells_and_one_call_elsewhere() {
    for (kind, builder) in monitors() {
        for busy_polling in [BusyPolling::OFF, BusyPolling::up_to_ns(1_000)] {
            let ctx = builder.clone().busy_polling(busy_polling).build().unwrap();
            let tells = ctx.monitor().ring.is_some_and(|ring| ring.tells);
            assert_eq!(tells, kind == MonitorKind::IoUring && busy_polling != BusyPolling::OFF);
            ctx.poll(false).unwrap();
            let stats = during(&ctx, || (0..N).for_each(|_| assert!(!ctx.poll(false).unwrap())));
            assert_eq!(stats.syscalls(), if tells { 0 } else { N }, "{kind}, {busy_polling:?}");
        }
    }
}

#[test]
fn a_descriptor_is_checked_once_and_a_notifier_is_known() {
    for (kind, builder) in monitors() {
        let ctx = builder.build().unwrap();
        ctx.poll(false).unwrap();
        let ctl = u64::from(kind == MonitorKind::Epoll);
        let notifier = EventNotifier::new(Reset::Classic).unwrap();
        let bell = during(&ctx, || drop(ctx.add_notifier(&notifier, |_| ()).unwrap()));
        // epoll_ctl to add and to remove; elsewhere both ride on the next wait.
        assert_eq!((bell.syscalls_ctl, bell.syscalls()), (2 * ctl, 2 * ctl), "{kind}");
        let (_ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let fd = during(&ctx, || drop(ctx.add_borrowed_fd(&theirs, Interest::READABLE, |_, _| ()).unwrap()));
        assert_eq!((fd.syscalls_ctl, fd.syscalls()), (1 + ctl, 1 + ctl), "{kind}");
    }
}

#[test]
fn a_timer_costs_no_call_of_its_own() {
    const TIMERS: u64 = 20;
    for (kind, builder) in monitors() {
        let ctx = builder.build().unwrap();
        ctx.poll(false).unwrap();
        let ran = Rc::new(Cell::new(0));
        let count = Rc::clone(&ran);
        let timer = ctx.timer(move |_| count.set(count.get() + 1));
        let stats = during(&ctx, || {
            for _ in 0..TIMERS {
                timer.arm_after(Duration::from_millis(1));
                // The kernel may interrupt a sleep, for one when a ring that this thread had is
                // taken down.
                while !ctx.poll(true).unwrap() {}
            }
        });
        assert_eq!((ran.get(), stats.timers), (TIMERS, TIMERS), "{kind}");
        assert!(stats.turns < 2 * TIMERS, "{kind}: woken before the deadline: {stats:?}");
        assert!(waits(stats) <= stats.turns, "{kind}: {stats:?}");
        assert_eq!(stats.syscalls(), waits(stats), "{kind}");

        // Armed, moved, cancelled, a thousand at once: nothing. Expired: the turn's own look.
        let far = || ctx.timer(|_| ());
        let timers: Vec<_> = (0..1000).map(|_| far()).collect();
        let arming = during(&ctx, || {
            for timer in &timers {
                timer.arm_after(Duration::from_secs(3600));
                timer.anticipate_at(0);
            }
            timers[500..].iter().for_each(aio::Timer::cancel);
        });
        assert_eq!(arming.syscalls(), 0, "{kind}");
        let expired = during(&ctx, || assert!(ctx.poll(true).unwrap()));
        assert_eq!((expired.timers, expired.syscalls()), (500, 1), "{kind}");
    }
}

#[test]
fn bottom_halves_cost_nothing() {
    for (kind, builder) in monitors() {
        let ctx = builder.build().unwrap();
        ctx.poll(false).unwrap();
        let halves: Vec<_> = (0..1000).map(|_| ctx.bottom_half(|_| ())).collect();
        let stats = during(&ctx, || {
            halves.iter().for_each(aio::BottomHalf::schedule);
            assert!(ctx.poll(true).unwrap());
        });
        // The turn's own look, as for none.
        assert_eq!((stats.bottom_halves, stats.syscalls()), (1000, 1), "{kind}");
    }
}

#[test]
fn other_threads_write_only_to_a_loop_that_sleeps() {
    for (kind, builder) in monitors() {
        let ctx = builder.build().unwrap();
        ctx.poll(false).unwrap();
        let half = ctx.bottom_half(|_| ());
        let (scheduler, waker) = (half.handle(), ctx.handle());
        let stats = during(&ctx, || {
            std::thread::spawn(move || {
                for _ in 0..1000 {
                    scheduler.schedule();
                    waker.notify();
                }
            })
            .join()
            .unwrap();
            assert!(ctx.poll(true).unwrap());
        });
        assert_eq!((stats.syscalls_write, stats.bottom_halves), (0, 1), "{kind}");
        assert_eq!(stats.own_wakeups, 0, "{kind}");
    }
}

#[test]
fn level_descriptors_ride_on_the_wait() {
    for (kind, builder) in monitors() {
        let ctx = builder.build().unwrap();
        let (ready, mut feed) = std::io::pipe().unwrap();
        let (silent, _keep) = std::io::pipe().unwrap();
        feed.write_all(b"x").unwrap();
        let kick = EventNotifier::new(Reset::Autoreset).unwrap();
        let _kick = ctx.add_notifier(&kick, |_| ()).unwrap();
        let turns = |read_per_turn: u64, fds: u64| {
            kick.notify().unwrap();
            ctx.poll(true).unwrap();
            let stats = during(&ctx, || {
                for _ in 0..N {
                    kick.notify().unwrap();
                    assert!(ctx.poll(true).unwrap());
                }
            });
            assert_eq!(stats.notifier_dispatches, N, "{kind}");
            assert_eq!((stats.fd_dispatches, waits(stats)), (fds, N), "{kind}");
            assert_eq!(stats.syscalls(), N * (1 + read_per_turn), "{kind}");
        };
        // ppoll has no edge-triggered mode.
        let reads = u64::from(kind == MonitorKind::Poll);
        turns(reads, 0);
        let _silent = ctx.add_borrowed_fd(&silent, Interest::READABLE, |_, _| ()).unwrap();
        turns(reads, 0);
        // Never read: ready in every turn, and armed again in every turn.
        let _ready = ctx.add_borrowed_fd(&ready, Interest::READABLE, |_, _| ()).unwrap();
        turns(reads, N);
    }
}

#[test]
fn an_operation_rides_on_the_wait() {
    let Some((_, builder)) = monitors().into_iter().find(|(k, _)| *k == MonitorKind::IoUring) else {
        return;
    };
    let ctx = builder.build().unwrap();
    ctx.poll(false).unwrap();
    let done = Rc::new(Cell::new(0));
    let count = Rc::clone(&done);
    let nops = ctx.operations(move |_, _, n: u64| count.set(count.get() + n)).unwrap();
    for batch in [1, 10, 200] {
        let stats = during(&ctx, || {
            for _ in 0..batch {
                // SAFETY: a NOP points to nothing.
                unsafe { nops.submit(opcode::Nop::new().build(), 1) }.unwrap();
            }
            assert!(ctx.poll(true).unwrap());
        });
        assert_eq!((stats.completions, stats.syscalls_enter), (batch, 1));
        assert_eq!(stats.syscalls(), 1);
    }
    assert_eq!(done.get(), 211);
}

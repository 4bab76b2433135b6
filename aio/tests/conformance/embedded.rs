//! A context inside an outer loop: whatever happens between `prepare` and the sleep, nothing is
//! late, and nobody polls.

use crate::outer_loops::{Kind, OuterLoop};
use crate::polled::Polled;
use crate::setup::Setup;
use crate::support::{Count, Slot, os};
use aio::{AioContext, BusyPolling, Clock, Embedded, Interest};
use std::cell::Cell;
use std::future::poll_fn;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Poll, Waker};
use std::time::Duration;

/// Something that the home thread does between `prepare` and the sleep, and that makes a callback
/// due. The callback bumps the count. What is returned is kept until it has run.
type Addition = fn(&Setup, &AioContext, Count) -> Box<dyn std::any::Any>;

fn bump(runs: &Count) -> impl Fn(&AioContext) + 'static {
    let runs = runs.clone();
    move |_| runs.bump()
}

fn bump_ready(calls: &Count) -> impl Fn(&AioContext, aio::Readiness) + 'static {
    let calls = calls.clone();
    move |_, _| calls.bump()
}

const ADDITIONS: [(&str, Addition); 10] = [
    ("a bottom half is scheduled", |_, ctx, runs| {
        let half = ctx.bottom_half(bump(&runs));
        half.schedule();
        Box::new(half)
    }),
    ("a bottom half is scheduled through its handle", |_, ctx, runs| {
        let half = ctx.bottom_half(bump(&runs));
        half.handle().schedule();
        Box::new(half)
    }),
    ("an idle bottom half is scheduled", |_, ctx, runs| {
        let half = ctx.bottom_half(bump(&runs));
        half.schedule_idle();
        Box::new(half)
    }),
    ("a closure is deferred", |_, ctx, runs| {
        ctx.defer(bump(&runs));
        Box::new(())
    }),
    ("a closure is scheduled", |_, ctx, _| {
        let scheduled = ctx.handle().schedule(|ctx| ctx.defer(|_| ()));
        assert!(scheduled);
        Box::new(())
    }),
    ("a task is spawned", |_, ctx, runs| Box::new(ctx.spawn(async move { runs.bump() }))),
    ("a timer is armed", |_, ctx, runs| {
        let timer = ctx.timer(bump(&runs));
        timer.arm_after(Duration::from_micros(100));
        Box::new(timer)
    }),
    ("a doorbell is added that was rung", |setup, ctx, runs| {
        let notifier = setup.notifier();
        notifier.notify().unwrap();
        Box::new(ctx.add_notifier(&notifier, bump(&runs)).unwrap())
    }),
    ("a descriptor is added that is readable", |_, ctx, runs| {
        let (reader, mut writer) = io::pipe().unwrap();
        writer.write_all(b"x").unwrap();
        Box::new((ctx.add_fd(reader, Interest::READABLE, move |_, _| runs.bump()).unwrap(), writer))
    }),
    ("an interest is changed", |_, ctx, runs| {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let on = ctx.add_fd(ours, Interest::NONE, move |_, _| runs.bump()).unwrap();
        on.set_interest(Interest::WRITABLE).unwrap();
        Box::new((on, theirs))
    }),
];

pub(crate) fn what_the_home_thread_adds_ends_the_sleep(setup: &Setup) {
    OuterLoop::each_kind(setup, |outer| {
        for (what, add) in ADDITIONS {
            for _ in 0..3 {
                outer.prepare_to_sleep();
                let (runs, before) = (Count::default(), outer.ctx.stats());
                let kept = add(setup, &outer.ctx, runs.clone());
                // Without a time-out: the test hangs if the loop is not told.
                outer.sleep(None);
                let ran = |outer: &OuterLoop| {
                    let stats = outer.ctx.stats() - before;
                    runs.get() != 0 || stats.bottom_halves >= 2
                };
                let mut iterations = 0;
                if outer.ctx.check().unwrap() {
                    outer.ctx.dispatch().unwrap();
                }
                while !ran(outer) {
                    outer.iterate(true);
                    iterations += 1;
                    assert!(iterations < 10, "{what}: the outer loop spins");
                }
                drop(kept);
            }
        }
    });
}

pub(crate) fn a_woken_task_ends_the_sleep(setup: &Setup) {
    OuterLoop::each_kind(setup, |outer| {
        let (runs, waker) = (Count::default(), Rc::new(Cell::new(None::<Waker>)));
        let _task = outer.ctx.spawn({
            let (runs, waker) = (runs.clone(), Rc::clone(&waker));
            poll_fn(move |cx| {
                runs.bump();
                waker.set(Some(cx.waker().clone()));
                Poll::<()>::Pending
            })
        });
        outer.iterate_until(|| runs.get() == 1);
        for n in 2..=4 {
            outer.prepare_to_sleep();
            waker.take().unwrap().wake();
            outer.sleep(None);
            outer.iterate_until(|| runs.get() == n);
        }
    });
}

pub(crate) fn a_step_of_the_clock_ends_the_sleep(setup: &Setup) {
    OuterLoop::each_kind(setup, |outer| {
        let runs = Count::default();
        let timer = outer.ctx.timer_on(Clock::Virtual, bump(&runs));
        for n in 1..=3 {
            timer.arm_after(Duration::from_secs(1));
            outer.prepare_to_sleep();
            outer.ctx.virtual_clock().step(Duration::from_secs(1));
            outer.sleep(None);
            outer.iterate_until(|| runs.get() == n);
        }
    });
}

/// Nothing was entered for it yet, and the outer loop will not do that.
pub(crate) fn an_operation_ends_the_sleep(setup: &Setup) {
    OuterLoop::each_kind(setup, |outer| {
        let done = Count::default();
        for n in 1..=3 {
            outer.prepare_to_sleep();
            let bump = done.clone();
            let read = outer.ctx.read_at(os::memory_file(), vec![0; 8], 0, move |_, _, _, _| bump.bump());
            read.unwrap();
            outer.sleep(None);
            outer.iterate_until(|| done.get() == n);
        }
    });
}

/// One that was added earlier, and is changed between `prepare` and the sleep.
pub(crate) fn a_change_of_an_interest_ends_the_sleep(setup: &Setup) {
    OuterLoop::each_kind(setup, |outer| {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let calls = Count::default();
        let on = outer.ctx.add_borrowed_fd(&ours, Interest::READABLE, {
            let calls = calls.clone();
            move |_, _| calls.bump()
        });
        let on = on.unwrap();
        for _ in 0..3 {
            let before = calls.get();
            outer.prepare_to_sleep();
            on.set_interest(Interest::WRITABLE).unwrap();
            outer.sleep(None);
            while calls.get() == before {
                if outer.ctx.check().unwrap() {
                    outer.ctx.dispatch().unwrap();
                }
                outer.iterate(true);
            }
            on.set_interest(Interest::READABLE).unwrap();
        }
    });
}

/// A removal looks at the completions of the ring. What it finds of others must not be left to a
/// descriptor that is not readable any more.
pub(crate) fn a_removal_in_the_sleep_hides_no_event(setup: &Setup) {
    OuterLoop::each_kind(setup, |outer| {
        let (calls, (reader, mut writer)) = (Count::default(), io::pipe().unwrap());
        let _stays = outer.ctx.add_borrowed_fd(&reader, Interest::READABLE, bump_ready(&calls)).unwrap();
        for _ in 0..3 {
            let (quiet, _open) = io::pipe().unwrap();
            let leaves = outer.ctx.add_fd(quiet, Interest::READABLE, |_, _| ()).unwrap();
            while outer.ctx.check().unwrap() {
                outer.ctx.dispatch().unwrap();
            }
            outer.prepare_to_sleep();
            writer.write_all(b"x").unwrap();
            drop(leaves);
            let before = calls.get();
            // Without a time-out: the test hangs if the loop is not told.
            outer.sleep(None);
            while calls.get() == before {
                if outer.ctx.check().unwrap() {
                    outer.ctx.dispatch().unwrap();
                }
            }
            io::Read::read_exact(&mut &reader, &mut [0]).unwrap();
        }
    });
}

pub(crate) fn additions_write_once(setup: &Setup) {
    OuterLoop::each_kind(setup, |outer| {
        let (halves, runs): (Vec<_>, _) = {
            let runs = Count::default();
            ((0..100).map(|_| outer.ctx.bottom_half(bump(&runs))).collect(), runs)
        };
        let timer = outer.ctx.timer(bump(&runs));
        outer.prepare_to_sleep();
        let before = outer.ctx.stats();
        halves.iter().for_each(|half| half.schedule());
        timer.arm_at(0);
        outer.ctx.defer(bump(&runs));
        assert_eq!((outer.ctx.stats() - before).syscalls_write, 1);
        outer.iterate_until(|| runs.get() == 102);
        // Nobody sleeps between a dispatch and the next prepare.
        let before = outer.ctx.stats();
        halves.iter().for_each(|half| half.schedule());
        assert_eq!((outer.ctx.stats() - before).syscalls_write, 0);
        outer.iterate_until(|| runs.get() == 202);
    });
}

/// The outer loop knows of an earlier deadline, so it need not be interrupted.
pub(crate) fn a_later_timer_does_not_end_the_sleep(setup: &Setup) {
    OuterLoop::each_kind(setup, |outer| {
        let timers = [(); 2].map(|()| outer.ctx.timer(|_| unreachable!("an hour")));
        timers[0].arm_after(Duration::from_secs(3_600));
        let prepared = outer.prepare_to_sleep();
        assert!(prepared.deadline_ns >= timers[0].deadline_ns());
        let before = outer.ctx.stats();
        timers[1].arm_after(Duration::from_secs(7_200));
        timers[1].cancel();
        assert!(!outer.sleep(Some(Duration::ZERO)));
        assert_eq!((outer.ctx.stats() - before).syscalls(), 0);
    });
}

pub(crate) fn the_deadline_is_the_nearest_timer(setup: &Setup) {
    OuterLoop::each_kind(setup, |outer| {
        assert_eq!(outer.prepare_to_sleep().deadline_ns, None);
        let timer = outer.ctx.timer(|_| ());
        timer.arm_after(Duration::from_secs(60));
        let prepared = outer.prepare_to_sleep();
        let (told, wanted) = (prepared.deadline_ns.unwrap(), timer.deadline_ns().unwrap());
        assert!((wanted..wanted + 1_000_000_000).contains(&told), "{told} for {wanted}");
        assert!(prepared.timeout().unwrap() <= Duration::from_secs(61));
        // Due already.
        timer.arm_at(0);
        let prepared = outer.ctx.prepare().unwrap();
        assert!(prepared.ready_now);
        assert_eq!(prepared.timeout(), Some(Duration::ZERO));
        assert!(outer.ctx.check().unwrap() && outer.ctx.dispatch().unwrap());
        // A clock that stands still reaches no deadline.
        let timer = outer.ctx.timer_on(Clock::Virtual, |_| ());
        timer.arm_at(1);
        assert_eq!(outer.prepare_to_sleep().deadline_ns, None);
    });
}

pub(crate) fn another_thread_ends_the_sleep(setup: &Setup) {
    OuterLoop::each_kind(setup, |outer| {
        let half = outer.ctx.bottom_half(|_| ());
        for round in 0..50 {
            let before = outer.ctx.stats().bottom_halves;
            let (half, handle) = (half.handle(), outer.ctx.handle());
            let thread = std::thread::spawn(move || {
                (0..round).for_each(|_| std::thread::yield_now());
                if round % 2 == 0 {
                    half.schedule();
                } else {
                    assert!(handle.schedule(|_| ()));
                }
            });
            outer.iterate_until(|| outer.ctx.stats().bottom_halves == before + 1);
            thread.join().unwrap();
        }
        let stats = outer.ctx.stats();
        assert!(stats.syscalls_write <= 50, "{stats:?}");
    });
}

/// Notified while the outer loop runs other code: no write(2), and the next `prepare` says so.
pub(crate) fn a_notification_outside_of_the_sleep_is_not_slept_over(setup: &Setup) {
    OuterLoop::each_kind(setup, |outer| {
        outer.settle();
        outer.prepare_to_sleep();
        assert!(!outer.ctx.dispatch().unwrap());
        let writes = outer.ctx.stats().syscalls_write;
        let handle = outer.ctx.handle();
        std::thread::spawn(move || handle.notify()).join().unwrap();
        assert_eq!(outer.ctx.stats().syscalls_write, writes);
        assert!(outer.ctx.prepare().unwrap().ready_now);
        assert!(!outer.ctx.check().unwrap(), "it was only notified");
        assert!(!outer.ctx.prepare().unwrap().ready_now);
    });
}

const EACH: u64 = 2_000;

/// Four threads publish and ring doorbells; sometimes they wait until the loop has seen it. A lost
/// ring hangs.
pub(crate) fn no_ring_is_lost(setup: &Setup) {
    OuterLoop::each_kind(setup, |outer| {
        let bells = [(); 4].map(|()| setup.notifier());
        let published = Arc::new([(); 4].map(|()| AtomicU64::new(0)));
        let seen = Arc::new([(); 4].map(|()| AtomicU64::new(0)));
        let on = [0, 1, 2, 3].map(|i| {
            let (published, seen) = (Arc::clone(&published), Arc::clone(&seen));
            let answer = move |_: &AioContext| {
                seen[i].store(published[i].load(Ordering::Relaxed), Ordering::Relaxed);
            };
            outer.ctx.add_notifier(&bells[i], answer).unwrap()
        });
        let guests =
            bells.each_ref().map(aio::EventNotifier::clone).into_iter().enumerate().map(|(i, bell)| {
                let (published, seen) = (Arc::clone(&published), Arc::clone(&seen));
                std::thread::spawn(move || {
                    for value in 1..=EACH {
                        published[i].store(value, Ordering::Relaxed);
                        bell.notify().unwrap();
                        while value % 100 == 0 && seen[i].load(Ordering::Relaxed) != value {
                            std::thread::yield_now();
                        }
                    }
                })
            });
        let guests: Vec<_> = guests.collect();
        outer.iterate_until(|| seen.iter().all(|seen| seen.load(Ordering::Relaxed) == EACH));
        guests.into_iter().for_each(|guest| guest.join().unwrap());
        drop(on);
    });
}

/// It stays ready, which is no change that an edge-triggered loop would hear of.
pub(crate) fn a_descriptor_that_stays_ready_is_served_in_every_iteration(setup: &Setup) {
    OuterLoop::each_kind(setup, |outer| {
        let (reader, mut writer) = io::pipe().unwrap();
        let calls = Count::default();
        let on = outer.ctx.add_borrowed_fd(&reader, Interest::READABLE, {
            let calls = calls.clone();
            move |_, _| calls.bump()
        });
        let _on = on.unwrap();
        outer.settle();
        writer.write_all(b"x").unwrap();
        for n in 1..=20 {
            assert!(outer.iterate(true));
            assert_eq!(calls.get(), n);
        }
    });
}

pub(crate) fn nobody_polls(setup: &Setup) {
    OuterLoop::each_kind(setup, |outer| {
        let (notifier, rings) = (setup.notifier(), Count::default());
        let _bell = outer.ctx.add_notifier(&notifier, bump(&rings)).unwrap();
        // After all that may leave something behind.
        notifier.notify().unwrap();
        outer.iterate_until(|| rings.get() == 1);
        outer.ctx.handle().notify();
        outer.settle();
        let timer = outer.ctx.timer(bump(&rings));
        timer.arm_after(Duration::from_millis(5));
        let (sleeps, before) = (outer.sleeps.get(), outer.ctx.stats());
        outer.iterate_until(|| rings.get() == 2);
        let (sleeps, stats) = (outer.sleeps.get() - sleeps, outer.ctx.stats() - before);
        // A deadline is rounded up to milliseconds for epoll_wait(2); the first sleep may end for a
        // change that is over.
        assert!(sleeps <= 4, "{sleeps} sleeps in five milliseconds");
        assert!(stats.syscalls() <= 4 * sleeps + 2, "{stats:?}");
    });
}

/// A doorbell costs the sleep of the outer loop and one look. A ring is looked at in memory.
pub(crate) fn a_doorbell_costs_one_look(setup: &Setup) {
    const N: u64 = 20;
    let outer = OuterLoop::new(setup, Kind::Poll);
    let (notifier, rings) = (setup.notifier(), Count::default());
    let bell = outer.ctx.add_notifier(&notifier, bump(&rings)).unwrap();
    let iterate = |n| {
        for _ in 0..n {
            notifier.notify().unwrap();
            assert!(outer.iterate(true));
        }
    };
    iterate(2);
    outer.settle();
    let (before, sleeps) = (outer.ctx.stats(), outer.sleeps.get());
    iterate(N);
    let stats = outer.ctx.stats() - before;
    assert_eq!((rings.get(), outer.sleeps.get() - sleeps), (N + 2, N));
    let reads = if bell.method() == aio::Method::Read { N } else { 0 };
    assert_eq!(stats.syscalls_read, reads);
    if setup.has_ring() {
        // What is armed again needs an enter, and a poll of an eventfd that was not read yet one
        // more; a multishot poll needs none.
        let arms = match bell.method() {
            aio::Method::Edge | aio::Method::RingReadMultishot => 0,
            aio::Method::Read => 2 * N,
            _ => N,
        };
        assert!(stats.syscalls_enter <= arms + 2, "{stats:?}");
    } else {
        assert_eq!(stats.syscalls() - reads, N, "{stats:?}");
    }
}

/// The outer loop relied on what `prepare` said, and the turn has changed that.
pub(crate) fn a_turn_of_its_own_ends_the_sleep(setup: &Setup) {
    OuterLoop::each_kind(setup, |outer| {
        let runs = Count::default();
        for _ in 0..3 {
            outer.prepare_to_sleep();
            let before = runs.get();
            let half = outer.ctx.bottom_half(bump(&runs));
            outer.ctx.defer({
                let half = half.handle();
                move |_| half.schedule()
            });
            assert!(outer.ctx.poll(true).unwrap());
            assert_eq!(runs.get(), before, "it runs in the next turn");
            outer.sleep(None);
            outer.iterate_until(|| runs.get() == before + 1);
        }
    });
}

/// A turn reads the own eventfd, and may take with it a write that was made for the outer loop.
pub(crate) fn a_turn_of_its_own_takes_no_notification_away(setup: &Setup) {
    let ctx = setup.context();
    let (wanted, runs) = (100, Count::default());
    // A callback that notifies after the turn has accepted, and before the own eventfd is read.
    let again = ctx.handle();
    let outer = OuterLoop::with(ctx, Kind::Poll);
    for n in 1..=wanted {
        outer.prepare_to_sleep();
        let (again, count) = (again.clone(), runs.clone());
        outer.ctx.defer(move |ctx| {
            again.notify();
            ctx.defer(move |_| count.bump());
        });
        assert!(outer.ctx.poll(false).unwrap());
        outer.sleep(None);
        outer.iterate_until(|| runs.get() == n);
    }
}

pub(crate) fn turns_nest_in_a_dispatch(setup: &Setup) {
    OuterLoop::each_kind(setup, |outer| {
        let runs = Count::default();
        outer.ctx.defer({
            let runs = runs.clone();
            move |ctx: &AioContext| {
                ctx.defer(bump(&runs));
                let timer = ctx.timer(bump(&runs));
                timer.arm_after(Duration::from_micros(100));
                while runs.get() < 2 {
                    ctx.poll(true).unwrap();
                }
                runs.bump();
            }
        });
        outer.iterate_until(|| runs.get() == 3);
    });
}

/// An outer loop may itself be turned from a callback, as GTK does for a dialogue.
pub(crate) fn the_outer_loop_nests_in_a_dispatch(setup: &Setup) {
    for kind in [Kind::Poll, Kind::Epoll, Kind::EpollEdge] {
        let outer = Rc::new(OuterLoop::new(setup, kind));
        let (notifier, rings) = (setup.notifier(), Count::default());
        let _bell = outer.ctx.add_notifier(&notifier, bump(&rings)).unwrap();
        let done = Count::default();
        outer.ctx.defer({
            let (outer, rings, done) = (Rc::downgrade(&outer), rings.clone(), done.clone());
            let ringer = notifier.clone();
            move |_| {
                let thread = std::thread::spawn(move || ringer.notify().unwrap());
                outer.upgrade().unwrap().iterate_until(|| rings.get() == 1);
                thread.join().unwrap();
                done.bump();
            }
        });
        outer.iterate_until(|| done.get() == 1);
        notifier.notify().unwrap();
        outer.iterate_until(|| rings.get() == 2);
    }
}

pub(crate) fn a_panic_leaves_the_context_embedded(setup: &Setup) {
    OuterLoop::each_kind(setup, |outer| {
        let runs = Count::default();
        outer.ctx.defer(|_| std::panic::resume_unwind(Box::new("a callback panics")));
        outer.ctx.defer(bump(&runs));
        let iterate = std::panic::AssertUnwindSafe(|| outer.iterate(true));
        std::panic::catch_unwind(iterate).unwrap_err();
        outer.iterate_until(|| runs.get() == 1);
        let handle = outer.ctx.handle();
        let thread = std::thread::spawn(move || handle.schedule(|ctx| ctx.defer(|_| ())));
        outer.iterate_until(|| outer.ctx.stats().bottom_halves >= 4);
        assert!(thread.join().unwrap());
    });
}

/// With epoll, a descriptor that was closed under its handler makes the monitor use another set.
/// The outer loop does not notice.
pub(crate) fn the_descriptor_stays_the_same(setup: &Setup) {
    OuterLoop::each_kind(setup, |outer| {
        let (reader, mut writer) = io::pipe().unwrap();
        writer.write_all(b"x").unwrap();
        let (notifier, rings) = (setup.notifier(), Count::default());
        let _bell = outer.ctx.add_notifier(&notifier, bump(&rings)).unwrap();
        let number = outer.ctx.as_raw_fd();
        for round in 1..=3 {
            let copy = os::under_a_private_number(&reader);
            let gone = outer.ctx.add_borrowed_fd(&copy, Interest::READABLE, |_, _| ()).unwrap();
            outer.iterate(true);
            drop(copy);
            drop(gone);
            outer.settle();
            outer.prepare_to_sleep();
            notifier.notify().unwrap();
            assert!(outer.sleep(None) || setup.has_ring());
            outer.iterate_until(|| rings.get() >= round);
            assert_eq!(outer.ctx.as_raw_fd(), number);
        }
    });
}

pub(crate) fn one_outer_loop_at_a_time(setup: &Setup) {
    let ctx = Rc::new(setup.context());
    let first = Embedded::new(Rc::clone(&ctx)).unwrap();
    let busy = Embedded::new(&*ctx).unwrap_err();
    assert_eq!(busy.error.kind(), io::ErrorKind::ResourceBusy);
    assert!(!first.prepare().unwrap().ready_now || first.check().is_ok());
    drop(first);
    let second = Embedded::new(&*ctx).unwrap();
    second.prepare().unwrap();
    drop(second);
    // Nobody sleeps: no write.
    let handle = ctx.handle();
    std::thread::spawn(move || handle.notify()).join().unwrap();
    ctx.defer(|_| ());
    assert_eq!(ctx.stats().syscalls_write, 0);
    assert!(ctx.poll(true).unwrap());
}

pub(crate) fn a_context_has_to_be_made_for_it(setup: &Setup) {
    let plain = AioContext::builder().monitor(setup.monitor).build().unwrap();
    let refused = Embedded::new(plain).unwrap_err();
    assert_eq!(refused.error.kind(), io::ErrorKind::InvalidInput);
    assert!(refused.to_string().contains("Builder::embeddable"), "{refused}");
    // It came back, and works.
    let plain = refused.value;
    plain.defer(|_| ());
    assert!(plain.poll(true).unwrap());
}

/// The doorbells are on while the outer loop sleeps.
pub(crate) fn prepare_ends_busy_polling(setup: &Setup) {
    let forever = BusyPolling { max_ns: 600_000_000_000, grow: 1, ..BusyPolling::OFF };
    let p = Polled::new(setup, forever);
    // Only turns of the context itself busy poll.
    p.device.add(1);
    p.bell.notify().unwrap();
    while p.device.processed.get() == 0 {
        p.ctx.poll(true).unwrap();
    }
    // Found in memory. On a ring, the first turn has to arm something before that.
    while p.device.begins.get() == 0 {
        p.device.add(1);
        assert!(p.ctx.poll(true).unwrap());
    }
    assert_eq!((p.device.begins.get(), p.device.ends.get()), (1, 0));
    let embedded = Embedded::new(&p.ctx).unwrap();
    while embedded.prepare().unwrap().ready_now {
        assert!(!(embedded.check().unwrap() && embedded.dispatch().unwrap()));
    }
    assert!(p.device.is_balanced());
    let calls = p.device.calls.get();
    p.device.add(1);
    p.bell.notify().unwrap();
    assert!(os::poll_readable(&embedded, None) && embedded.check().unwrap() && embedded.dispatch().unwrap());
    assert_eq!((p.device.calls.get(), p.device.begins.get()), (calls + 1, 1));
}

/// A handler that drops what it stands on.
pub(crate) fn an_outer_loop_may_go_in_a_callback(setup: &Setup) {
    let slot = Slot::<Embedded<Rc<AioContext>>>::new();
    let ctx = Rc::new(setup.context());
    slot.put(Embedded::new(Rc::clone(&ctx)).unwrap());
    let runs = Count::default();
    ctx.defer({
        let (slot, runs) = (slot.clone(), runs.clone());
        move |_| {
            drop(slot.take());
            runs.bump();
        }
    });
    // Not `slot.with`: the callback takes it.
    let embedded = slot.take().unwrap();
    assert!(embedded.prepare().unwrap().ready_now && embedded.check().unwrap());
    slot.put(Embedded::new(Rc::new(setup.context())).unwrap());
    assert!(embedded.dispatch().unwrap());
    assert_eq!(runs.get(), 1);
    drop(embedded);
    ctx.defer(bump(&runs));
    assert!(ctx.poll(true).unwrap());
    assert_eq!(runs.get(), 2);
}

/// `check` is what finds an idle bottom half: no deadline stands for it, or it would cost a turn
/// every ten milliseconds.
pub(crate) fn check_finds_an_idle_bottom_half(setup: &Setup) {
    OuterLoop::each_kind(setup, |outer| {
        outer.settle();
        // Nobody sleeps, so the own eventfd is not written to.
        outer.ctx.dispatch().unwrap();
        let runs = Count::default();
        let half = outer.ctx.bottom_half(bump(&runs));
        half.schedule_idle();
        outer.ctx.prepare().unwrap();
        assert!(outer.ctx.check().unwrap(), "an idle bottom half is due");
        outer.ctx.dispatch().unwrap();
        assert_eq!(runs.get(), 1);
    });
}

/// A dispatch without a check takes the notification of another thread, too: what it brought has
/// run. On a ring, the completion that woke the outer loop is still to be looked at.
pub(crate) fn dispatch_alone_takes_a_notification(setup: &Setup) {
    if setup.has_ring() {
        return;
    }
    OuterLoop::each_kind(setup, |outer| {
        outer.prepare_to_sleep();
        let handle = outer.ctx.handle();
        std::thread::spawn(move || assert!(handle.schedule(|_| ()))).join().unwrap();
        let before = outer.ctx.stats();
        outer.ctx.dispatch().unwrap();
        assert_eq!((outer.ctx.stats() - before).bottom_halves, 1);
        assert!(!outer.ctx.prepare().unwrap().ready_now, "the notification is over");
    });
}

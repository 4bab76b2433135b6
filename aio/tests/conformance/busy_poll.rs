//! Busy polling: the three hooks of a device, and what must keep working while the loop polls
//! memory.

use crate::polled::{Device, InProcess, Polled};
use crate::setup::Setup;
use crate::support::{Count, SPIN, look, settle, turn, turn_until, turns_of_an_idle_loop};
use aio::{AioContext, BusyPolling, Interest};
use std::cell::Cell;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// A window so long that a test that waits for its end hangs.
const FOR_EVER: BusyPolling = BusyPolling { max_ns: 600_000_000_000, grow: u32::MAX, ..BusyPolling::OFF };

/// The first window, 4,000 ns, stays the only one.
const SHORT: BusyPolling = BusyPolling { grow: 1, ..FOR_EVER };

pub(crate) fn off_never_begins(setup: &Setup) {
    let p = Polled::new(setup, BusyPolling::OFF);
    for _ in 0..5 {
        p.first_event();
    }
    p.sleep();
    assert_eq!((p.device.begins.get(), p.device.processed.get()), (0, 5));
    let stats = p.ctx.stats();
    assert_eq!((stats.poll_hits, stats.poll_misses), (0, 0));
}

/// Lingering lasts as long as there is credit, so a millisecond of work gives time to poll, and a
/// request that comes while the doorbell is off is found; then the credit is used up and polling
/// ends.
pub(crate) fn lingering_looks_after_work_and_comes_to_an_end(setup: &Setup) {
    let p = Polled::new(setup, BusyPolling::OFF.lingering_ns(600_000_000_000));
    p.sleep();
    assert_eq!(p.device.begins.get(), 0, "nothing was done yet");
    let slow: InProcess = Box::new(|_| std::thread::sleep(Duration::from_millis(1)));
    p.device.on_process.replace(Some(slow));
    let queued = Arc::clone(&p.device.queued);
    let late: Box<dyn Fn()> = Box::new(move || {
        let _ = queued.fetch_add(1, Ordering::AcqRel);
    });
    p.device.on_begin.replace(Some(late));
    p.device.add(1);
    p.bell.notify().unwrap();
    turn_until(&p.ctx, || p.device.processed.get() == 2);
    assert_eq!((p.device.calls.get(), p.device.begins.get()), (2, 1));
    p.device.on_process.take();
    p.sleep();
    assert!(p.device.is_balanced());
    let stats = p.ctx.stats();
    assert_eq!((stats.poll_hits, stats.poll_misses), (1, 1));
}

pub(crate) fn begins_after_the_first_event_and_ends_before_sleep(setup: &Setup) {
    let p = Polled::new(setup, SHORT);
    p.sleep();
    assert_eq!(p.device.begins.get(), 0, "nothing is known of the device yet");
    p.first_event();
    p.sleep();
    assert!(p.device.is_balanced());
    let begins = p.device.begins.get();
    // Again: the window is still open, or opens again.
    p.first_event();
    p.sleep();
    assert!(p.device.is_balanced());
    assert!(p.device.begins.get() > begins);
}

pub(crate) fn a_hit_needs_no_event_and_no_system_call(setup: &Setup) {
    let p = Polled::new(setup, SHORT);
    p.first_event();
    let before = p.ctx.stats();
    for n in 1..=5 {
        // No ring: the work is only visible in memory.
        p.device.add(1);
        assert!(turn(&p.ctx), "and it is progress");
        assert_eq!(p.device.processed.get(), 1 + n);
    }
    let stats = p.ctx.stats() - before;
    assert_eq!((stats.poll_hits, stats.poll_misses), (5, 0));
    assert_eq!((stats.notifier_dispatches, stats.syscalls()), (5, 0));
}

pub(crate) fn the_last_look_follows_the_end(setup: &Setup) {
    let p = Polled::new(setup, SHORT);
    for n in 0..5 {
        p.first_event();
        // A request that comes when the doorbell is still off, too late for the polling: only the
        // last check finds it.
        let queued = Arc::clone(&p.device.queued);
        let late = move || _ = queued.fetch_add(1, Ordering::AcqRel);
        p.device.on_end.replace(Some(Box::new(late)));
        let expected = 2 * (n + 1);
        turn_until(&p.ctx, || p.device.processed.get() == expected);
    }
    assert!(p.device.begins.get() >= 5);
}

pub(crate) fn the_mode_survives_turns_that_do_not_sleep(setup: &Setup) {
    let p = Polled::new(setup, FOR_EVER);
    p.open_wide();
    let begins = p.device.begins.get();
    for _ in 0..20 {
        assert!(!look(&p.ctx));
        p.ctx.defer(|_| ());
        assert!(turn(&p.ctx));
        p.device.add(1);
        assert!(turn(&p.ctx));
        p.ctx.handle().notify();
        turn(&p.ctx);
    }
    assert!(p.device.is_begun());
    assert_eq!(p.device.begins.get(), begins);
}

pub(crate) fn begin_and_end_balance_on_removal(setup: &Setup) {
    let p = Polled::new(setup, FOR_EVER);
    p.open_wide();
    drop(p.registration.take());
    assert!(p.device.is_balanced(), "at once");
    assert!(!look(&p.ctx));
    let calls = p.device.calls.get();
    p.device.add(1);
    p.bell.notify().unwrap();
    p.sleep();
    assert_eq!(p.device.calls.get(), calls);
    assert!(p.device.is_balanced());
}

pub(crate) fn begin_and_end_balance_on_switching_off(setup: &Setup) {
    let p = Polled::new(setup, FOR_EVER);
    for _ in 0..3 {
        p.open_wide();
        p.ctx.set_busy_polling(BusyPolling::OFF);
        assert!(p.device.is_balanced());
        let before = p.ctx.stats().poll_misses;
        p.sleep();
        assert_eq!(p.ctx.stats().poll_misses, before, "off");
        p.ctx.set_busy_polling(FOR_EVER);
    }
    // Work that came while the doorbell was off must not be lost by the switch.
    p.open_wide();
    let before = p.device.processed.get();
    p.device.add(1);
    p.ctx.set_busy_polling(BusyPolling::OFF);
    turn_until(&p.ctx, || p.device.processed.get() == before + 1);
}

pub(crate) fn begin_and_end_balance_on_replacement(setup: &Setup) {
    let p = Polled::new(setup, FOR_EVER);
    p.open_wide();
    let next = Rc::new(Device::default());
    let bell = p.ctx.add_polled_notifier(&p.bell, Rc::clone(&next)).unwrap();
    assert!(p.device.is_balanced());
    assert_eq!(next.begins.get(), 0);
    next.add(1);
    p.bell.notify().unwrap();
    turn_until(&p.ctx, || next.processed.get() == 1);
    drop(bell);
    assert_eq!(next.begins.get(), next.ends.get());
}

pub(crate) fn begin_and_end_balance_when_the_context_goes(setup: &Setup) {
    let p = Polled::new(setup, FOR_EVER);
    p.open_wide();
    let device = Rc::clone(&p.device);
    drop(p.ctx);
    assert!(device.is_balanced());
    drop((p.device, p.registration));
    assert_eq!(Rc::strong_count(&device), 1, "the context has let go of it");
}

pub(crate) fn a_busy_device_does_not_starve_descriptors(setup: &Setup) {
    does_not_starve_descriptors(setup, Polled::new(setup, SHORT));
    does_not_starve_descriptors(setup, Polled::later(setup, SHORT));
}

fn does_not_starve_descriptors(setup: &Setup, p: Polled) {
    p.first_event();
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let (calls, rings, expired) = (Count::default(), Count::default(), Count::default());
    // A read that is in flight when its data come, where there is a ring.
    let (mut tap, pipe) = UnixStream::pair().unwrap();
    let read = Count::default();
    let done = read.clone();
    let reads = p.ctx.read_at(pipe, vec![0; 1], 0, move |_, result, _, _| {
        assert_eq!(result.unwrap(), 1);
        done.bump();
    });
    if reads.is_err() {
        read.bump();
    }
    let _on = p.ctx.add_borrowed_fd(&theirs, Interest::READABLE, {
        let calls = calls.clone();
        move |_, _| calls.bump()
    });
    let plain = setup.notifier();
    let bell = p.ctx.add_notifier(&plain, {
        let rings = rings.clone();
        move |_| rings.bump()
    });
    let _bell = bell.unwrap();
    let timer = p.ctx.timer({
        let expired = expired.clone();
        move |_| expired.bump()
    });
    // Armed in the kernel, all of it, and nothing left to submit: only polling finds what comes
    // now.
    settle(&p.ctx);
    p.device.endless.set(true);
    ours.write_all(b"x").unwrap();
    tap.write_all(b"x").unwrap();
    plain.notify().unwrap();
    timer.arm_after(Duration::from_micros(100));
    let busy = p.device.calls.get();
    turn_until(&p.ctx, || calls.get() >= 3 && rings.get() >= 1 && expired.get() == 1 && read.get() == 1);
    assert!(p.device.calls.get() > busy, "the device was served meanwhile");
}

pub(crate) fn a_timer_ends_the_search(setup: &Setup) {
    let p = Polled::new(setup, FOR_EVER);
    p.open_wide();
    let (runs, early) = (Count::default(), Count::default());
    for n in 1..=5 {
        let at_ns = p.ctx.now_ns() + 300_000;
        let timer = p.ctx.timer({
            let (runs, early) = (runs.clone(), early.clone());
            move |ctx| {
                runs.bump();
                early.add(u64::from(ctx.now_ns() < at_ns));
            }
        });
        timer.arm_at(at_ns);
        turn_until(&p.ctx, || runs.get() == n);
    }
    assert_eq!(early.get(), 0);
}

pub(crate) fn a_notified_bottom_half_ends_the_search(setup: &Setup) {
    let p = Polled::new(setup, FOR_EVER);
    p.open_wide();
    let runs = Count::default();
    let bh = p.ctx.bottom_half({
        let runs = runs.clone();
        move |_| runs.bump()
    });
    let writes = p.ctx.stats().syscalls_write;
    for n in 1..=20 {
        let remote = bh.handle();
        let thread = std::thread::spawn(move || remote.schedule());
        turn_until(&p.ctx, || runs.get() == n);
        thread.join().unwrap();
    }
    assert_eq!(p.ctx.stats().syscalls_write, writes, "nobody slept: no write(2)");
    let handle = p.ctx.handle();
    let thread = std::thread::spawn(move || handle.stop());
    p.ctx.run().unwrap();
    thread.join().unwrap();
    assert!(p.device.is_begun());
}

pub(crate) fn a_device_that_becomes_ready_ends_the_search(setup: &Setup) {
    let p = Polled::new(setup, FOR_EVER);
    p.open_wide();
    for _ in 0..20 {
        let queued = Arc::clone(&p.device.queued);
        let expected = p.device.processed.get() + 1;
        let guest = std::thread::spawn(move || queued.fetch_add(1, Ordering::AcqRel));
        turn_until(&p.ctx, || p.device.processed.get() == expected);
        guest.join().unwrap();
    }
    assert!(p.device.is_begun());
}

pub(crate) fn hits_and_misses_are_counted(setup: &Setup) {
    let p = Polled::new(setup, SHORT);
    p.first_event();
    let before = p.ctx.stats();
    p.device.add(1);
    assert!(turn(&p.ctx));
    assert_eq!((p.ctx.stats() - before).poll_hits, 1);
    p.sleep();
    let stats = p.ctx.stats() - before;
    assert_eq!(stats.poll_hits, 1);
    assert!(stats.poll_misses >= 1);
}

pub(crate) fn a_nested_turn_does_not_reenter_a_ready_device(setup: &Setup) {
    let p = Polled::new(setup, FOR_EVER);
    p.open_wide();
    p.device.endless.set(true);
    p.device.on_process.replace(Some(Box::new(|ctx| {
        look(ctx);
        ctx.defer(|_| ());
        turn(ctx);
    })));
    let before = p.device.calls.get();
    for n in 1..=5 {
        assert!(turn(&p.ctx));
        assert_eq!(p.device.calls.get(), before + n);
    }
    assert_eq!(p.device.deepest.get(), 1);
}

pub(crate) fn a_nested_turn_serves_the_other_devices(setup: &Setup) {
    let p = Polled::new(setup, FOR_EVER);
    let (other, bell, _registration) = Polled::device(setup, &p.ctx);
    other.add(1);
    bell.notify().unwrap();
    turn_until(&p.ctx, || other.processed.get() == 1);
    p.open_wide();
    p.device.on_process.replace(Some(Box::new({
        let other = Rc::clone(&other);
        move |ctx| {
            other.add(1);
            let expected = other.processed.get() + 1;
            turn_until(ctx, || other.processed.get() == expected);
        }
    })));
    for n in 1..=5 {
        p.device.add(1);
        assert!(turn(&p.ctx));
        assert_eq!(other.processed.get(), 1 + n);
    }
}

pub(crate) fn work_that_came_while_the_mode_ended_inside_process_is_done(setup: &Setup) {
    let p = Polled::new(setup, FOR_EVER);
    for by_sleep in [true, false] {
        p.ctx.set_busy_polling(FOR_EVER);
        p.open_wide();
        let late = Rc::new(Cell::new(true));
        p.device.on_process.replace(Some(Box::new({
            let (queued, late) = (Arc::clone(&p.device.queued), Rc::clone(&late));
            move |ctx| {
                if late.replace(false) {
                    // The guest adds a request. Its doorbell is off, so it does not ring; then
                    // polling ends.
                    queued.fetch_add(1, Ordering::AcqRel);
                    if by_sleep {
                        ctx.set_busy_polling(SHORT);
                        turns_of_an_idle_loop(ctx);
                    }
                    ctx.set_busy_polling(BusyPolling::OFF);
                }
            }
        })));
        let expected = p.device.processed.get() + 2;
        p.device.add(1);
        turn_until(&p.ctx, || p.device.processed.get() == expected);
        p.device.on_process.take();
        assert!(p.device.is_balanced());
    }
}

pub(crate) fn what_a_hook_schedules_is_not_slept_over(setup: &Setup) {
    let p = Polled::new(setup, SHORT);
    let runs = Count::default();
    let counting = || {
        let runs = runs.clone();
        move |_: &AioContext| runs.bump()
    };
    // Kept out of the hooks, which are dropped after their run.
    let halves = [(); 2].map(|()| Rc::new(p.ctx.bottom_half(counting())));
    let timer = Rc::new(p.ctx.timer(counting()));
    p.first_event();
    let (in_begin, in_end, soon) = (Rc::clone(&halves[0]), Rc::clone(&halves[1]), Rc::clone(&timer));
    p.device.on_begin.replace(Some(Box::new(move || in_begin.schedule())));
    p.device.on_end.replace(Some(Box::new(move || {
        in_end.schedule();
        soon.arm_at(0);
    })));
    turn_until(&p.ctx, || runs.get() == 3);
}

pub(crate) fn a_hook_may_remove_handlers(setup: &Setup) {
    let p = Polled::new(setup, SHORT);
    let others: Vec<_> = (0..4).map(|_| Polled::device(setup, &p.ctx)).collect();
    p.first_event();
    for (device, bell, _) in &others {
        device.add(1);
        bell.notify().unwrap();
        turn_until(&p.ctx, || device.processed.get() == 1);
    }
    settle(&p.ctx);
    // The end of the first takes itself and the second away; the end of the last takes the first of
    // the others.
    let (own, second, third) = (p.registration.clone(), others[0].2.clone(), others[1].2.clone());
    let remove_two = move || drop((own.take(), second.take()));
    p.device.on_end.replace(Some(Box::new(remove_two)));
    others[3].0.on_end.replace(Some(Box::new(move || drop(third.take()))));
    p.sleep();
    let devices = || std::iter::once(&p.device).chain(others.iter().map(|(device, ..)| device));
    for (i, device) in devices().enumerate() {
        assert_eq!(device.begins.get(), device.ends.get(), "device {i}");
    }
    // Those that are left are still served, by doorbell and by polling.
    for (device, bell, _) in &others[2..] {
        device.add(1);
        bell.notify().unwrap();
        let expected = 2;
        turn_until(&p.ctx, || device.processed.get() == expected);
    }
    settle(&p.ctx);
    let turns = turns_of_an_idle_loop(&p.ctx);
    assert!(turns < SPIN, "{turns} turns with nothing to do");
    for (i, device) in devices().enumerate() {
        assert_eq!(device.begins.get(), device.ends.get(), "device {i}");
    }
}

pub(crate) fn work_left_by_a_removed_device_rings(setup: &Setup) {
    let p = Polled::new(setup, FOR_EVER);
    for way in 0..3 {
        p.ctx.set_busy_polling(FOR_EVER);
        if way > 0 {
            p.registration.put(p.ctx.add_polled_notifier(&p.bell, Rc::clone(&p.device)).unwrap());
        }
        p.open_wide();
        let before = p.device.processed.get();
        // The guest adds a request without a ring, since the doorbell is off, and the device moves.
        let add = {
            let queued = Arc::clone(&p.device.queued);
            move || _ = queued.fetch_add(1, Ordering::AcqRel)
        };
        match way {
            0 => {
                add();
                drop(p.registration.take());
            }
            1 => {
                p.device.on_end.replace(Some(Box::new(add)));
                drop(p.registration.take());
            }
            _ => {
                // Seen in this turn, and removed before it was processed.
                let slot = p.registration.clone();
                let remover = p.ctx.bottom_half(move |_| drop(slot.take()));
                add();
                remover.schedule();
                look(&p.ctx);
                assert_eq!(p.device.processed.get(), before);
            }
        }
        // The new handler, here or in another context, is called for it.
        let next = setup.context();
        let _bell = next.add_polled_notifier(&p.bell, Rc::clone(&p.device)).unwrap();
        turn_until(&next, || p.device.processed.get() == before + 1);
    }
}

pub(crate) fn many_devices_are_all_served(setup: &Setup) {
    const ROUNDS: u64 = 20;
    let p = Polled::new(setup, BusyPolling::up_to_ns(32_768));
    let devices: Vec<_> = (0..20).map(|_| Polled::device(setup, &p.ctx)).collect();
    let guests: Vec<_> =
        devices.iter().map(|(device, bell, _)| (Arc::clone(&device.queued), bell.clone())).collect();
    // A guest that rings always: a doorbell may be rung although it is switched off.
    let guest = std::thread::spawn(move || {
        for round in 0..ROUNDS {
            for (i, (queued, bell)) in guests.iter().enumerate() {
                if !(i as u64 + round).is_multiple_of(3) {
                    queued.fetch_add(1, Ordering::AcqRel);
                    bell.notify().unwrap();
                }
            }
        }
        guests.len()
    });
    let sum = || devices.iter().map(|(device, ..)| device.processed.get()).sum::<u64>();
    let all = (0..ROUNDS).map(|r| (0..20).filter(|i| (i + r) % 3 != 0).count() as u64).sum::<u64>();
    turn_until(&p.ctx, || sum() == all);
    guest.join().unwrap();
    p.sleep();
    for (device, ..) in &devices {
        assert_eq!(device.begins.get(), device.ends.get());
    }
}

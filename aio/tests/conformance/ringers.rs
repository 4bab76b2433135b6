//! Eventfds of others, rung with the system call in which the loop sleeps.

use crate::setup::Setup;
use crate::support::{Count, look, os, turn_until};
use aio::{AioContext, BusyPolling, Embedded, EventNotifier, NotifierRegistration, Reset, Ringer};
use std::cell::Cell;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::time::Duration;

/// A handler that rings `other` when `kick` was rung.
fn answering(
    ctx: &AioContext,
    kick: &EventNotifier,
    other: &EventNotifier,
) -> (NotifierRegistration, Rc<Ringer>, Count) {
    let (ringer, calls) = (Rc::new(ctx.ringer()), Count::default());
    let registration = ctx.add_notifier(kick, {
        let (ringer, other, calls) = (Rc::clone(&ringer), other.clone(), calls.clone());
        move |_| {
            ringer.ring(&other, true).unwrap();
            calls.bump();
        }
    });
    (registration.unwrap(), ringer, calls)
}

fn classic() -> EventNotifier {
    EventNotifier::new(Reset::Classic).unwrap()
}

/// Rings the handler and lets it answer. The answer may still be on its way.
fn ask(ctx: &AioContext, kick: &EventNotifier, calls: &Count) {
    let before = calls.get();
    kick.notify().unwrap();
    turn_until(ctx, || calls.get() > before);
}

pub(crate) fn it_is_heard_when_the_loop_turns_again(setup: &Setup) {
    for policy in [BusyPolling::OFF, BusyPolling::OFF.lingering_ns(1_000_000), BusyPolling::up_to_ns(1_000)] {
        let ctx = setup.builder().busy_polling(policy).build().unwrap();
        let (kick, other) = (setup.notifier(), classic());
        let (_bell, _ringer, calls) = answering(&ctx, &kick, &other);
        for _ in 0..20 {
            ask(&ctx, &kick, &calls);
            look(&ctx);
            assert!(other.test_and_clear().unwrap(), "{policy:?}");
        }
    }
}

pub(crate) fn it_is_heard_while_the_loop_sleeps(setup: &Setup) {
    let ctx = setup.context();
    let (kick, other) = (setup.notifier(), classic());
    let (_bell, _ringer, calls) = answering(&ctx, &kick, &other);
    // Another thread waits for the answer before it lets the loop sleep no longer.
    let (waits, handle, asks) = (other.clone(), ctx.handle(), kick.clone());
    let thread = std::thread::spawn(move || {
        for _ in 0..50 {
            asks.notify().unwrap();
            while !waits.test_and_clear().unwrap() {
                std::thread::yield_now();
            }
        }
        handle.stop();
    });
    ctx.run().unwrap();
    thread.join().unwrap();
    assert!(calls.get() >= 50);
}

pub(crate) fn it_rides_on_the_sleep(setup: &Setup) {
    let ctx = setup.context();
    let (kick, other) = (setup.notifier(), classic());
    let (_bell, _ringer, calls) = answering(&ctx, &kick, &other);
    for _ in 0..3 {
        ask(&ctx, &kick, &calls);
        look(&ctx);
        assert!(other.test_and_clear().unwrap());
    }
    ask(&ctx, &kick, &calls);
    if ctx.monitor().ring.is_none() {
        assert!(other.test_and_clear().unwrap(), "there is nothing to ride on");
        return;
    }
    // Linux 5.17 and newer.
    if other.test_and_clear().unwrap() {
        return println!("skipped: this kernel has a completion for each operation");
    }
    let timer = ctx.timer(|_| ());
    timer.arm_after(Duration::from_millis(1));
    let before = ctx.stats();
    turn_until(&ctx, || ctx.stats().timers > before.timers);
    assert!(other.test_and_clear().unwrap());
    let stats = ctx.stats() - before;
    assert_eq!(stats.syscalls(), stats.turns, "a wait for each turn, and no other call: {stats:?}");
}

pub(crate) fn it_is_at_once_if_the_loop_has_more_to_do(setup: &Setup) {
    let ctx = setup.context();
    let (kick, other) = (setup.notifier(), classic());
    let ringer = ctx.ringer();
    let calls = Count::default();
    let _bell = ctx.add_notifier(&kick, {
        let (other, calls) = (other.clone(), calls.clone());
        move |ctx: &AioContext| {
            let half = ctx.bottom_half(|_| ());
            half.schedule();
            ringer.ring(&other, true).unwrap();
            assert!(other.test_and_clear().unwrap());
            calls.bump();
        }
    });
    ask(&ctx, &kick, &calls);
}

pub(crate) fn dropping_the_ringer_loses_nothing(setup: &Setup) {
    let (ctx, kick) = (setup.context(), setup.notifier());
    let calls = Count::default();
    let other = classic();
    let _bell = ctx.add_notifier(&kick, {
        let (other, calls) = (other.clone(), calls.clone());
        move |ctx: &AioContext| {
            let ringer = ctx.ringer();
            ringer.ring(&other, true).unwrap();
            let another = classic();
            ringer.ring(&another, true).unwrap();
            assert!(other.test_and_clear().unwrap(), "rung before the other one took its place");
            drop(ringer);
            assert!(another.test_and_clear().unwrap());
            calls.bump();
        }
    });
    ask(&ctx, &kick, &calls);
    // Nothing is written later to descriptors that now have the closed one's number.
    let others: Vec<_> = (0..4).map(|_| classic()).collect();
    look(&ctx);
    assert!(others.iter().all(|other| !other.test_and_clear().unwrap()));
}

pub(crate) fn dropping_the_context_loses_nothing(setup: &Setup) {
    let ctx = setup.context();
    let (kick, other) = (setup.notifier(), classic());
    let (bell, ringer, calls) = answering(&ctx, &kick, &other);
    ask(&ctx, &kick, &calls);
    drop(bell);
    drop(ctx);
    assert!(other.test_and_clear().unwrap());
    ringer.ring(&other, true).unwrap();
    assert!(other.test_and_clear().unwrap(), "without a context it is notify");
}

pub(crate) fn a_peer_cannot_hold_it_up(setup: &Setup) {
    let peer = os::eventfd(libc::EFD_NONBLOCK);
    let other = match EventNotifier::adopt_from_peer(peer.try_clone().unwrap(), Reset::Classic) {
        Ok(other) => other,
        Err(refused) => return println!("skipped: {}", refused.error),
    };
    let (ctx, kick) = (setup.context(), setup.notifier());
    let (_bell, _ringer, calls) = answering(&ctx, &kick, &other);
    ask(&ctx, &kick, &calls);
    look(&ctx);
    // Linux 6.12 adds three.
    assert!(os::take_counter(&peer).is_some());
    for _ in 0..3 {
        os::add_to_counter(&peer, u64::MAX - 1);
        os::set_blocking(&peer);
        ask(&ctx, &kick, &calls);
        look(&ctx);
        os::take_counter(&peer);
    }
    // It was full, or could have blocked. The next one arrives all the same.
    for _ in 0..3 {
        os::set_blocking(&peer);
        ask(&ctx, &kick, &calls);
        look(&ctx);
        assert!(other.test_and_clear().unwrap());
    }
}

/// As after 2^64 - 2 rings that nobody has taken.
pub(crate) fn a_full_counter_is_rung(setup: &Setup) {
    let (ctx, kick) = (setup.context(), setup.notifier());
    let other = classic();
    let raw = other.as_fd().try_clone_to_owned().unwrap();
    let (_bell, _ringer, calls) = answering(&ctx, &kick, &other);
    for _ in 0..3 {
        os::take_counter(&raw);
        os::add_to_counter(&raw, u64::MAX - 1);
        ask(&ctx, &kick, &calls);
        (0..2).for_each(|_| _ = look(&ctx));
        let count = os::take_counter(&raw);
        assert!(count.is_some_and(|count| count < 10), "drained and rung again: {count:?}");
    }
}

/// Several rings of one turn, by one and by several ringers, for the eventfd of a peer: the ring
/// behind it has room for few messages.
pub(crate) fn many_rings_of_a_turn_do_not_deafen_it(setup: &Setup) {
    let peer = os::eventfd(libc::EFD_NONBLOCK);
    let other = match EventNotifier::adopt_from_peer(peer.try_clone().unwrap(), Reset::Classic) {
        Ok(other) => other,
        Err(refused) => return println!("skipped: {}", refused.error),
    };
    let (ctx, kick) = (setup.context(), setup.notifier());
    let (calls, times) = (Count::default(), Rc::new(Cell::new(5)));
    let ringers: Vec<Ringer> = (0..5).map(|_| ctx.ringer()).collect();
    let _bell = ctx.add_notifier(&kick, {
        let (other, calls, times) = (other.clone(), calls.clone(), Rc::clone(&times));
        move |_: &AioContext| {
            for ringer in ringers.iter().take(times.get()) {
                (0..times.get()).for_each(|_| ringer.ring(&other, true).unwrap());
            }
            calls.bump();
        }
    });
    for _ in 0..3 {
        ask(&ctx, &kick, &calls);
        look(&ctx);
        assert!(other.test_and_clear().unwrap());
    }
    times.set(1);
    for _ in 0..3 {
        ask(&ctx, &kick, &calls);
        look(&ctx);
        assert!(other.test_and_clear().unwrap());
    }
}

pub(crate) fn it_is_heard_when_the_loop_ends(setup: &Setup) {
    let (ctx, kick, other) = (setup.context(), setup.notifier(), classic());
    let ringer = ctx.ringer();
    let _bell = ctx.add_notifier(&kick, {
        let other = other.clone();
        move |ctx: &AioContext| {
            ringer.ring(&other, true).unwrap();
            ctx.handle().stop();
        }
    });
    for _ in 0..3 {
        kick.notify().unwrap();
        ctx.run().unwrap();
        assert!(other.test_and_clear().unwrap());
    }
}

/// An outer loop may have other things to do before it sleeps.
pub(crate) fn an_embedded_loop_does_not_wait(setup: &Setup) {
    if !setup.is_embedded {
        return;
    }
    let (ctx, kick, other) = (setup.context(), setup.notifier(), classic());
    let (_bell, _ringer, calls) = answering(&ctx, &kick, &other);
    let embedded = Embedded::new(&ctx).unwrap();
    for n in 1..=3 {
        kick.notify().unwrap();
        while calls.get() < n {
            let prepared = embedded.prepare().unwrap();
            os::poll_readable(&embedded, prepared.timeout());
            if embedded.check().unwrap() {
                embedded.dispatch().unwrap();
            }
        }
        assert!(other.test_and_clear().unwrap());
    }
}

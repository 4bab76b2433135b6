//! Signals: a handler without SA_RESTART ends every sleep with EINTR. No event may be lost because
//! of this, and no turn may fail.

use crate::levels::stream_a_megabyte;
use crate::setup::Setup;
use crate::support::{Count, os::SignalStorm, turn_until};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

pub(crate) fn a_signal_ends_a_sleep_without_an_error(setup: &Setup) {
    let ctx = setup.context();
    let storm = SignalStorm::start();
    // Nothing else can end these sleeps; `turn` fails on an error.
    let before = storm.sent();
    let mut turns = 0;
    while turns < 20 || storm.sent() < before + 100 {
        assert!(!ctx.poll(true).unwrap(), "a signal is not progress");
        turns += 1;
    }
}

pub(crate) fn nothing_is_lost_in_a_storm(setup: &Setup) {
    const WRITES: u64 = 2_000;
    let (ctx, notifier) = (setup.context(), setup.notifier());
    let (published, acknowledged) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let bell = ctx.add_notifier(&notifier, {
        let (published, acknowledged) = (Arc::clone(&published), Arc::clone(&acknowledged));
        move |_| acknowledged.store(published.load(Ordering::Relaxed), Ordering::Relaxed)
    });
    let _bell = bell.unwrap();
    let scheduled = Arc::new(AtomicU64::new(0));
    let guest = std::thread::spawn({
        let (acknowledged, handle, scheduled) =
            (Arc::clone(&acknowledged), ctx.handle(), Arc::clone(&scheduled));
        move || {
            for value in 1..=WRITES {
                published.store(value, Ordering::Relaxed);
                notifier.notify().unwrap();
                let scheduled = Arc::clone(&scheduled);
                handle.schedule(move |_| _ = scheduled.fetch_add(1, Ordering::Relaxed));
                // Wait for every ring: the signal may interrupt any of them.
                while acknowledged.load(Ordering::Relaxed) != value {
                    std::thread::yield_now();
                }
            }
        }
    });
    let storm = SignalStorm::start();
    turn_until(&ctx, || {
        acknowledged.load(Ordering::Relaxed) == WRITES && scheduled.load(Ordering::Relaxed) == WRITES
    });
    drop(storm);
    guest.join().unwrap();
}

pub(crate) fn timers_are_never_early_in_a_storm(setup: &Setup) {
    let ctx = setup.context();
    let (runs, early) = (Count::default(), Count::default());
    let _storm = SignalStorm::start();
    for n in 1..=20 {
        let at_ns = ctx.now_ns() + n * 20_000;
        let timer = ctx.timer({
            let (runs, early) = (runs.clone(), early.clone());
            move |ctx| {
                runs.bump();
                early.add(u64::from(ctx.now_ns() < at_ns));
            }
        });
        timer.arm_after(Duration::ZERO);
        timer.arm_at(at_ns);
        turn_until(&ctx, || runs.get() == n);
    }
    assert_eq!(early.get(), 0);
}

pub(crate) fn streams_arrive_whole_in_a_storm(setup: &Setup) {
    let _storm = SignalStorm::start();
    stream_a_megabyte(setup);
}

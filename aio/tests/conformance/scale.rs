//! Five thousand descriptors in one loop.

use crate::setup::Setup;
use crate::support::{Count, look, os, settle, turn_until};
use aio::{AioContext, EventNotifier, Interest, NotifierRegistration, Registration};
use std::os::fd::AsFd;
use std::sync::{Mutex, PoisonError};

const ALL: usize = 5_000;
/// Descriptors that the rest of the process needs.
const SPARE: u64 = 1_000;

/// One such test at a time, so that two of them fit under the limit.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

struct Crowd {
    bells: Vec<(EventNotifier, NotifierRegistration, Count)>,
    levels: Vec<(aio::EventNotifier, Registration, Count)>,
}

impl Crowd {
    /// Half of them doorbells, half of them fd handlers (of eventfds, the cheapest descriptors),
    /// which drain.
    fn new(setup: &Setup, ctx: &AioContext) -> Self {
        let bells = (0..ALL / 2).map(|_| {
            let (bell, calls) = (setup.notifier(), Count::default());
            let registration = ctx.add_notifier(&bell, {
                let calls = calls.clone();
                move |_| calls.bump()
            });
            (bell, registration.unwrap(), calls)
        });
        let levels = (0..ALL / 2).map(|_| {
            let (event, calls) = (EventNotifier::new(aio::Reset::Classic).unwrap(), Count::default());
            let registration = ctx.add_borrowed_fd(&event.as_fd(), Interest::READABLE, {
                let (event, calls) = (event.clone(), calls.clone());
                move |_, _| {
                    assert!(event.test_and_clear().unwrap());
                    calls.bump();
                }
            });
            (event, registration.unwrap(), calls)
        });
        Self { bells: bells.collect(), levels: levels.collect() }
    }

    fn calls(&self) -> impl Iterator<Item = u64> {
        let bells = self.bells.iter().map(|(.., calls)| calls.get());
        bells.chain(self.levels.iter().map(|(.., calls)| calls.get()))
    }

    fn ring(&self, i: usize) {
        let bells = self.bells.iter().map(|(bell, ..)| bell);
        let all = bells.chain(self.levels.iter().map(|(bell, ..)| bell));
        for bell in all.skip(i).step_by(ALL) {
            bell.notify().unwrap();
        }
    }
}

fn crowded(setup: &Setup, test: impl FnOnce(&AioContext, &Crowd)) {
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let limit = os::descriptor_limit();
    if limit < ALL as u64 + SPARE {
        eprintln!("skipped: {limit} descriptors allowed, {ALL} and some wanted; raise ulimit -n");
        return;
    }
    let ctx = setup.context();
    let crowd = Crowd::new(setup, &ctx);
    assert!(!look(&ctx));
    test(&ctx, &crowd);
}

pub(crate) fn five_thousand_ready_at_once(setup: &Setup) {
    crowded(setup, |ctx, crowd| {
        for round in 1..=2 {
            for (bell, ..) in &crowd.bells {
                bell.notify().unwrap();
            }
            for (event, ..) in &crowd.levels {
                event.notify().unwrap();
            }
            turn_until(ctx, || crowd.calls().all(|calls| calls >= round));
            settle(ctx);
            let levels = || crowd.levels.iter().map(|(.., calls)| calls.get());
            assert!(levels().all(|calls| calls == round), "each exactly once");
            // More events than the completion queue holds: doorbells may be rung again, but not
            // forever.
            assert!(crowd.calls().all(|calls| calls <= 5 * round));
        }
    });
}

pub(crate) fn one_ready_of_five_thousand(setup: &Setup) {
    crowded(setup, |ctx, crowd| {
        for (n, i) in [0, 1, 1_234, 2_499, 2_500, 4_321, 4_999].into_iter().enumerate() {
            crowd.ring(i);
            turn_until(ctx, || crowd.calls().nth(i) == Some(1));
            settle(ctx);
            assert_eq!(crowd.calls().sum::<u64>(), n as u64 + 1, "nobody else was called");
        }
    });
}

pub(crate) fn more_contexts_in_one_thread_than_it_has_ring_slots(setup: &Setup) {
    // A thread may register sixteen ring descriptors; the other rings do not register theirs.
    let contexts: Vec<_> = (0..20).map(|_| setup.context()).collect();
    let bells: Vec<_> = contexts
        .iter()
        .map(|ctx| {
            let (bell, calls) = (setup.notifier(), Count::default());
            let registration = ctx.add_notifier(&bell, {
                let calls = calls.clone();
                move |_| calls.bump()
            });
            (bell, registration.unwrap(), calls)
        })
        .collect();
    for round in 1..=3 {
        for (ctx, (bell, _, calls)) in contexts.iter().zip(&bells) {
            bell.notify().unwrap();
            turn_until(ctx, || calls.get() == round);
        }
    }
    drop(contexts);
    assert!(bells.iter().all(|(_, registration, _)| !registration.is_live()));
    // Their slots are free again.
    let ctx = setup.context();
    assert!(!look(&ctx));
}

//! Turns inside callbacks of every kind, including turns that sleep.

use crate::setup::Setup;
use crate::support::{Count, Slot, look, settle, turn, turn_until};
use aio::{AioContext, BusyPolled, Interest, Registration};
use std::cell::Cell;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::rc::Rc;

/// What a nested turn should find: one notifier that is rung in the callback, and nothing else.
struct Nested {
    inner: aio::EventNotifier,
    rings: Count,
}

impl Nested {
    fn new(setup: &Setup, ctx: &AioContext) -> Rc<Self> {
        let (inner, rings) = (setup.notifier(), Count::default());
        let bell = ctx.add_notifier(&inner, {
            let rings = rings.clone();
            move |_| rings.bump()
        });
        bell.unwrap().into_registration().detach();
        Rc::new(Self { inner, rings })
    }

    /// In a callback: rings and waits for it, as a block layer waits for a request in a synchronous
    /// call.
    fn wait_in_callback(&self, ctx: &AioContext) {
        let before = self.rings.get();
        let bell = self.inner.clone();
        let ringer = std::thread::spawn(move || bell.notify().unwrap());
        turn_until(ctx, || self.rings.get() > before);
        ringer.join().unwrap();
    }

    fn check(&self, ctx: &AioContext, times: u64) {
        assert!(self.rings.get() >= times, "{} of {times}", self.rings.get());
        settle(ctx);
    }
}

pub(crate) fn from_an_fd_handler(setup: &Setup) {
    let ctx = setup.context();
    let nested = Nested::new(setup, &ctx);
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let stream = theirs.try_clone().unwrap();
    let _on = ctx.add_borrowed_fd(&theirs, Interest::READABLE, {
        let nested = Rc::clone(&nested);
        move |ctx, _| {
            // Drained first: a nested turn would call it again.
            (&stream).read_exact(&mut [0]).unwrap();
            nested.wait_in_callback(ctx);
        }
    });
    for _ in 0..10 {
        ours.write_all(b"x").unwrap();
        assert!(turn(&ctx));
    }
    nested.check(&ctx, 10);
    assert_eq!(ctx.stats().fd_dispatches, 10);
}

pub(crate) fn from_a_notifier(setup: &Setup) {
    let ctx = setup.context();
    let nested = Nested::new(setup, &ctx);
    let (notifier, calls) = (setup.notifier(), Count::default());
    let bell = ctx.add_notifier(&notifier, {
        let (nested, calls) = (Rc::clone(&nested), calls.clone());
        move |ctx| {
            calls.bump();
            nested.wait_in_callback(ctx);
        }
    });
    let _bell = bell.unwrap();
    for n in 1..=10 {
        notifier.notify().unwrap();
        turn_until(&ctx, || calls.get() == n);
    }
    nested.check(&ctx, 10);
}

pub(crate) fn from_a_bottom_half(setup: &Setup) {
    let ctx = setup.context();
    let nested = Nested::new(setup, &ctx);
    let bh = ctx.bottom_half({
        let nested = Rc::clone(&nested);
        move |ctx| nested.wait_in_callback(ctx)
    });
    for _ in 0..10 {
        bh.schedule();
        assert!(turn(&ctx));
    }
    nested.check(&ctx, 10);
    assert_eq!(ctx.stats().bottom_halves, 10);
}

pub(crate) fn from_a_deferred_closure(setup: &Setup) {
    let ctx = setup.context();
    let nested = Nested::new(setup, &ctx);
    for _ in 0..10 {
        let nested = Rc::clone(&nested);
        ctx.defer(move |ctx| nested.wait_in_callback(ctx));
        assert!(turn(&ctx));
    }
    nested.check(&ctx, 10);
}

pub(crate) fn from_a_timer(setup: &Setup) {
    let ctx = setup.context();
    let nested = Nested::new(setup, &ctx);
    let timer = ctx.timer({
        let nested = Rc::clone(&nested);
        move |ctx| nested.wait_in_callback(ctx)
    });
    for _ in 0..10 {
        timer.arm_at(0);
        assert!(turn(&ctx));
    }
    nested.check(&ctx, 10);
    assert_eq!(ctx.stats().timers, 10);
}

struct NestingDevice {
    nested: Rc<Nested>,
    work: Cell<bool>,
    processed: Count,
}

impl BusyPolled for NestingDevice {
    fn process(&self, context: &AioContext) {
        if self.work.replace(false) {
            self.processed.bump();
            self.nested.wait_in_callback(context);
        }
    }

    fn is_ready(&self) -> bool {
        self.work.get()
    }
}

pub(crate) fn from_a_polled_device(setup: &Setup) {
    let builder = setup.builder().busy_polling(aio::BusyPolling::up_to_ns(20_000));
    let ctx = builder.build().unwrap();
    let device = Rc::new(NestingDevice {
        nested: Nested::new(setup, &ctx),
        work: Cell::new(false),
        processed: Count::default(),
    });
    let notifier = setup.notifier();
    let _bell = ctx.add_polled_notifier(&notifier, Rc::clone(&device)).unwrap();
    for n in 1..=10 {
        device.work.set(true);
        notifier.notify().unwrap();
        turn_until(&ctx, || device.processed.get() == n);
    }
    device.nested.check(&ctx, 10);
}

pub(crate) fn blocking_from_every_kind_of_callback(setup: &Setup) {
    // Each level sleeps until the one inside it is done: timer in handler in bottom half in timer.
    let ctx = setup.context();
    let depth = Count::default();
    let notifier = setup.notifier();
    let inner = Rc::new(ctx.timer({
        let depth = depth.clone();
        move |_| depth.bump()
    }));
    let bell = ctx.add_notifier(&notifier, {
        let (depth, inner) = (depth.clone(), Rc::clone(&inner));
        move |ctx| {
            if depth.get() == 0 {
                inner.arm_after(std::time::Duration::from_micros(300));
                turn_until(ctx, || depth.get() == 1);
                depth.bump();
            }
        }
    });
    let _bell = bell.unwrap();
    let bh = Rc::new(ctx.bottom_half({
        let (depth, notifier) = (depth.clone(), notifier.clone());
        move |ctx| {
            notifier.notify().unwrap();
            turn_until(ctx, || depth.get() == 2);
            depth.bump();
        }
    }));
    let outer = ctx.timer({
        let (depth, bh) = (depth.clone(), Rc::clone(&bh));
        move |ctx| {
            bh.schedule();
            turn_until(ctx, || depth.get() == 3);
            depth.bump();
        }
    });
    outer.arm_at(0);
    assert!(turn(&ctx));
    assert_eq!(depth.get(), 4);
    settle(&ctx);
}

pub(crate) fn what_the_parent_collected_is_dispatched_once(setup: &Setup) {
    const ALL: u64 = 10;
    let ctx = setup.context();
    let (calls, nested) = (Count::default(), Count::default());
    let notifiers: Vec<_> = (0..ALL).map(|_| setup.notifier()).collect();
    let bells: Vec<_> = notifiers
        .iter()
        .map(|notifier| {
            notifier.notify().unwrap();
            let (calls, nested) = (calls.clone(), nested.clone());
            let bell = ctx.add_notifier(notifier, move |ctx| {
                calls.bump();
                if calls.get() == 1 {
                    // The parent has collected all ten; the first handler lets a nested turn run
                    // the other nine.
                    assert!(turn(ctx));
                    nested.add(calls.get());
                }
            });
            bell.unwrap()
        })
        .collect();
    assert!(turn(&ctx));
    assert_eq!(nested.get(), ALL, "all had run when the nested turn returned");
    assert_eq!(calls.get(), ALL, "and none twice");
    assert!(!look(&ctx));
    drop(bells);
}

pub(crate) fn a_nested_turn_reenters_an_undrained_handler(setup: &Setup) {
    let ctx = setup.context();
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    ours.write_all(b"x").unwrap();
    let (depth, deepest) = (Count::default(), Rc::new(Cell::new(0)));
    let stream = theirs.try_clone().unwrap();
    let _on = ctx.add_borrowed_fd(&theirs, Interest::READABLE, {
        let (depth, deepest) = (depth.clone(), Rc::clone(&deepest));
        move |ctx, _| {
            depth.bump();
            deepest.set(depth.get());
            if depth.get() < 5 {
                assert!(turn(ctx), "still readable");
            } else {
                (&stream).read_exact(&mut [0]).unwrap();
            }
        }
    });
    assert!(turn(&ctx));
    assert_eq!(deepest.get(), 5);
    assert!(!look(&ctx));
}

pub(crate) fn deep_nesting_unwinds(setup: &Setup) {
    const DEPTH: u64 = 100;
    let ctx = setup.context();
    let depth = Count::default();
    let slot = Slot::new();
    slot.put(ctx.bottom_half({
        let (depth, slot) = (depth.clone(), slot.clone());
        move |ctx| {
            depth.bump();
            if depth.get() < DEPTH {
                slot.with(aio::BottomHalf::schedule);
                assert!(turn(ctx));
            }
        }
    }));
    slot.with(aio::BottomHalf::schedule);
    assert!(turn(&ctx));
    assert_eq!(depth.get(), DEPTH);
    assert!(!look(&ctx));
    drop(slot.take());
}

pub(crate) fn stop_in_a_nested_run_returns_to_the_outer(setup: &Setup) {
    let ctx = setup.context();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let slot = Slot::<Registration>::new();
    let unwound = Count::default();
    let on = ctx.add_borrowed_fd(&theirs, Interest::WRITABLE, {
        let (slot, unwound) = (slot.clone(), unwound.clone());
        move |ctx, _| {
            drop(slot.take());
            for _ in 0..3 {
                let handle = ctx.handle();
                let stopper = std::thread::spawn(move || handle.stop());
                ctx.run().unwrap();
                stopper.join().unwrap();
                unwound.bump();
            }
            ctx.handle().stop();
        }
    });
    slot.put(on.unwrap());
    ctx.run().unwrap();
    assert_eq!(unwound.get(), 3);
    drop(ours);
}

pub(crate) fn two_contexts_in_one_thread(setup: &Setup) {
    let (outer, inner) = (setup.context(), Rc::new(setup.context()));
    let (request, answer) = (setup.notifier(), setup.notifier());
    let (asked, answered, done) = (Count::default(), Count::default(), Count::default());
    let on_request = inner.add_notifier(&request, {
        let (asked, answer) = (asked.clone(), answer.clone());
        move |_| {
            asked.bump();
            answer.notify().unwrap();
        }
    });
    let on_answer = outer.add_notifier(&answer, {
        let answered = answered.clone();
        move |_| answered.bump()
    });
    let _bells = (on_request.unwrap(), on_answer.unwrap());
    for n in 1..=10 {
        // A callback of one loop turns the other, which rings the first, whose nested turn handles
        // it.
        let (inner, request) = (Rc::clone(&inner), request.clone());
        let (asked, answered, on_done) = (asked.clone(), answered.clone(), done.clone());
        outer.defer(move |outer| {
            request.notify().unwrap();
            turn_until(&inner, || asked.get() == n);
            turn_until(outer, || answered.get() == n);
            on_done.bump();
        });
        assert!(turn(&outer));
        assert_eq!(done.get(), n);
    }
}

//! What a subscriber costs beside a handler: no allocation, no system call, and few instructions.

use crate::allocations::steady;
use crate::{doorbells, instructions, monitors};
use aio::subscriber::{Event, Ops, Subscriber, Subscribers};
use aio::{AioContext, EventNotifier, Interest, MonitorKind, Reset, Stats};
use std::cell::Cell;
use std::io::{PipeReader, Read, Write};
use std::rc::Rc;

/// Turns of [`steady`].
const TURNS: u64 = 120;

struct Device {
    kick: EventNotifier,
    input: PipeReader,
    kicks: u64,
    received: u64,
}

impl Subscriber for Device {
    fn init(&mut self, ops: &mut Ops<'_>) {
        ops.add_notifier(&self.kick, 0).unwrap();
        ops.add(&self.input, Interest::READABLE, 1).unwrap();
    }

    fn process(&mut self, event: Event, _: &mut Ops<'_>) {
        match event.data() {
            0 => self.kicks += 1,
            _ => self.received += self.input.read(&mut [0; 8]).unwrap() as u64,
        }
    }
}

/// What the loop's steady turns cost: allocations, and the calls that it counts.
fn cost(ctx: &AioContext, event: impl Fn()) -> (u64, Stats) {
    let turn = || {
        event();
        assert!(ctx.poll(true).unwrap());
    };
    turn();
    let before = ctx.stats();
    let allocations = steady(turn);
    (allocations, ctx.stats() - before)
}

fn calls(stats: Stats) -> [u64; 5] {
    [
        stats.syscalls_wait,
        stats.syscalls_enter,
        stats.syscalls_read,
        stats.syscalls(),
        stats.spurious + stats.stale,
    ]
}

#[test]
fn an_event_costs_what_it_costs_a_handler() {
    let mut rounds = 0;
    for bell in doorbells() {
        let name = format!("{} with {}", bell.kind, bell.method);
        let reset = Reset::AutoresetBy(bell.method);
        let (_, handler) = cost(&bell.ctx, || bell.kick.notify().unwrap());

        let builder = monitors().into_iter().find(|(kind, _)| *kind == bell.kind).unwrap().1;
        let ctx = builder.reset(reset).build().unwrap();
        let subscribers = Subscribers::new(&ctx);
        let kick = EventNotifier::new(reset).unwrap();
        let (input, mut output) = std::io::pipe().unwrap();
        let device = Device { kick: kick.clone(), input, kicks: 0, received: 0 };
        let id = subscribers.add(device).unwrap();
        let (allocations, subscriber) = cost(&ctx, || kick.notify().unwrap());
        assert_eq!((allocations, calls(subscriber)), (0, calls(handler)), "{name}");
        let kicks = subscribers.with(id, |device, _| device.kicks).unwrap();
        assert!(kicks > TURNS, "{name}: {kicks}");

        let before = ctx.stats();
        let allocations = steady(|| {
            output.write_all(b"x").unwrap();
            assert!(ctx.poll(true).unwrap());
        });
        let received = subscribers.with(id, |device, _| device.received).unwrap();
        assert_eq!((allocations, received), (0, TURNS), "{name}");
        assert_eq!((ctx.stats() - before).syscalls(), fd_handler(bell.kind), "{name}");
        rounds += 1;
    }
    assert!(rounds >= 3);
}

/// The system calls of as many turns with an fd handler.
fn fd_handler(kind: aio::MonitorKind) -> u64 {
    let builder = monitors().into_iter().find(|(other, _)| *other == kind).unwrap().1;
    let ctx = builder.build().unwrap();
    let (input, mut output) = std::io::pipe().unwrap();
    let input = Rc::new(input);
    let read = Rc::clone(&input);
    let _on = ctx.add_fd(input, Interest::READABLE, move |_, _| {
        assert_eq!((&*read).read(&mut [0; 8]).unwrap(), 1);
    });
    // Armed in the kernel, as that of the subscriber.
    ctx.poll(false).unwrap();
    let before = ctx.stats();
    steady(|| {
        output.write_all(b"x").unwrap();
        assert!(ctx.poll(true).unwrap());
    });
    (ctx.stats() - before).syscalls()
}

/// Looking at a subscriber between turns costs nothing either, nor does an event that is kept back
/// for a notifier allocate.
#[test]
fn with_and_rings_that_are_kept_back_allocate_nothing() {
    for (kind, builder) in monitors() {
        let ctx = builder.build().unwrap();
        let subscribers = Subscribers::new(&ctx);
        let kick = EventNotifier::new(Reset::Autoreset).unwrap();
        let (input, _output) = std::io::pipe().unwrap();
        let id = subscribers.add(Device { kick: kick.clone(), input, kicks: 0, received: 0 }).unwrap();
        let allocations = steady(|| {
            let before = subscribers.with(id, |device, ops| {
                kick.notify().unwrap();
                // Kept back.
                assert!(ops.context().poll(true).unwrap());
                device.kicks
            });
            let before = before.unwrap();
            while subscribers.with(id, |device, _| device.kicks).unwrap() == before {
                ctx.poll(true).unwrap();
            }
        });
        assert_eq!(allocations, 0, "{kind}");
    }
}

/// Instructions of a ring on epoll, by callback and by subscriber. The limit holds for optimised
/// code (`cargo test --release`); without optimisation the numbers are only printed.
#[test]
fn an_event_takes_few_instructions_more_than_a_callback() {
    const LIMIT: u64 = 100;
    let ctx = AioContext::builder().monitor(MonitorKind::Epoll).build().unwrap();
    let subscribers = Subscribers::new(&ctx);
    let kicks = [(); 2].map(|()| EventNotifier::new(Reset::Autoreset).unwrap());
    let (input, _output) = std::io::pipe().unwrap();
    let id = subscribers.add(Device { kick: kicks[0].clone(), input, kicks: 0, received: 0 }).unwrap();
    let calls = Rc::new(Cell::new(0));
    let counted = Rc::clone(&calls);
    let _bell = ctx.add_notifier(&kicks[1], move |_| counted.set(counted.get() + 1)).unwrap();
    let [subscriber, callback] = kicks.each_ref().map(|kick| {
        let turn = || {
            kick.notify().unwrap();
            assert!(ctx.poll(true).unwrap());
        };
        (0..20).for_each(|_| turn());
        instructions::during(|| (0..2).for_each(|_| turn()))
    });
    let kicks = subscribers.with(id, |device, _| device.kicks).unwrap();
    assert!(kicks >= 20 && calls.get() >= 20);
    let (Some(subscriber), Some(callback)) = (subscriber, callback) else { return };
    let more = subscriber.saturating_sub(callback) / 2;
    println!("a ring: {} instructions by callback, {more} more by subscriber", callback / 2);
    assert!(cfg!(debug_assertions) || more <= LIMIT, "{more} instructions, {LIMIT} at most");
}

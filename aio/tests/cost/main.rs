//! What the loop costs, exactly: system calls by kind, allocations, instructions. Counts, never
//! times.
//!
//! * `syscalls`: the loop's own counters;
//! * `strace`: the same, counted by strace;
//! * `allocations`: none in a steady-state turn;
//! * `subscribers`: what an event of a subscriber costs beside one of a handler;
//! * `tasks`: what awaiting costs beside a callback;
//! * `instructions`: the same number with a thousand registered notifiers as with one.
#![expect(unsafe_code, reason = "a counting allocator, single stepping, and operations on the ring")]

mod allocations;
mod instructions;
mod strace;
mod subscribers;
mod syscalls;
mod tasks;

use aio::{AioContext, Builder, EventNotifier, Method, MonitorKind, NotifierRegistration, Reset};
use std::cell::Cell;
use std::rc::Rc;

/// A builder for each monitor that this kernel has; prints which are left out, and why.
fn monitors() -> Vec<(MonitorKind, Builder)> {
    let mut monitors = Vec::new();
    for kind in MonitorKind::ALL {
        let builder = AioContext::builder().monitor(kind);
        match builder.clone().build() {
            Ok(_) => monitors.push((kind, builder)),
            Err(e) if kind == MonitorKind::IoUring => println!("skipped: {kind}: {e}"),
            Err(e) => panic!("{kind}: {e}"),
        }
    }
    monitors
}

/// A loop with one doorbell, both reset by the same method.
struct Doorbell {
    kind: MonitorKind,
    method: Method,
    ctx: AioContext,
    kick: EventNotifier,
    handled: Rc<Cell<u64>>,
    _registration: NotifierRegistration,
}

impl Doorbell {
    fn new(kind: MonitorKind, builder: Builder, method: Method) -> std::io::Result<Self> {
        let reset = Reset::AutoresetBy(method);
        let ctx = builder.reset(reset).build()?;
        let kick = EventNotifier::new(reset)?;
        let handled = Rc::new(Cell::new(0));
        let count = Rc::clone(&handled);
        let registration = ctx.add_notifier(&kick, move |_| count.set(count.get() + 1))?;
        assert_eq!(registration.method(), method);
        Ok(Self { kind, method, ctx, kick, handled, _registration: registration })
    }

    /// Rings and turns, once.
    fn turn(&self) {
        self.kick.notify().unwrap();
        assert!(self.ctx.poll(true).unwrap());
    }
}

/// Every monitor with every method that fits; prints which are left out, and why.
fn doorbells() -> Vec<Doorbell> {
    let mut doorbells = Vec::new();
    for (kind, builder) in monitors() {
        for method in Method::ALL {
            match Doorbell::new(kind, builder.clone(), method) {
                Ok(doorbell) => doorbells.push(doorbell),
                Err(e) => println!("skipped: {kind} with {method}: {e}"),
            }
        }
    }
    for must in [
        (MonitorKind::Poll, Method::Read),
        (MonitorKind::Epoll, Method::Read),
        (MonitorKind::Epoll, Method::Edge),
    ] {
        assert!(doorbells.iter().any(|d| (d.kind, d.method) == must), "no {must:?}");
    }
    doorbells
}

//! Shared by the test binaries: a hang guard, counters, and helpers that turn the loop.

mod guard;
pub(crate) mod os;
pub(crate) mod outer;

use aio::AioContext;
pub(crate) use guard::guarded;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

/// A counter that callbacks share.
#[derive(Clone, Debug, Default)]
pub(crate) struct Count(Rc<Cell<u64>>);

impl Count {
    pub(crate) fn get(&self) -> u64 {
        self.0.get()
    }

    pub(crate) fn bump(&self) {
        self.add(1);
    }

    pub(crate) fn add(&self, n: u64) {
        self.0.set(self.0.get() + n);
    }
}

/// A place that callbacks share, typically for a registration that one of them drops.
#[derive(Debug)]
pub(crate) struct Slot<T>(Rc<RefCell<Option<T>>>);

impl<T> Slot<T> {
    pub(crate) fn new() -> Self {
        Self(Rc::new(RefCell::new(None)))
    }

    pub(crate) fn put(&self, value: T) {
        drop(self.0.borrow_mut().replace(value));
    }

    pub(crate) fn take(&self) -> Option<T> {
        self.0.borrow_mut().take()
    }

    pub(crate) fn with<R>(&self, look: impl FnOnce(&T) -> R) -> R {
        look(self.0.borrow().as_ref().expect("the slot is empty"))
    }
}

impl<T> Clone for Slot<T> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

/// Runs one blocking turn. Returns true if it made progress.
pub(crate) fn turn(ctx: &AioContext) -> bool {
    outer::turn(ctx, true).expect("a blocking turn")
}

/// Runs one turn that does not sleep. Returns true if it made progress.
pub(crate) fn look(ctx: &AioContext) -> bool {
    outer::turn(ctx, false).expect("a turn without sleep")
}

/// Runs blocking turns until `done` returns true, as a user would.
pub(crate) fn turn_until(ctx: &AioContext, mut done: impl FnMut() -> bool) {
    while !done() {
        turn(ctx);
    }
}

/// Turns until there is nothing left to do, so that a test starts to count from an idle loop.
pub(crate) fn settle(ctx: &AioContext) {
    let mut quiet = 0;
    while quiet < 3 {
        quiet = if look(ctx) { 0 } else { quiet + 1 };
    }
}

/// Returns how many turns a loop with nothing to do makes in five milliseconds: one or two if it
/// sleeps, thousands if it spins.
pub(crate) fn turns_of_an_idle_loop(ctx: &AioContext) -> u64 {
    let over = Count::default();
    let timer = ctx.timer({
        let over = over.clone();
        move |_| over.bump()
    });
    let before = ctx.stats().turns;
    timer.arm_after(Duration::from_millis(5));
    turn_until(ctx, || over.get() != 0);
    ctx.stats().turns - before
}

/// More turns than this in [`turns_of_an_idle_loop`] mean that the loop spins. Signals and clean-up
/// may cause some turns.
pub(crate) const SPIN: u64 = 20;

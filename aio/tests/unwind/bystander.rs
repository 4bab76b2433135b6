//! A device whose hooks never panic: its `begin` and `end` have to balance whatever the others do.

use crate::bomb::Value;
use aio::{AioContext, BusyPolled};
use std::cell::Cell;

pub(crate) struct Bystander {
    begins: Cell<u32>,
    ends: Cell<u32>,
    calls: Cell<u32>,
    _capture: Value,
}

impl Bystander {
    pub(crate) fn new(capture: Value) -> Self {
        Self { begins: Cell::new(0), ends: Cell::new(0), calls: Cell::new(0), _capture: capture }
    }

    /// How often its doorbell was heard.
    pub(crate) fn calls(&self) -> u32 {
        self.calls.get()
    }

    /// What is wrong when it is polled no longer.
    pub(crate) fn complaint(&self) -> Option<String> {
        let (begins, ends) = (self.begins.get(), self.ends.get());
        (begins != ends).then(|| format!("another device had {begins} begins and {ends} ends"))
    }
}

impl BusyPolled for Bystander {
    fn process(&self, _: &AioContext) {
        self.calls.set(self.calls.get() + 1);
    }

    fn is_ready(&self) -> bool {
        false
    }

    fn begin(&self) {
        self.begins.set(self.begins.get() + 1);
    }

    fn end(&self) {
        self.ends.set(self.ends.get() + 1);
    }
}

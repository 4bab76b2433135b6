//! A subscriber made of closures, and what the tests of subscribers share.

use crate::support::Count;
use aio::subscriber::{Event, Ops, Subscriber};
use std::cell::RefCell;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

type Init = Box<dyn FnMut(&mut Ops<'_>)>;
type Process = Box<dyn FnMut(Event, &mut Ops<'_>)>;

/// A subscriber made of two closures. Counts its drop.
pub(crate) struct Probe {
    pub(crate) init: Init,
    pub(crate) process: Process,
    pub(crate) drops: Count,
}

impl Subscriber for Probe {
    fn init(&mut self, ops: &mut Ops<'_>) {
        (self.init)(ops);
    }

    fn process(&mut self, event: Event, ops: &mut Ops<'_>) {
        (self.process)(event, ops);
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.drops.bump();
    }
}

pub(crate) fn probe(
    init: impl FnMut(&mut Ops<'_>) + 'static,
    process: impl FnMut(Event, &mut Ops<'_>) + 'static,
) -> Probe {
    Probe { init: Box::new(init), process: Box::new(process), drops: Count::default() }
}

/// The data of the events, in order.
#[derive(Clone, Default)]
pub(crate) struct Log(pub(crate) Rc<RefCell<Vec<u32>>>);

impl Log {
    pub(crate) fn push(&self, event: Event) {
        self.0.borrow_mut().push(event.data());
    }

    /// What came since the last time.
    pub(crate) fn take(&self) -> Vec<u32> {
        self.0.take()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.borrow().len()
    }
}

/// A stream with a byte to read, and its peer.
pub(crate) fn readable_stream() -> (Rc<UnixStream>, UnixStream) {
    let (ours, mut peer) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    peer.write_all(b"x").unwrap();
    (Rc::new(ours), peer)
}

pub(crate) fn drain(stream: &UnixStream) {
    while matches!((&*stream).read(&mut [0; 16]), Ok(n) if n != 0) {}
}

pub(crate) fn kind_of<T: std::fmt::Debug>(result: std::io::Result<T>) -> ErrorKind {
    result.unwrap_err().kind()
}

pub(crate) fn panic_in(call: impl FnOnce()) -> bool {
    catch_unwind(AssertUnwindSafe(call)).is_err()
}

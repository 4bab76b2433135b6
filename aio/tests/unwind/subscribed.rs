//! A subscriber with a doorbell and a descriptor, and its manager.

use crate::bomb::{Hook, Value};
use crate::source::{Bench, Source, clear};
use aio::subscriber::{Event, Ops, Subscriber, Subscribers};
use aio::{AioContext, EventNotifier, Interest};
use std::cell::RefCell;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::rc::Rc;

pub(crate) struct Subscribed {
    bell: EventNotifier,
    writer: PipeWriter,
    manager: RefCell<Option<Subscribers>>,
}

struct Device {
    bench: Bench,
    bell: EventNotifier,
    reader: PipeReader,
    _capture: Value,
}

impl Subscriber for Device {
    fn init(&mut self, ops: &mut Ops<'_>) {
        ops.add_notifier(&self.bell, 0).expect("a notifier");
        ops.add(&self.reader, Interest::READABLE, 1).expect("a descriptor");
    }

    fn process(&mut self, event: Event, ops: &mut Ops<'_>) {
        if event.data() == 1 {
            let _ = self.reader.read(&mut [0]);
            // What comes meanwhile is kept back, and has to be heard after a panic.
            self.bell.notify().expect("notify");
            ops.context().poll(false).expect("a nested turn");
        }
        self.bench.called(Hook::Call);
    }
}

impl Subscribed {
    pub(crate) fn make(bench: &Bench, ctx: &AioContext) -> io::Result<Rc<dyn Source>> {
        let (bell, (reader, writer)) = (EventNotifier::new(bench.reset)?, io::pipe()?);
        let _capture = bench.capture("a subscriber");
        let manager = Subscribers::new(ctx);
        manager.add(Device { bench: bench.clone(), bell: bell.clone(), reader, _capture })?;
        Ok(Rc::new(Self { bell, writer, manager: RefCell::new(Some(manager)) }))
    }
}

impl Source for Subscribed {
    fn fire(&self, _: &AioContext) {
        (&self.writer).write_all(b"x").expect("room in the pipe");
        self.bell.notify().expect("notify");
    }

    fn remove(&self) {
        clear(&self.manager);
    }
}

//! Everything that can be registered with a loop, each with a hook that may panic.
#![expect(unsafe_code, reason = "submits SQEs whose buffers and descriptors the operation owns")]

use crate::bomb::{Fuse, Hook, Ledger, Owned, OwnedReader, OwnedWriter, Value};
use crate::bystander::Bystander;
use crate::os;
use crate::owned::{Moving, Pool, Receiving, Starting, Task};
use crate::subscribed::Subscribed;
use aio::io_uring::{opcode, types};
use aio::{
    AioContext, BottomHalf, BoundedMethod, BoundedNotifier, BoundedRegistration, BusyPolled, Clock,
    EventNotifier, Interest, NotifierRegistration, OperationId, Operations, Registration, Reset, Timer,
    WritableRegistration,
};
use std::cell::{Cell, RefCell};
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// What is registered or submitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Fd,
    Notifier,
    Device,
    BoundedAtomic,
    BoundedCredit,
    Writable,
    Timer,
    VirtualTimer,
    BottomHalf,
    Defer,
    Schedule,
    Blocking,
    Operations,
    Submit,
    Multishot,
    Read,
    Write,
    Start,
    StartMultishot,
    Pool,
    Task,
    Attach,
    Detach,
    Subscriber,
}

impl Kind {
    pub(crate) const ALL: [Self; 24] = [
        Self::Fd,
        Self::Notifier,
        Self::Device,
        Self::BoundedAtomic,
        Self::BoundedCredit,
        Self::Writable,
        Self::Timer,
        Self::VirtualTimer,
        Self::BottomHalf,
        Self::Defer,
        Self::Schedule,
        Self::Blocking,
        Self::Operations,
        Self::Submit,
        Self::Multishot,
        Self::Read,
        Self::Write,
        Self::Start,
        Self::StartMultishot,
        Self::Pool,
        Self::Task,
        Self::Attach,
        Self::Detach,
        Self::Subscriber,
    ];

    pub(crate) fn needs_ring(self) -> bool {
        matches!(
            self,
            Self::Operations
                | Self::Submit
                | Self::Multishot
                | Self::Read
                | Self::Write
                | Self::Start
                | Self::StartMultishot
                | Self::Pool
        )
    }

    /// Runs once, so there is nothing to remove.
    pub(crate) fn is_one_shot(self) -> bool {
        matches!(
            self,
            Self::Defer
                | Self::Schedule
                | Self::Blocking
                | Self::Submit
                | Self::Multishot
                | Self::Read
                | Self::Write
                | Self::Start
                | Self::StartMultishot
                | Self::Task
                | Self::Attach
                | Self::Detach
        )
    }

    /// Has a descriptor, whose handler another registration replaces.
    pub(crate) fn is_handler(self) -> bool {
        matches!(self, Self::Fd | Self::Notifier | Self::Device | Self::BoundedAtomic | Self::BoundedCredit)
    }

    /// Can be fired again and again.
    pub(crate) fn is_repeatable(self) -> bool {
        !self.is_one_shot() && !matches!(self, Self::Writable | Self::Operations | Self::Pool)
    }

    /// The hooks of this kind.
    pub(crate) fn has(self, hook: Hook) -> bool {
        match hook {
            Hook::Call => self != Self::Device,
            Hook::Process | Hook::IsReady | Hook::Begin | Hook::End => self == Self::Device,
            Hook::Capture => !matches!(self, Self::Attach | Self::Detach),
            Hook::Held => self.needs_ring(),
        }
    }
}

type Once = Box<dyn FnOnce()>;

/// What a source is made of.
#[derive(Clone)]
pub(crate) struct Bench {
    pub(crate) fuse: Fuse,
    pub(crate) ledger: Ledger,
    pub(crate) reset: Reset,
    /// How often a callback, or `process`, was called.
    pub(crate) calls: Rc<Cell<u32>>,
    /// What the next callback does first, once: usually it removes its own registration.
    pub(crate) on_call: Rc<RefCell<Option<Once>>>,
}

impl Bench {
    pub(crate) fn new(fuse: &Fuse, ledger: &Ledger, reset: Reset) -> Self {
        Self {
            fuse: fuse.clone(),
            ledger: ledger.clone(),
            reset,
            calls: Rc::default(),
            on_call: Rc::default(),
        }
    }

    pub(crate) fn called(&self, hook: Hook) {
        self.calls.set(self.calls.get() + 1);
        let on_call = self.on_call.take();
        if let Some(on_call) = on_call {
            on_call();
        }
        self.fuse.reach(hook);
    }

    pub(crate) fn capture(&self, name: &'static str) -> Value {
        self.ledger.value(name, Hook::Capture)
    }

    pub(crate) fn held(&self, name: &'static str) -> Value {
        self.ledger.value(name, Hook::Held)
    }

    /// A callback with a capture.
    pub(crate) fn callback(&self, name: &'static str) -> impl Fn(&AioContext) + 'static {
        let (bench, capture) = (self.clone(), self.capture(name));
        move |_| {
            let _ = &capture;
            bench.called(Hook::Call);
        }
    }
}

pub(crate) trait Source {
    /// Submits what is to be in flight.
    fn prime(&self, _: &AioContext) {}

    /// Brings a device into the state in which its doorbell is off.
    fn warm(&self, _: &AioContext) {}

    /// Leaves something to run that no turn has run yet.
    fn pend(&self, _: &AioContext) {}

    /// Makes one of the next turns reach the hook.
    fn fire(&self, context: &AioContext);

    /// The same for a device that is polled, without its doorbell. Returns false if this is none.
    fn fire_in_memory(&self) -> bool {
        false
    }

    /// Drops what the user holds of it.
    fn remove(&self) {}

    /// Registers another handler for the same descriptor.
    fn replace(&self, _: &AioContext) {}

    /// What is wrong after the context has been dropped.
    fn complaints(&self) -> Vec<String> {
        Vec::new()
    }
}

pub(crate) fn make(kind: Kind, bench: &Bench, ctx: &AioContext) -> io::Result<Rc<dyn Source>> {
    Ok(match kind {
        Kind::Fd => Fd::make(bench, ctx)?,
        Kind::Notifier => Notifier::make(bench, ctx)?,
        Kind::Device => Doorbell::make(bench, ctx)?,
        Kind::BoundedAtomic => Bounded::make(bench, ctx, BoundedMethod::Atomic)?,
        Kind::BoundedCredit => Bounded::make(bench, ctx, BoundedMethod::Credit)?,
        Kind::Writable => Writable::make(bench, ctx)?,
        Kind::Timer => Clocked::make(bench, ctx, Clock::Realtime),
        Kind::VirtualTimer => Clocked::make(bench, ctx, Clock::Virtual),
        Kind::BottomHalf => Half::make(bench, ctx),
        Kind::Defer | Kind::Schedule => {
            Rc::new(Closure { bench: bench.clone(), remote: kind == Kind::Schedule })
        }
        Kind::Blocking => Rc::new(Work(bench.clone())),
        Kind::Operations => Shared::make(bench, ctx)?,
        Kind::Submit | Kind::Multishot | Kind::Read => Reading::make(kind, bench)?,
        Kind::Write => Writing::make(bench)?,
        Kind::Start => Starting::make(bench)?,
        Kind::StartMultishot => Receiving::make(bench)?,
        Kind::Pool => Pool::make(bench, ctx)?,
        Kind::Task => Rc::new(Task(bench.clone())),
        Kind::Attach | Kind::Detach => Moving::make(kind, bench)?,
        Kind::Subscriber => Subscribed::make(bench, ctx)?,
    })
}

/// Takes what is in a cell, and drops it when the cell is no longer borrowed.
pub(crate) fn clear<T>(cell: &RefCell<Option<T>>) {
    let taken = cell.take();
    drop(taken);
}

struct Fd {
    bench: Bench,
    reader: Rc<PipeReader>,
    writer: PipeWriter,
    on: RefCell<Option<Registration>>,
}

impl Fd {
    fn make(bench: &Bench, ctx: &AioContext) -> io::Result<Rc<dyn Source>> {
        let (reader, writer) = io::pipe()?;
        let this =
            Rc::new(Self { bench: bench.clone(), reader: Rc::new(reader), writer, on: RefCell::default() });
        this.on.replace(Some(this.register(ctx)?));
        Ok(this)
    }

    fn register(&self, ctx: &AioContext) -> io::Result<Registration> {
        let (call, reader) = (self.bench.callback("the capture of an fd handler"), Rc::clone(&self.reader));
        let on = ctx.add_borrowed_fd(&self.reader, Interest::READABLE, move |ctx, _| {
            let _ = (&*reader).read(&mut [0]);
            call(ctx);
        });
        Ok(on?)
    }
}

impl Source for Fd {
    fn fire(&self, _: &AioContext) {
        (&self.writer).write_all(b"x").expect("room in the pipe");
    }

    fn remove(&self) {
        clear(&self.on);
    }

    fn replace(&self, ctx: &AioContext) {
        let next = self.register(ctx).expect("a second handler");
        let old = self.on.replace(Some(next));
        drop(old);
    }
}

struct Notifier {
    bench: Bench,
    bell: EventNotifier,
    on: RefCell<Option<NotifierRegistration>>,
}

impl Notifier {
    fn make(bench: &Bench, ctx: &AioContext) -> io::Result<Rc<dyn Source>> {
        let (bench, bell) = (bench.clone(), EventNotifier::new(bench.reset)?);
        let on = ctx.add_notifier(&bell, bench.callback("the capture of a notifier's callback"))?;
        Ok(Rc::new(Self { bench, bell, on: RefCell::new(Some(on)) }))
    }
}

impl Source for Notifier {
    fn fire(&self, _: &AioContext) {
        self.bell.notify().expect("notify");
    }

    fn remove(&self) {
        clear(&self.on);
    }

    fn replace(&self, ctx: &AioContext) {
        let next = ctx.add_notifier(&self.bell, self.bench.callback("the capture of the second callback"));
        let old = self.on.replace(Some(next.expect("a second handler")));
        drop(old);
    }
}

#[derive(Default)]
struct Queue {
    requests: Cell<u32>,
    begins: Cell<u32>,
    ends: Cell<u32>,
}

impl Queue {
    fn is_begun(&self) -> bool {
        self.begins.get() > self.ends.get()
    }
}

struct Device {
    bench: Bench,
    queue: Rc<Queue>,
    /// Dropped last.
    _capture: Value,
}

impl BusyPolled for Device {
    fn process(&self, _: &AioContext) {
        self.queue.requests.set(0);
        self.bench.called(Hook::Process);
    }

    fn is_ready(&self) -> bool {
        self.bench.fuse.reach(Hook::IsReady);
        self.queue.requests.get() != 0
    }

    fn begin(&self) {
        self.queue.begins.set(self.queue.begins.get() + 1);
        self.bench.fuse.reach(Hook::Begin);
    }

    fn end(&self) {
        self.queue.ends.set(self.queue.ends.get() + 1);
        self.bench.fuse.reach(Hook::End);
    }
}

struct Doorbell {
    bench: Bench,
    bell: EventNotifier,
    queue: Rc<Queue>,
    on: RefCell<Option<NotifierRegistration>>,
    /// Polled after the device.
    next: Rc<Bystander>,
    nexts_bell: EventNotifier,
    _on_next: NotifierRegistration,
}

impl Doorbell {
    fn make(bench: &Bench, ctx: &AioContext) -> io::Result<Rc<dyn Source>> {
        let (bench, bell) = (bench.clone(), EventNotifier::new(bench.reset)?);
        let nexts_bell = EventNotifier::new(bench.reset)?;
        let next = Rc::new(Bystander::new(bench.ledger.witness("the next device")));
        let _on_next = ctx.add_polled_notifier(&nexts_bell, Rc::clone(&next))?;
        let (queue, on) = (Rc::default(), RefCell::default());
        let this = Rc::new(Self { bench, bell, queue, on, next, nexts_bell, _on_next });
        this.on.replace(Some(ctx.add_polled_notifier(&this.bell, this.device("a device"))?));
        Ok(this)
    }

    fn device(&self, name: &'static str) -> Rc<Device> {
        let (bench, queue) = (self.bench.clone(), Rc::clone(&self.queue));
        Rc::new(Device { _capture: bench.capture(name), bench, queue })
    }
}

impl Source for Doorbell {
    fn warm(&self, ctx: &AioContext) {
        // The first event, by the doorbell, opens a window. A later one that is found in memory,
        // while there is nothing to submit or to reap, begins the mode.
        let alarm = ctx.timer(|_| ());
        for n in 0..2000 {
            if self.queue.is_begun() && self.next.calls() > 0 {
                return;
            }
            if self.queue.is_begun() {
                // Looks without a sleep do not end the mode.
                self.nexts_bell.notify().expect("notify");
                ctx.poll(false).expect("a turn");
                continue;
            }
            self.queue.requests.set(1);
            if n % 100 == 0 {
                self.bell.notify().expect("notify");
            }
            alarm.arm_after(Duration::from_micros(100));
            ctx.poll(true).expect("a turn");
        }
        panic!("busy polling did not begin");
    }

    fn fire(&self, _: &AioContext) {
        self.queue.requests.set(1);
        self.bell.notify().expect("notify");
    }

    fn fire_in_memory(&self) -> bool {
        self.queue.requests.set(1);
        true
    }

    fn remove(&self) {
        clear(&self.on);
    }

    fn replace(&self, ctx: &AioContext) {
        let next = ctx.add_polled_notifier(&self.bell, self.device("the second device"));
        let old = self.on.replace(Some(next.expect("a second handler")));
        drop(old);
    }

    fn complaints(&self) -> Vec<String> {
        let mut complaints: Vec<_> = self.next.complaint().into_iter().collect();
        let (begins, ends) = (self.queue.begins.get(), self.queue.ends.get());
        // Whether a `begin` that panicked is followed by an `end` is left open.
        if begins != ends && self.bench.fuse.at() != Hook::Begin {
            complaints.push(format!("the device had {begins} begins and {ends} ends"));
        }
        complaints
    }
}

struct Bounded {
    bench: Bench,
    notifier: BoundedNotifier,
    on: RefCell<Option<BoundedRegistration>>,
}

impl Bounded {
    fn make(bench: &Bench, ctx: &AioContext, method: BoundedMethod) -> io::Result<Rc<dyn Source>> {
        let builder = BoundedNotifier::builder(16).method(method);
        let builder = if method == BoundedMethod::Atomic { builder.reset(bench.reset) } else { builder };
        let this = Rc::new(Self { bench: bench.clone(), notifier: builder.build()?, on: RefCell::default() });
        this.on.replace(Some(this.register(ctx)?));
        Ok(this)
    }

    fn register(&self, ctx: &AioContext) -> io::Result<BoundedRegistration> {
        let call = self.bench.callback("the capture of a bounded notifier's callback");
        Ok(ctx.add_bounded(&self.notifier, move |ctx, _| call(ctx))?)
    }
}

impl Source for Bounded {
    fn fire(&self, _: &AioContext) {
        self.notifier.try_notify(1).expect("room for one");
    }

    fn remove(&self) {
        clear(&self.on);
    }

    fn replace(&self, ctx: &AioContext) {
        let next = self.register(ctx).expect("a second handler");
        let old = self.on.replace(Some(next));
        drop(old);
    }
}

struct Writable {
    notifier: BoundedNotifier,
    on: RefCell<Option<WritableRegistration>>,
}

impl Writable {
    /// It waits for room from the beginning.
    fn make(bench: &Bench, ctx: &AioContext) -> io::Result<Rc<dyn Source>> {
        let notifier = BoundedNotifier::builder(2).method(BoundedMethod::Atomic).build()?;
        notifier.try_notify(1)?;
        let on = ctx.add_writable(&notifier, bench.callback("the capture of a callback for room"))?;
        on.arm()?;
        Ok(Rc::new(Self { notifier, on: RefCell::new(Some(on)) }))
    }
}

impl Source for Writable {
    fn fire(&self, _: &AioContext) {
        assert_eq!(self.notifier.try_take().expect("a count"), Some(1));
    }

    fn remove(&self) {
        clear(&self.on);
    }
}

struct Clocked(RefCell<Option<Timer>>);

impl Clocked {
    fn make(bench: &Bench, ctx: &AioContext, clock: Clock) -> Rc<dyn Source> {
        let timer = ctx.timer_on(clock, bench.callback("the capture of a timer's callback"));
        Rc::new(Self(RefCell::new(Some(timer))))
    }
}

impl Source for Clocked {
    fn pend(&self, ctx: &AioContext) {
        self.fire(ctx);
    }

    fn fire(&self, _: &AioContext) {
        if let Some(timer) = &*self.0.borrow() {
            timer.arm_at(0);
        }
    }

    fn remove(&self) {
        clear(&self.0);
    }
}

struct Half(RefCell<Option<BottomHalf>>);

impl Half {
    fn make(bench: &Bench, ctx: &AioContext) -> Rc<dyn Source> {
        let half = ctx.bottom_half(bench.callback("the capture of a bottom half"));
        Rc::new(Self(RefCell::new(Some(half))))
    }
}

impl Source for Half {
    fn pend(&self, ctx: &AioContext) {
        self.fire(ctx);
    }

    fn fire(&self, _: &AioContext) {
        if let Some(half) = &*self.0.borrow() {
            half.schedule();
        }
    }

    fn remove(&self) {
        clear(&self.0);
    }
}

/// A closure that runs once: deferred, or (`remote`) handed over as another thread would.
struct Closure {
    bench: Bench,
    remote: bool,
}

impl Source for Closure {
    fn pend(&self, ctx: &AioContext) {
        self.fire(ctx);
    }

    fn fire(&self, ctx: &AioContext) {
        if self.remote {
            let (fuse, capture) =
                (self.bench.fuse.clone(), self.bench.capture("the capture of a scheduled closure"));
            ctx.handle().schedule(move |_| {
                let _capture = capture;
                fuse.reach(Hook::Call);
            });
        } else {
            let (bench, capture) =
                (self.bench.clone(), self.bench.capture("the capture of a deferred closure"));
            ctx.defer(move |_| {
                let _capture = capture;
                bench.called(Hook::Call);
            });
        }
    }
}

/// Work in a worker thread, and its callback.
struct Work(Bench);

impl Source for Work {
    fn pend(&self, ctx: &AioContext) {
        self.fire(ctx);
    }

    fn fire(&self, ctx: &AioContext) {
        let call = self.0.callback("the capture of a callback for blocking work");
        ctx.spawn_blocking(|| (), move |ctx, _| call(ctx)).expect("a worker thread");
    }
}

/// What an operation owns. The buffer is dropped after the file.
struct Request {
    file: OwnedReader,
    buffer: Box<[u8]>,
}

impl Request {
    const BYTES: u32 = 4096;

    fn new(bench: &Bench, reader: PipeReader, writer: &Arc<PipeWriter>) -> Self {
        let file = Owned::new(&bench.ledger, reader, writer, bench.held("what an operation holds"));
        Self { file, buffer: vec![0; Self::BYTES as usize].into() }
    }

    fn entry(&mut self) -> aio::io_uring::squeue::Entry {
        let fd = types::Fd(self.file.as_fd().as_raw_fd());
        opcode::Read::new(fd, self.buffer.as_mut_ptr(), Self::BYTES).offset(u64::MAX).build()
    }
}

/// Operations with a shared callback.
struct Shared {
    bench: Bench,
    writer: RefCell<Option<Arc<PipeWriter>>>,
    operations: RefCell<Option<Operations<Request>>>,
}

impl Shared {
    fn make(bench: &Bench, ctx: &AioContext) -> io::Result<Rc<dyn Source>> {
        let (call, bench) = (bench.callback("the capture of a callback for operations"), bench.clone());
        let operations = ctx.operations(move |ctx, _, _: Request| call(ctx))?;
        let operations = RefCell::new(Some(operations));
        Ok(Rc::new(Self { bench, writer: RefCell::default(), operations }))
    }
}

impl Source for Shared {
    fn prime(&self, _: &AioContext) {
        let (reader, writer) = io::pipe().expect("a pipe");
        let writer = Arc::new(writer);
        let mut request = Request::new(&self.bench, reader, &writer);
        let (entry, operations) = (request.entry(), self.operations.borrow());
        // SAFETY: the request owns the file and the buffer, which is on the heap.
        let id = operations.as_ref().map(|operations| unsafe { operations.submit(entry, request) });
        id.expect("not removed yet").expect("submitted");
        self.writer.replace(Some(writer));
    }

    fn fire(&self, _: &AioContext) {
        let writer = self.writer.borrow();
        (&**writer.as_ref().expect("primed")).write_all(b"x").expect("room in the pipe");
    }

    fn remove(&self) {
        clear(&self.operations);
    }
}

/// One operation on the reading end of a pipe with a callback of its own.
struct Reading {
    kind: Kind,
    bench: Bench,
    reader: Cell<Option<PipeReader>>,
    writer: Arc<PipeWriter>,
    id: Cell<Option<OperationId>>,
}

impl Reading {
    fn make(kind: Kind, bench: &Bench) -> io::Result<Rc<dyn Source>> {
        let (reader, writer) = io::pipe()?;
        let (bench, reader) = (bench.clone(), Cell::new(Some(reader)));
        Ok(Rc::new(Self { kind, bench, reader, writer: Arc::new(writer), id: Cell::default() }))
    }
}

impl Source for Reading {
    fn prime(&self, ctx: &AioContext) {
        let reader = self.reader.take().expect("primed once");
        let call = self.bench.callback("the capture of an operation's callback");
        let id = match self.kind {
            Kind::Submit => {
                let mut request = Request::new(&self.bench, reader, &self.writer);
                let entry = request.entry();
                // SAFETY: the request owns the file and the buffer, which is on the heap.
                let id = unsafe { ctx.submit(entry, request, move |ctx, _, _request| call(ctx)) };
                id.map_err(io::Error::from)
            }
            Kind::Multishot => {
                let request = Request::new(&self.bench, reader, &self.writer);
                let fd = types::Fd(request.file.as_fd().as_raw_fd());
                let entry = opcode::PollAdd::new(fd, libc::POLLIN as u32).multi(true).build();
                // SAFETY: points to nothing, and the request owns the file.
                let id = unsafe { ctx.submit_multishot(entry, request, move |ctx, _, _, _| call(ctx)) };
                id.map_err(io::Error::from)
            }
            _ => {
                let held = self.bench.held("the file of a read");
                let file = Owned::new(&self.bench.ledger, reader, &self.writer, held);
                let id = ctx.read_at(file, vec![0; 4096], u64::MAX, move |ctx, _, _, _| call(ctx));
                id.map_err(io::Error::from)
            }
        };
        self.id.set(Some(id.expect("submitted")));
    }

    fn fire(&self, ctx: &AioContext) {
        match self.id.get() {
            // Only its end drops what a multishot operation holds.
            Some(id) if self.kind == Kind::Multishot && self.bench.fuse.at() != Hook::Call => {
                assert!(ctx.cancel(id), "in flight");
            }
            _ => (&*self.writer).write_all(b"x").expect("room in the pipe"),
        }
    }
}

/// A write to a pipe that is full.
struct Writing {
    bench: Bench,
    reader: Arc<PipeReader>,
    writer: Cell<Option<PipeWriter>>,
    size: usize,
}

impl Writing {
    fn make(bench: &Bench) -> io::Result<Rc<dyn Source>> {
        let (reader, mut writer) = io::pipe()?;
        let size = os::shrink_pipe(&writer);
        writer.write_all(&vec![0; size])?;
        let (bench, writer) = (bench.clone(), Cell::new(Some(writer)));
        Ok(Rc::new(Self { bench, reader: Arc::new(reader), writer, size }))
    }
}

impl Source for Writing {
    fn prime(&self, ctx: &AioContext) {
        let held = self.bench.held("the file of a write");
        let writer = self.writer.take().expect("primed once");
        let file = Owned::<_, PipeReader>::new(&self.bench.ledger, writer, &self.reader, held);
        let file: OwnedWriter = file;
        let call = self.bench.callback("the capture of a write's callback");
        let id = ctx.write_at(file, vec![1; 4096], u64::MAX, move |ctx, _, _, _| call(ctx));
        id.expect("submitted");
    }

    fn fire(&self, _: &AioContext) {
        let mut all = vec![0; self.size];
        (&*self.reader).read_exact(&mut all).expect("the pipe is full");
    }
}

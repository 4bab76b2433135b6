//! Operations that own what the kernel needs, tasks, and devices that move.

use crate::bomb::{Fuse, Hook, Owned, OwnedReader, Value};
use crate::source::{Bench, Kind, Source, clear};
use aio::op::{PollOnce, RecvMultishot};
use aio::{AioContext, Home, Hosted, Interest, Movable, OperationId, OperationPool};
use std::cell::{Cell, RefCell};
use std::io::{self, PipeReader, PipeWriter, Write};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::Arc;

/// A wait for a pipe: `start`.
pub(crate) struct Starting {
    bench: Bench,
    reader: Cell<Option<PipeReader>>,
    writer: Arc<PipeWriter>,
}

impl Starting {
    pub(crate) fn make(bench: &Bench) -> io::Result<Rc<dyn Source>> {
        let (reader, writer) = io::pipe()?;
        let (reader, writer) = (Cell::new(Some(reader)), Arc::new(writer));
        Ok(Rc::new(Self { bench: bench.clone(), reader, writer }))
    }
}

impl Source for Starting {
    fn prime(&self, ctx: &AioContext) {
        let (reader, held) = (self.reader.take().expect("primed once"), self.bench.held("a file"));
        let file = Owned::new(&self.bench.ledger, reader, &self.writer, held);
        let call = self.bench.callback("the capture of a callback of start");
        let poll = PollOnce::new(file, Interest::READABLE);
        ctx.start(poll, move |ctx, _output| call(ctx)).expect("submitted");
    }

    fn fire(&self, _: &AioContext) {
        (&*self.writer).write_all(b"x").expect("room in the pipe");
    }
}

/// Receives again and again: `start_multishot`.
pub(crate) struct Receiving {
    bench: Bench,
    socket: Cell<Option<UnixStream>>,
    peer: Arc<UnixStream>,
    id: Cell<Option<OperationId>>,
}

impl Receiving {
    pub(crate) fn make(bench: &Bench) -> io::Result<Rc<dyn Source>> {
        let (socket, peer) = UnixStream::pair()?;
        let (socket, peer) = (Cell::new(Some(socket)), Arc::new(peer));
        Ok(Rc::new(Self { bench: bench.clone(), socket, peer, id: Cell::default() }))
    }
}

impl Source for Receiving {
    fn prime(&self, ctx: &AioContext) {
        let (socket, held) = (self.socket.take().expect("primed once"), self.bench.held("a socket"));
        let socket = Owned::new(&self.bench.ledger, socket, &self.peer, held);
        let call = self.bench.callback("the capture of a callback of start_multishot");
        let group = ctx.buffer_group(4, 64).expect("buffers");
        let id = ctx.start_multishot(RecvMultishot::new(socket, &group, 0), move |ctx, _shot| call(ctx));
        self.id.set(Some(id.expect("submitted")));
    }

    fn fire(&self, ctx: &AioContext) {
        if self.bench.fuse.at() == Hook::Call {
            (&*self.peer).write_all(b"x").expect("room in the socket");
        } else {
            // Only its end drops what it holds.
            assert!(ctx.cancel(self.id.get().expect("primed")), "in flight");
        }
    }
}

/// A pool of operations, and a value for each of them.
pub(crate) struct Pool {
    bench: Bench,
    writer: RefCell<Option<Arc<PipeWriter>>>,
    pool: RefCell<Option<OperationPool<PollOnce<OwnedReader>, Value>>>,
}

impl Pool {
    pub(crate) fn make(bench: &Bench, ctx: &AioContext) -> io::Result<Rc<dyn Source>> {
        let call = bench.callback("the capture of a pool's callback");
        let pool = ctx.operation_pool(move |ctx, _output, _value: Value| call(ctx))?;
        let pool = RefCell::new(Some(pool));
        Ok(Rc::new(Self { bench: bench.clone(), writer: RefCell::default(), pool }))
    }
}

impl Source for Pool {
    fn prime(&self, _: &AioContext) {
        let (reader, writer) = io::pipe().expect("a pipe");
        let writer = Arc::new(writer);
        let file = self.bench.ledger.witness("the file of an operation of a pool");
        let file = Owned::new(&self.bench.ledger, reader, &writer, file);
        let poll = PollOnce::new(file, Interest::READABLE);
        let value = self.bench.held("the value of an operation of a pool");
        let started = self.pool.borrow().as_ref().map(|pool| pool.start(poll, value).is_ok());
        assert_eq!(started, Some(true), "submitted");
        self.writer.replace(Some(writer));
    }

    fn fire(&self, _: &AioContext) {
        let writer = self.writer.borrow();
        (&**writer.as_ref().expect("primed")).write_all(b"x").expect("room in the pipe");
    }

    fn remove(&self) {
        clear(&self.pool);
    }
}

/// A task that nobody waits for: its poll, and the drop of its future.
pub(crate) struct Task(pub(crate) Bench);

impl Source for Task {
    fn pend(&self, ctx: &AioContext) {
        self.fire(ctx);
    }

    fn fire(&self, ctx: &AioContext) {
        let (bench, capture) = (self.0.clone(), self.0.capture("what a task owns"));
        drop(ctx.spawn(async move {
            let _capture = capture;
            bench.called(Hook::Call);
        }));
    }
}

/// A device that panics when it arrives, or when it leaves.
struct Guest {
    fuse: Fuse,
    kind: Kind,
    _value: Value,
}

impl Movable for Guest {
    type Attached = ();

    fn attach(&self, _: &AioContext, _: &Home<Self>) -> io::Result<()> {
        if self.kind == Kind::Attach {
            self.fuse.reach(Hook::Call);
        }
        Ok(())
    }

    fn detach(&self, _: &AioContext, (): ()) {
        if self.kind == Kind::Detach {
            self.fuse.reach(Hook::Call);
        }
    }
}

/// Moves a device to the loop, or from there to another one.
pub(crate) struct Moving {
    kind: Kind,
    guest: Hosted<Guest>,
    elsewhere: AioContext,
}

impl Moving {
    pub(crate) fn make(kind: Kind, bench: &Bench) -> io::Result<Rc<dyn Source>> {
        let (fuse, _value) = (bench.fuse.clone(), bench.ledger.witness("a device that moves"));
        let guest = Hosted::new(Guest { fuse, kind, _value });
        Ok(Rc::new(Self { kind, guest, elsewhere: AioContext::new()? }))
    }
}

impl Source for Moving {
    fn prime(&self, ctx: &AioContext) {
        if self.kind == Kind::Detach {
            self.guest.attach(ctx).expect("on no loop yet");
        }
    }

    fn fire(&self, ctx: &AioContext) {
        let to = if self.kind == Kind::Attach { ctx.handle() } else { self.elsewhere.handle() };
        self.guest.move_to(&to);
    }
}

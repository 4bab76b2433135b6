//! Operations with many items, and the groups of buffers that they use.

use crate::safe_operations::{counted, errno};
use crate::setup::Setup;
use crate::socket_operations::{connected, is_at_end, listener};
use crate::support::{Count, Slot, os, settle, turn_until};
use aio::AioContext;
use aio::io_uring::{IoUring, Probe, opcode};
use aio::op::{AcceptMultishot, BufferGroup, LentBuffer, MultishotOperation, RecvMultishot, Shot};
use std::cell::RefCell;
use std::io::{self, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::rc::Rc;

/// Returns true, and says so, if this kernel lacks what the test needs: an operation that came with
/// the same release.
fn skipped(what: &str, same_age: u8) -> bool {
    let mut probe = Probe::new();
    let ring = IoUring::new(2).expect("a ring");
    let probed = ring.submitter().register_probe(&mut probe);
    let is_missing = probed.is_err() || !probe.is_supported(same_age);
    if is_missing {
        eprintln!("skipped: this kernel has no {what}");
    }
    is_missing
}

/// Linux 5.19.
fn no_multishot_accept() -> bool {
    skipped("multishot accept, registered tables and groups of buffers", opcode::Socket::CODE)
}

/// Linux 6.0.
fn no_multishot_recv() -> bool {
    skipped("multishot recv", opcode::SendZc::CODE)
}

/// What came of an operation: its items until they are taken, and its end.
struct Shots<O: MultishotOperation> {
    items: RefCell<Vec<O::Item>>,
    end: Slot<(O, Option<io::Error>)>,
}

fn start<O: MultishotOperation>(ctx: &AioContext, operation: O) -> (Rc<Shots<O>>, aio::OperationId) {
    let shots = Rc::new(Shots { items: RefCell::default(), end: Slot::new() });
    let to = Rc::clone(&shots);
    let id = ctx.start_multishot(operation, move |_, shot| match shot {
        Shot::Item(item) => to.items.borrow_mut().push(item),
        Shot::Ended { operation, error } => to.end.put((operation, error)),
    });
    (shots, id.map_err(|refused| refused.error).unwrap())
}

impl<O: MultishotOperation> Shots<O> {
    fn ended(&self, ctx: &AioContext) -> (O, Option<i32>) {
        crate::safe_operations::end(ctx, &self.end).map_error()
    }
}

trait MapError<O> {
    fn map_error(self) -> (O, Option<i32>);
}

impl<O> MapError<O> for (O, Option<io::Error>) {
    fn map_error(self) -> (O, Option<i32>) {
        (self.0, self.1.map(|error| errno::<()>(Err(error)).expect("from the kernel")))
    }
}

pub(crate) fn a_listener_accepts_again_and_again(setup: &Setup) {
    if no_multishot_accept() {
        return;
    }
    let ctx = setup.context();
    let (listener, address) = listener();
    let mut accept = AcceptMultishot::new(listener);
    for _ in 0..2 {
        let (shots, id) = start(&ctx, accept);
        for n in 1..=20 {
            let mut client = connected(&address);
            turn_until(&ctx, || shots.items.borrow().len() == n);
            assert!(os::is_close_on_exec(&shots.items.borrow()[n - 1]));
            let connection = UnixStream::from(shots.items.borrow()[n - 1].try_clone().unwrap());
            client.write_all(&[n as u8]).unwrap();
            let mut byte = [0];
            io::Read::read_exact(&mut &connection, &mut byte).unwrap();
            assert_eq!(byte, [n as u8]);
        }
        settle(&ctx);
        assert!(shots.end.take().is_none(), "it goes on");
        assert!(ctx.cancel(id));
        let (operation, error) = shots.ended(&ctx);
        assert_eq!((error, shots.items.borrow().len()), (Some(libc::ECANCELED), 20));
        accept = operation;
    }
    let (reader, _writer) = io::pipe().unwrap();
    let (shots, _) = start(&ctx, AcceptMultishot::new(reader));
    assert_eq!(shots.ended(&ctx).1, Some(libc::ENOTSOCK));
    drop(accept.into_listener());
}

/// Every completion posted to a full queue ends the operation; nothing is lost by that.
pub(crate) fn a_full_completion_queue_ends_no_listener_for_good(setup: &Setup) {
    const ALL: u64 = 100;
    if no_multishot_accept() {
        return;
    }
    fn serve(ctx: &AioContext, accept: AcceptMultishot<Rc<UnixListener>>, accepted: Count, ends: Count) {
        let started = ctx.start_multishot(accept, move |ctx, shot| match shot {
            Shot::Item(_) => accepted.bump(),
            Shot::Ended { operation, error } => {
                assert!(error.is_none(), "{error:?}");
                ends.bump();
                serve(ctx, operation, accepted.clone(), ends.clone());
            }
        });
        started.unwrap();
    }
    let ctx = setup.builder().ring_entries(2).build().unwrap();
    let (listener, address) = listener();
    let (accepted, ends) = (Count::default(), Count::default());
    serve(&ctx, AcceptMultishot::new(Rc::new(listener)), accepted.clone(), ends);
    settle(&ctx);
    let clients: Vec<_> = (0..ALL).map(|_| connected(&address)).collect();
    turn_until(&ctx, || accepted.get() == ALL);
    clients.iter().for_each(is_at_end);
}

pub(crate) fn a_stream_is_received_in_pieces(setup: &Setup) {
    if no_multishot_recv() {
        return;
    }
    let ctx = setup.context();
    let group = ctx.buffer_group(8, 16).unwrap();
    assert_eq!((group.buffers(), group.buffer_size(), group.lent()), (8, 16, 0));
    let (mut here, there) = UnixStream::pair().unwrap();
    let (shots, _) = start(&ctx, RecvMultishot::new(there, &group, 0));
    let mut received = Vec::new();
    let mut sent = Vec::new();
    for n in 0..100_u8 {
        let piece = vec![n; 1 + usize::from(n) % 40];
        here.write_all(&piece).unwrap();
        sent.extend(piece);
        turn_until(&ctx, || {
            for piece in shots.items.borrow_mut().drain(..) {
                assert!(!piece.is_empty() && piece.len() <= 16);
                received.extend_from_slice(&piece);
            }
            received.len() == sent.len()
        });
    }
    assert_eq!((received, group.lent()), (sent, 0));
    drop(here);
    let (operation, error) = shots.ended(&ctx);
    assert_eq!((error, shots.items.borrow().len()), (None, 0), "the end of the stream");
    drop(operation.into_socket());
}

pub(crate) fn without_buffers_the_data_waits(setup: &Setup) {
    if no_multishot_recv() {
        return;
    }
    let ctx = setup.context();
    let group = ctx.buffer_group(2, 4).unwrap();
    let (mut here, there) = UnixStream::pair().unwrap();
    let mut recv = RecvMultishot::new(there, &group, 0);
    here.write_all(b"one.two.red.blue+").unwrap();
    let mut received = Vec::new();
    for round in 0..2 {
        let (shots, _) = start(&ctx, recv);
        let (operation, error) = shots.ended(&ctx);
        assert_eq!(error, Some(libc::ENOBUFS), "round {round}");
        let pieces: Vec<LentBuffer> = shots.items.borrow_mut().drain(..).collect();
        assert_eq!((pieces.len(), group.lent()), (2, 2));
        received.extend(pieces.iter().map(|piece| piece.to_vec()));
        recv = operation;
        if round == 0 {
            // Nothing has returned: it ends at once, and nothing is lost.
            let (shots, _) = start(&ctx, recv);
            let (operation, error) = shots.ended(&ctx);
            assert_eq!((error, shots.items.borrow().len()), (Some(libc::ENOBUFS), 0));
            recv = operation;
        }
    }
    assert_eq!((received.concat().as_slice(), group.lent()), (&b"one.two.red.blue"[..], 0));
    let (shots, id) = start(&ctx, recv);
    turn_until(&ctx, || shots.items.borrow().len() == 1);
    assert_eq!(&*shots.items.borrow_mut().remove(0), b"+");
    settle(&ctx);
    assert!(ctx.cancel(id));
    assert_eq!(shots.ended(&ctx).1, Some(libc::ECANCELED));
}

pub(crate) fn a_group_belongs_to_its_context(setup: &Setup) {
    if no_multishot_recv() {
        return;
    }
    let (ctx, other) = (setup.context(), setup.context());
    let group = other.buffer_group(1, 8).unwrap();
    let (mut here, there) = UnixStream::pair().unwrap();
    here.write_all(b"x").unwrap();
    let (shots, _) = start(&ctx, RecvMultishot::new(there, &group, 0));
    let (operation, error) = shots.ended(&ctx);
    assert_eq!((error, shots.items.borrow().len()), (Some(libc::EBADF), 0));
    let (shots, _) = start(&other, operation);
    turn_until(&other, || shots.items.borrow().len() == 1);
    for (buffers, size) in [(0, 1), (1, 0), (40_000, 1)] {
        assert_eq!(ctx.buffer_group(buffers, size).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}

pub(crate) fn groups_come_and_go(setup: &Setup) {
    if no_multishot_recv() {
        return;
    }
    let ctx = setup.context();
    let mut kept: Vec<BufferGroup> = Vec::new();
    for n in 0..50_u8 {
        let group = ctx.buffer_group(3, 8).unwrap();
        let (mut here, there) = UnixStream::pair().unwrap();
        let (shots, id) = start(&ctx, RecvMultishot::new(there, &group, 0));
        here.write_all(&[n]).unwrap();
        turn_until(&ctx, || shots.items.borrow().len() == 1);
        assert_eq!(*shots.items.borrow()[0], [n]);
        if n % 7 == 0 {
            kept.push(group);
        } else {
            // The operation in flight holds it.
            drop(group);
            here.write_all(&[n]).unwrap();
            turn_until(&ctx, || shots.items.borrow().len() == 2);
        }
        ctx.cancel(id);
        shots.ended(&ctx);
    }
    assert!(kept.iter().all(|group| group.lent() == 0));
}

pub(crate) fn lent_buffers_outlive_their_context(setup: &Setup) {
    if no_multishot_recv() {
        return;
    }
    let ctx = setup.context();
    let group = ctx.buffer_group(4, 8).unwrap();
    let (mut here, there) = UnixStream::pair().unwrap();
    let (there, owners) = counted(there);
    let (shots, _) = start(&ctx, RecvMultishot::new(there, &group, 0));
    here.write_all(b"lent").unwrap();
    turn_until(&ctx, || shots.items.borrow().len() == 1);
    // This one comes with the end of the context, and is returned by it.
    here.write_all(b"late").unwrap();
    drop(ctx);
    assert_eq!((owners(), group.lent()), (0, 1));
    drop(group);
    assert_eq!(&**shots.items.borrow().first().unwrap(), b"lent");
}

pub(crate) fn a_dropped_context_closes_connections_that_nobody_has_seen(setup: &Setup) {
    if no_multishot_accept() {
        return;
    }
    let ctx = setup.context();
    let (listener, address) = listener();
    let (listener, owners) = counted(listener);
    let clients: Vec<_> = (0..5).map(|_| connected(&address)).collect();
    let (shots, _) = start(&ctx, AcceptMultishot::new(listener));
    drop(ctx);
    assert_eq!((owners(), shots.items.borrow().len()), (0, 0));
    clients.iter().for_each(is_at_end);
}

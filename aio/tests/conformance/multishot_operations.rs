//! Operations with many items, and the groups of buffers that they use.

use crate::safe_operations::{counted, errno};
use crate::setup::Setup;
use crate::socket_operations::{connected, is_at_end, listener};
use crate::support::{Count, Slot, os, settle, turn_until};
use aio::AioContext;
use aio::io_uring::{IoUring, Probe, opcode};
use aio::op::{AcceptMultishot, BufferGroup, LentBuffer, MultishotOperation, RecvMultishot, Shot};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
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

/// On Linux 6.12 those that wait for a buffer of an exhausted group do not all get one in these
/// tests. It is not known why. 6.18 is fine; what is between was not tried.
fn exhausted_groups_stall() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release.split(['.', '-']).map_while(|number| number.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version < (6, 18) {
        println!("skipped: many that wait for an exhausted group, on Linux {}", release.trim());
    }
    version < (6, 18)
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
            (&connection).read_exact(&mut byte).unwrap();
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

/// The kernel ends a multishot operation with each completion that finds the queue full.
pub(crate) fn a_full_completion_queue_ends_no_listener(setup: &Setup) {
    const ALL: usize = 100;
    if no_multishot_accept() {
        return;
    }
    let ctx = setup.builder().ring_entries(2).build().unwrap();
    let (listener, address) = listener();
    let (shots, id) = start(&ctx, AcceptMultishot::new(listener));
    for round in 1..=2 {
        settle(&ctx);
        let clients: Vec<_> = (0..ALL).map(|_| connected(&address)).collect();
        turn_until(&ctx, || shots.items.borrow().len() == ALL);
        shots.items.borrow_mut().clear();
        clients.iter().for_each(is_at_end);
        assert!(shots.end.take().is_none(), "round {round}");
    }
    assert!(ctx.cancel(id), "it has the same id all the time");
    assert_eq!(shots.ended(&ctx).1, Some(libc::ECANCELED));
    assert!(!ctx.cancel(id));
}

/// Both have no F_MORE: the end of a stream, and a completion that finds the queue full.
pub(crate) fn a_full_completion_queue_ends_no_stream(setup: &Setup) {
    const ALL: usize = 32;
    if no_multishot_recv() {
        return;
    }
    let ctx = setup.builder().ring_entries(1).build().unwrap();
    let group = ctx.buffer_group(256, 16).unwrap();
    let (mut peers, streams): (Vec<_>, Vec<_>) = (0..ALL)
        .map(|_| {
            let (here, there) = UnixStream::pair().unwrap();
            (here, start(&ctx, RecvMultishot::new(there, &group, 0)).0)
        })
        .unzip();
    for round in 1..=3 {
        settle(&ctx);
        peers.iter_mut().for_each(|peer| peer.write_all(b"x").unwrap());
        turn_until(&ctx, || streams.iter().all(|stream| stream.items.borrow().len() == round));
        assert!(streams.iter().all(|stream| stream.end.take().is_none()), "round {round}");
    }
    assert_eq!(group.exhausted(), 0, "there were buffers");
    drop(peers);
    for stream in streams {
        assert_eq!((stream.ended(&ctx).1, stream.items.borrow().len()), (None, 3), "the end of a stream");
    }
}

pub(crate) fn an_item_of_an_interrupted_operation_may_cancel_it(setup: &Setup) {
    const ALL: usize = 32;
    if no_multishot_recv() {
        return;
    }
    let ctx = setup.builder().ring_entries(1).build().unwrap();
    let group = ctx.buffer_group(256, 16).unwrap();
    let (items, ends) = (Count::default(), Count::default());
    let mut peers = Vec::new();
    for _ in 0..ALL {
        let (here, there) = UnixStream::pair().unwrap();
        peers.push(here);
        let (items, ends) = (items.clone(), ends.clone());
        let id = Rc::new(Cell::new(None));
        let own_id = Rc::clone(&id);
        let started =
            ctx.start_multishot(RecvMultishot::new(there, &group, 0), move |ctx, shot| match shot {
                Shot::Item(_) => {
                    items.bump();
                    assert!(ctx.cancel(own_id.get().unwrap()));
                }
                Shot::Ended { error, .. } => {
                    assert_eq!(error.and_then(|e| e.raw_os_error()), Some(libc::ECANCELED));
                    ends.bump();
                }
            });
        id.set(Some(started.map_err(|refused| refused.error).unwrap()));
    }
    settle(&ctx);
    peers.iter_mut().for_each(|peer| peer.write_all(b"x").unwrap());
    turn_until(&ctx, || ends.get() == ALL as u64);
    assert_eq!((items.get(), group.lent()), (ALL as u64, 0));
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
    here.write_all(b"one.two.red.blue+").unwrap();
    let (shots, id) = start(&ctx, RecvMultishot::new(there, &group, 0));
    let mut received = Vec::new();
    for round in 1..=2 {
        turn_until(&ctx, || group.waiting() == 1);
        settle(&ctx);
        assert_eq!((group.lent(), group.exhausted()), (2, round), "it does not look again by itself");
        let pieces: Vec<LentBuffer> = shots.items.borrow_mut().drain(..).collect();
        received.extend(pieces.iter().map(|piece| piece.to_vec()));
    }
    turn_until(&ctx, || shots.items.borrow().len() == 1);
    received.push(shots.items.borrow_mut().remove(0).to_vec());
    assert_eq!((received.concat().as_slice(), group.lent()), (&b"one.two.red.blue+"[..], 0));
    settle(&ctx);
    assert!(shots.end.take().is_none() && ctx.cancel(id));
    assert_eq!(shots.ended(&ctx).1, Some(libc::ECANCELED));
}

/// All have data, and one of them without end. Then most of those that wait lose their data to
/// another reader, and must not keep the buffers from the others.
pub(crate) fn many_connections_share_four_buffers(setup: &Setup) {
    const ALL: usize = 300;
    const PIECES: usize = 4;
    if no_multishot_recv() || exhausted_groups_stall() {
        return;
    }
    let ctx = setup.context();
    let group = ctx.buffer_group(4, 8).unwrap();
    let kept: Rc<RefCell<VecDeque<LentBuffer>>> = Rc::default();
    let received: Rc<Vec<Cell<usize>>> = Rc::new((0..ALL).map(|_| Cell::new(0)).collect());
    let mut peers = Vec::new();
    let mut readers = Vec::new();
    for index in 0..ALL {
        let (here, there) = UnixStream::pair().unwrap();
        let (here, there) = (Rc::new(here), Rc::new(there));
        let (kept, received) = (Rc::clone(&kept), Rc::clone(&received));
        peers.push(Rc::clone(&here));
        readers.push(Rc::clone(&there));
        start_piecewise(&ctx, RecvMultishot::new(there, &group, 0), move |buffer| {
            received[index].set(received[index].get() + buffer.len());
            if index == 0 {
                // Until the test shuts it down.
                let _ = (&*here).write_all(b"a piece.");
            }
            kept.borrow_mut().push_back(buffer);
        });
    }
    settle(&ctx);
    peers.iter().for_each(|peer| (&**peer).write_all(&[1; 8 * PIECES]).unwrap());
    // One buffer returns in each turn.
    let turn = |done: &dyn Fn() -> bool| {
        for _ in 0..20 * ALL * PIECES {
            if done() {
                return;
            }
            drop(kept.borrow_mut().pop_front());
            ctx.poll(false).unwrap();
        }
        panic!("still waiting: {}; {group:?}", group.waiting());
    };
    turn(&|| received.iter().skip(1).all(|bytes| bytes.get() == 8 * PIECES));
    let pieces: usize = received.iter().map(|bytes| bytes.get() / 8).sum();
    assert!(
        received[0].get() / 8 < 4 * PIECES + 8,
        "one takes no more than its share: {}",
        received[0].get()
    );
    assert!(
        group.exhausted() <= (2 * pieces + ALL) as u64,
        "no herd: {} times without a buffer for {pieces} pieces",
        group.exhausted()
    );

    // All buffers are kept, and everybody waits.
    peers[0].shutdown(std::net::Shutdown::Both).unwrap();
    turn(&|| group.lent() == 0 && group.waiting() == 0);
    peers.iter().skip(1).for_each(|peer| (&**peer).write_all(b"a piece.").unwrap());
    turn_until(&ctx, || group.waiting() >= ALL - 1 - 4);
    settle(&ctx);
    let before: usize = received.iter().map(Cell::get).sum();
    // Which of them have got a buffer already is up to the kernel. The last of the others keeps
    // what it was sent.
    let waits = |index: &usize| received[*index].get() == 8 * PIECES;
    let last = (1..ALL).rfind(waits).unwrap();
    let mut stolen = 0;
    for (index, reader) in readers.iter().enumerate().skip(1).filter(|(index, _)| *index != last) {
        reader.set_nonblocking(true).unwrap();
        if waits(&index) {
            stolen += (&**reader).read(&mut [0; 8]).unwrap_or(0);
        }
        reader.set_nonblocking(false).unwrap();
    }
    assert!(stolen > 8 * 250);
    let exhausted = group.exhausted();
    // One buffer is enough for the last one to get through.
    drop(kept.borrow_mut().pop_front());
    turn_until(&ctx, || received[last].get() == 8 * (PIECES + 1) && group.waiting() == 0);
    let after: usize = received.iter().map(Cell::get).sum();
    assert_eq!((after - before, group.exhausted() - exhausted), (8, 0));
}

/// Those that take as many buffers as there are must not always come just before the others.
pub(crate) fn a_connection_that_found_no_buffer_keeps_its_turn(setup: &Setup) {
    const ALL: usize = 16;
    if no_multishot_recv() || exhausted_groups_stall() {
        return;
    }
    let ctx = setup.context();
    let group = ctx.buffer_group(4, 8).unwrap();
    let kept: Rc<RefCell<Vec<LentBuffer>>> = Rc::default();
    let served: Rc<Vec<Cell<usize>>> = Rc::new((0..ALL).map(|_| Cell::new(0)).collect());
    let is_hog = |index: usize| index.is_multiple_of(4);
    let mut peers = Vec::new();
    for index in 0..ALL {
        let (mut here, there) = UnixStream::pair().unwrap();
        here.write_all(&vec![1; if is_hog(index) { 16_000 } else { 8 }]).unwrap();
        peers.push(here);
        let (kept, served) = (Rc::clone(&kept), Rc::clone(&served));
        start_piecewise(&ctx, RecvMultishot::new(Rc::new(there), &group, 0), move |buffer| {
            served[index].set(served[index].get() + 1);
            kept.borrow_mut().push(buffer);
        });
    }
    let mut turns = 0;
    while (0..ALL).any(|index| served[index].get() == 0) {
        assert!(turns < 10 * ALL, "{served:?}");
        turns += 1;
        // All buffers return at once.
        kept.borrow_mut().clear();
        ctx.poll(false).unwrap();
    }
    // The hogs have the buffers for themselves now, in turn.
    while served[0].get() < 200 {
        kept.borrow_mut().clear();
        ctx.poll(false).unwrap();
    }
    let hogs: Vec<_> = (0..ALL).filter(|index| is_hog(*index)).map(|index| served[index].get()).collect();
    assert!(hogs.iter().all(|pieces| (150..=250).contains(pieces)), "{hogs:?}");
}

fn start_piecewise(
    ctx: &AioContext,
    operation: RecvMultishot<Rc<UnixStream>>,
    piece: impl Fn(LentBuffer) + 'static,
) {
    let started = ctx.start_multishot(operation, move |_, shot| match shot {
        Shot::Item(buffer) => piece(buffer),
        Shot::Ended { error, .. } => assert!(error.is_none(), "{error:?}"),
    });
    started.map_err(|refused| refused.error).unwrap();
}

pub(crate) fn a_receive_that_waits_for_a_buffer_can_be_cancelled(setup: &Setup) {
    if no_multishot_recv() {
        return;
    }
    let ctx = setup.context();
    let group = ctx.buffer_group(1, 4).unwrap();
    let (mut here, there) = UnixStream::pair().unwrap();
    let there = Rc::new(there);
    let recv = || RecvMultishot::new(Rc::clone(&there), &group, 0);
    here.write_all(b"12345678").unwrap();
    let (first, first_id) = start(&ctx, recv());
    turn_until(&ctx, || group.waiting() == 1);
    assert!(ctx.cancel(first_id), "it waits");
    assert!(ctx.cancel(first_id), "its end was not delivered");
    assert!(first.end.take().is_none(), "not inside the call");
    assert_eq!((first.ended(&ctx).1, group.waiting()), (Some(libc::ECANCELED), 0));
    assert!(!ctx.cancel(first_id));
    // At every step from the start to the wait for a buffer.
    for turns in 0..4 {
        let (shots, id) = start(&ctx, recv());
        (0..turns).for_each(|_| drop(ctx.poll(false)));
        assert!(ctx.cancel(id), "after {turns} turns");
        assert_eq!((shots.ended(&ctx).1, group.waiting()), (Some(libc::ECANCELED), 0), "after {turns} turns");
    }
    // While it is on its way back to the kernel.
    let (shots, id) = start(&ctx, recv());
    turn_until(&ctx, || group.waiting() == 1);
    first.items.borrow_mut().clear();
    assert!(ctx.cancel(id));
    assert_eq!(shots.ended(&ctx).1, Some(libc::ECANCELED));
    let (shots, _) = start(&ctx, recv());
    turn_until(&ctx, || shots.items.borrow().len() == 1);
    assert_eq!(&*shots.items.borrow()[0], b"5678");
}

pub(crate) fn an_operation_that_waits_for_a_buffer_ends_with_its_context(setup: &Setup) {
    if no_multishot_recv() {
        return;
    }
    let ctx = setup.context();
    let group = ctx.buffer_group(1, 4).unwrap();
    let (mut here, there) = UnixStream::pair().unwrap();
    let (there, owners) = counted(there);
    here.write_all(b"12345678").unwrap();
    let (shots, _) = start(&ctx, RecvMultishot::new(there, &group, 0));
    turn_until(&ctx, || group.waiting() == 1);
    drop(ctx);
    assert_eq!((owners(), group.waiting(), group.lent()), (0, 0, 1));
    shots.items.borrow_mut().clear();
    assert_eq!(group.lent(), 0);
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

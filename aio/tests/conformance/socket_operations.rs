//! What each operation on sockets does, and what becomes of the descriptors that it brings.

use crate::safe_operations::{begin, cancelled, counted, end, errno, finish};
use crate::setup::Setup;
use crate::support::{os, settle, turn_until};
use aio::op::{Accept, Connect, OpenAt, Recv, RecvMessage, Send, SendMessage, SocketAddress};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A listener with a name in the abstract namespace, and its address.
pub(crate) fn listener() -> (UnixListener, SocketAddress) {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let name = format!("aio-conformance-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    (UnixListener::bind_addr(&address).unwrap(), SocketAddress::unix(format!("\0{name}")).unwrap())
}

pub(crate) fn socket() -> OwnedFd {
    os::unix_socket()
}

/// Fails instead of waiting if the other end is open.
pub(crate) fn is_at_end(mut stream: impl Read) {
    assert_eq!(stream.read(&mut [0]).expect("the other end is closed"), 0);
}

/// A peer that was connected to the address and does not wait.
pub(crate) fn connected(address: &SocketAddress) -> UnixStream {
    let name = address.as_bytes()[3..].to_vec();
    let stream = UnixStream::connect_addr(&SocketAddr::from_abstract_name(name).unwrap()).unwrap();
    stream.set_nonblocking(true).unwrap();
    stream
}

pub(crate) fn a_connection_is_made_and_accepted(setup: &Setup) {
    let ctx = setup.context();
    let (listener, address) = listener();
    let (accepted, _) = begin(&ctx, Accept::new(listener));
    settle(&ctx);
    let (result, client) = finish(&ctx, Connect::new(socket(), address));
    result.unwrap();
    let (result, listener) = end(&ctx, &accepted);
    let (server, peer) = result.unwrap();
    assert_eq!((peer.family(), peer.to_path()), (libc::AF_UNIX, None), "a client without a name");
    assert!(os::is_close_on_exec(&server));
    let (sent, client, _) = finish(&ctx, Send::new(client, "hello", 0));
    assert_eq!(sent.unwrap(), 5);
    let (received, server, buffer) = finish(&ctx, Recv::new(server, vec![0; 16], 0));
    assert_eq!(&buffer[..received.unwrap()], b"hello");
    drop(client);
    let (received, server, _) = finish(&ctx, Recv::new(server, vec![0; 16], 0));
    assert_eq!(received.unwrap(), 0, "the end of the stream");
    let (sent, server, _) = finish(&ctx, Send::new(server, "x", 0));
    assert_eq!(errno(sent), Some(libc::EPIPE));
    let (accepted, _) = finish(&ctx, Accept::new(server));
    assert_eq!(errno(accepted), Some(libc::EINVAL), "not a listener");
    drop(listener);
    let (result, _) = finish(&ctx, Connect::new(socket(), address));
    assert_eq!(errno(result), Some(libc::ECONNREFUSED));
}

/// The address is where the kernel writes to; if it moved, another would be reported.
pub(crate) fn accepts_in_flight_keep_their_addresses(setup: &Setup) {
    const ALL: usize = 100;
    let ctx = setup.builder().ring_entries(8).build().unwrap();
    let (listener, address) = listener();
    let (listener, seen) = (Rc::new(listener), Rc::new(RefCell::new(BTreeSet::new())));
    let pool = ctx.operation_pool::<Accept<Rc<UnixListener>>, ()>({
        let seen = Rc::clone(&seen);
        move |_, (result, _), ()| {
            let (_, peer) = result.unwrap();
            seen.borrow_mut().insert(peer.as_bytes().to_vec());
        }
    });
    let pool = pool.unwrap();
    let accept = || pool.start(Accept::new(Rc::clone(&listener)), ()).map_err(|r| r.error).unwrap();
    // The table of places grows while some of them are in the kernel.
    for _ in 0..ALL {
        accept();
        ctx.poll(false).unwrap();
    }
    let mut clients = Vec::new();
    for client in 0..ALL {
        let name = format!("{}-{client}", String::from_utf8_lossy(&address.as_bytes()[3..]));
        let bound = os::bound_unix_socket(&name);
        finish(&ctx, Connect::new(bound, address)).0.unwrap();
        clients.push(SocketAddress::unix(format!("\0{name}")).unwrap().as_bytes().to_vec());
    }
    turn_until(&ctx, || pool.in_flight() == 0);
    assert_eq!(*seen.borrow(), BTreeSet::from_iter(clients));
}

pub(crate) fn waiting_socket_operations_are_cancelled(setup: &Setup) {
    let ctx = setup.context();
    for seen in [false, true] {
        let (listener, _) = listener();
        let (result, _) = cancelled(&ctx, Accept::new(listener), seen);
        assert_eq!(errno(result), Some(libc::ECANCELED));
        let (here, _there) = UnixStream::pair().unwrap();
        let (result, here, _) = cancelled(&ctx, Recv::new(here, vec![0; 1], 0), seen);
        assert_eq!(errno(result), Some(libc::ECANCELED));
        let (result, here, _) = cancelled(&ctx, RecvMessage::new(here, vec![0; 1], 1), seen);
        assert_eq!(errno(result), Some(libc::ECANCELED));
        // More than the socket takes.
        let (result, ..) = cancelled(&ctx, Send::new(here, vec![0; 1 << 24], libc::MSG_WAITALL), true);
        assert!(result.is_ok_and(|sent| sent < 1 << 24));
    }
}

pub(crate) fn bytes_of_a_stream_are_received_as_they_come(setup: &Setup) {
    let ctx = setup.context();
    let (mut here, there) = UnixStream::pair().unwrap();
    let (output, _) = begin(&ctx, Recv::new(there, vec![0; 6], libc::MSG_WAITALL));
    here.write_all(b"abc").unwrap();
    settle(&ctx);
    assert!(output.take().is_none(), "it waits for all of them");
    here.write_all(b"defg").unwrap();
    let (received, there, buffer) = end(&ctx, &output);
    assert_eq!((received.unwrap(), buffer.as_slice()), (6, &b"abcdef"[..]));
    let (received, _, buffer) = finish(&ctx, Recv::new(there, vec![0; 6], 0));
    assert_eq!((received.unwrap(), buffer[0]), (1, b'g'));
    let (reader, _writer) = io::pipe().unwrap();
    assert_eq!(errno(finish(&ctx, Recv::new(reader, vec![0; 1], 0)).0), Some(libc::ENOTSOCK));
}

fn pipes(count: usize) -> (Vec<PipeReader>, Vec<PipeWriter>) {
    (0..count).map(|_| io::pipe().unwrap()).unzip()
}

pub(crate) fn descriptors_are_passed(setup: &Setup) {
    let ctx = setup.context();
    let (mut here, mut there) = UnixStream::pair().unwrap();
    for count in [0, 1, 3, 253] {
        let (readers, writers) = pipes(count);
        let (sent, here_again, _, writers) = finish(&ctx, SendMessage::new(here, "message", writers));
        assert_eq!((sent.unwrap(), writers.len()), (7, count));
        here = here_again;
        drop(writers);
        let (received, there_again, buffer) = finish(&ctx, RecvMessage::new(there, vec![0; 16], 253));
        there = there_again;
        let received = received.unwrap();
        assert_eq!((received.bytes, &buffer[..7], received.descriptors.len()), (7, &b"message"[..], count));
        assert!(!received.truncated && !received.descriptors_truncated);
        for (index, (descriptor, mut reader)) in received.descriptors.into_iter().zip(readers).enumerate() {
            assert!(os::is_close_on_exec(&descriptor));
            PipeWriter::from(descriptor).write_all(&[index as u8]).unwrap();
            let mut all = Vec::new();
            reader.read_to_end(&mut all).unwrap();
            assert_eq!(all, [index as u8], "in order, and no other copy is open");
        }
    }
    let (_, writers) = pipes(254);
    assert_eq!(errno(finish(&ctx, SendMessage::new(here, "x", writers)).0), Some(libc::EINVAL), "too many");
    let (reader, writer) = io::pipe().unwrap();
    let (result, ..) = finish(&ctx, SendMessage::new(writer, "x", Vec::<OwnedFd>::new()));
    assert_eq!(errno(result), Some(libc::ENOTSOCK));
    assert_eq!(errno(finish(&ctx, RecvMessage::new(reader, vec![0], 1)).0), Some(libc::ENOTSOCK));
}

pub(crate) fn an_empty_message_with_descriptors_is_refused_on_a_stream(setup: &Setup) {
    let ctx = setup.context();
    let (here, there) = UnixStream::pair().unwrap();
    let (readers, writers) = pipes(2);
    let (result, here, _, writers) = finish(&ctx, SendMessage::new(here, "", writers));
    assert_eq!((errno(result), writers.len()), (Some(libc::EINVAL), 2));
    if let Ok(fixed) = ctx.register_file(&here) {
        let (result, ..) = finish(&ctx, SendMessage::new(fixed, "", vec![io::pipe().unwrap().1]));
        assert_eq!(errno(result), Some(libc::EINVAL));
    }
    // Without descriptors there is nothing to lose.
    let (result, ..) = finish(&ctx, SendMessage::new(here, "", Vec::<OwnedFd>::new()));
    assert_eq!(result.unwrap(), 0);
    is_at_end(there);
    // A message without bytes carries descriptors where messages have boundaries.
    let (here, there) = UnixDatagram::pair().unwrap();
    let (result, ..) = finish(&ctx, SendMessage::new(here, "", writers));
    assert_eq!(result.unwrap(), 0);
    let received = finish(&ctx, RecvMessage::new(there, vec![0; 4], 2)).0.unwrap();
    assert_eq!((received.bytes, received.descriptors.len()), (0, 2));
    let (result, ..) = finish(&ctx, SendMessage::new(io::pipe().unwrap().1, "", readers));
    assert_eq!(errno(result), Some(libc::ENOTSOCK));
}

pub(crate) fn what_does_not_fit_is_reported(setup: &Setup) {
    let ctx = setup.context();
    let (here, there) = UnixDatagram::pair().unwrap();
    let here = Rc::new(here);
    let mut there = there;
    for room in [0, 1, 2] {
        let (readers, writers) = pipes(3);
        let (result, ..) = finish(&ctx, SendMessage::new(Rc::clone(&here), "long message", writers));
        result.unwrap();
        let (received, there_again, buffer) = finish(&ctx, RecvMessage::new(there, vec![0; 4], room));
        there = there_again;
        let received = received.unwrap();
        assert_eq!((received.bytes, buffer.as_slice()), (4, &b"long"[..]));
        assert!(received.truncated && received.descriptors_truncated);
        assert_eq!(received.descriptors.len(), room);
        drop(received);
        readers.iter().for_each(|reader| {
            os::set_nonblocking(reader);
            is_at_end(reader);
        });
    }
}

/// Completions that were not dispatched have brought descriptors, too.
pub(crate) fn a_dropped_context_closes_what_the_kernel_has_opened(setup: &Setup) {
    for seen in [false, true] {
        let ctx = setup.context();
        let (listener, address) = listener();
        let (listener, owners) = counted(listener);
        let client = connected(&address);
        let (here, there) = UnixStream::pair().unwrap();
        let (mut readers, writers) = pipes(2);
        finish(&ctx, SendMessage::new(here, "x", writers)).0.unwrap();
        let path = os::Fifo::new();
        if seen {
            // Unwinds from the turn before the others are dispatched.
            ctx.start(aio::op::Timeout::new(std::time::Duration::ZERO), |_, _| panic!("the first of them"))
                .unwrap();
            assert_eq!(ctx.stats().completions, 1, "only queued so far");
        }
        let pool = ctx.operation_pool(|_, _, ()| unreachable!("the context is dropped")).unwrap();
        pool.start(Accept::new(Rc::clone(&listener)), ()).map_err(|r| r.error).unwrap();
        begin(&ctx, RecvMessage::new(there, vec![0; 1], 2));
        begin(&ctx, OpenAt::new(aio::op::Cwd, path.path(), libc::O_RDWR | libc::O_NONBLOCK, 0).unwrap());
        if seen {
            let turn = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| ctx.poll(true)));
            assert!(turn.is_err(), "the panic of the first");
            assert_eq!(ctx.stats().completions, 2, "the message that was sent, and the one that panicked");
        }
        drop(ctx);
        assert_eq!(owners(), 1);
        is_at_end(&client);
        readers.drain(..).for_each(|reader| {
            os::set_nonblocking(&reader);
            is_at_end(&reader);
        });
        assert!(!path.has_reader(), "it was opened, and closed again");
        drop(pool);
    }
}

//! When dropping a registration or a context returns, the loop holds no reference to a file.
//!
//! Observed from the other end: it sees the end of file, or can bind the address, at once. Here
//! "at once" means without another turn and without any wait.

use crate::setup::Setup;
use crate::support::{Count, Slot, look, os, turn_until};
use aio::{AioContext, Interest, Registration};
use std::io::{self, ErrorKind, Read};
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::rc::Rc;

const INTERESTS: [Interest; 3] = [Interest::NONE, Interest::READABLE, Interest::WRITABLE];

/// A stream, and the other end of it, which never blocks.
fn stream() -> (UnixStream, UnixStream) {
    let (ours, peer) = UnixStream::pair().unwrap();
    peer.set_nonblocking(true).unwrap();
    (ours, peer)
}

fn watch(ctx: &AioContext, fd: &impl AsFd, interest: Interest) -> Registration {
    let registration = ctx.add_borrowed_fd(fd, interest, |_, _| ()).unwrap();
    (0..3).for_each(|_| _ = look(ctx));
    registration
}

/// Fails if the other end is still open.
fn expect_end(mut peer: &UnixStream) {
    let read = peer.read(&mut [0; 8]);
    assert_eq!(read.map_err(|e| e.kind()), Ok(0), "the file is still open somewhere");
}

pub(crate) fn the_peer_sees_the_close_of_a_removed_handler(setup: &Setup) {
    let ctx = setup.context();
    for interest in INTERESTS {
        let (ours, peer) = stream();
        let registration = watch(&ctx, &ours, interest);
        assert_eq!((&peer).read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
        drop(registration);
        drop(ours);
        expect_end(&peer);
    }
}

pub(crate) fn the_peer_sees_the_close_of_a_handler_that_changed(setup: &Setup) {
    let ctx = setup.context();
    for turns in 0..3 {
        let (ours, peer) = stream();
        let registration = watch(&ctx, &ours, Interest::READABLE);
        registration.set_interest(Interest::WRITABLE).unwrap();
        registration.set_interest(Interest::NONE).unwrap();
        (0..turns).for_each(|_| _ = look(&ctx));
        drop(registration);
        drop(ours);
        expect_end(&peer);
    }
}

/// As a connection does that closes itself.
pub(crate) fn the_peer_sees_the_close_by_its_own_callback(setup: &Setup) {
    let ctx = setup.context();
    let (ours, peer) = stream();
    let (slot, closed) = (Slot::new(), Count::default());
    let registration = ctx.add_borrowed_fd(&ours, Interest::WRITABLE, {
        let (slot, closed) = (slot.clone(), closed.clone());
        move |_, _| {
            drop(slot.take());
            expect_end(&peer);
            closed.bump();
        }
    });
    slot.put((registration.unwrap(), ours));
    turn_until(&ctx, || closed.get() == 1);
}

pub(crate) fn the_peers_of_many_removed_handlers_see_the_close(setup: &Setup) {
    // More than a small ring has entries, removed together.
    let ctx = setup.builder().ring_entries(4).build().unwrap();
    let streams: Vec<_> = (0..50).map(|_| stream()).collect();
    let registrations: Vec<_> =
        streams.iter().map(|(ours, _)| watch(&ctx, ours, Interest::READABLE)).collect();
    drop(registrations);
    for (ours, peer) in streams {
        drop(ours);
        expect_end(&peer);
    }
}

/// Watches a listener and drops it, then binds its address again, several times.
fn bind_again<L: AsFd>(ctx: &AioContext, mut listener: L, bind: impl Fn() -> io::Result<L>) {
    for _ in 0..5 {
        drop(watch(ctx, &listener, Interest::READABLE));
        drop(listener);
        listener = bind().unwrap();
    }
}

pub(crate) fn the_address_of_a_removed_listener_can_be_bound(setup: &Setup) {
    let ctx = setup.context();
    // An abstract address is free when the last reference to the socket is gone.
    let name = format!("aio-releases-{}-{:?}", std::process::id(), std::thread::current().id());
    let address = SocketAddr::from_abstract_name(name).unwrap();
    bind_again(&ctx, UnixListener::bind_addr(&address).unwrap(), || UnixListener::bind_addr(&address));
    match TcpListener::bind("127.0.0.1:0") {
        Err(e) if e.raw_os_error() == Some(libc::EAFNOSUPPORT) => {
            println!("skipped: a TCP listener, this kernel has no AF_INET");
        }
        listener => {
            let listener = listener.unwrap();
            let address = listener.local_addr().unwrap();
            bind_again(&ctx, listener, || TcpListener::bind(address));
        }
    }
}

pub(crate) fn a_child_sees_the_end_of_its_input(setup: &Setup) {
    let ctx = setup.context();
    let (reader, writer) = io::pipe().unwrap();
    let mut child = std::process::Command::new("cat").stdin(reader).spawn().unwrap();
    let registration = watch(&ctx, &writer, Interest::NONE);
    drop(registration);
    drop(writer);
    assert!(child.wait().unwrap().success());
}

pub(crate) fn the_peers_of_a_dropped_context_see_the_close(setup: &Setup) {
    for keep_registrations in [false, true] {
        let ctx = setup.builder().ring_entries(4).build().unwrap();
        let streams: Vec<_> = (0..50).map(|_| stream()).collect();
        let registrations: Vec<_> = streams
            .iter()
            .zip(INTERESTS.iter().cycle())
            .map(|((ours, _), interest)| watch(&ctx, ours, *interest))
            .collect();
        let kept = if keep_registrations {
            Some(registrations)
        } else {
            registrations.into_iter().for_each(|registration| _ = registration.detach());
            None
        };
        drop(ctx);
        for (ours, peer) in streams {
            drop(ours);
            expect_end(&peer);
        }
        drop(kept);
    }
}

/// A wake-up of the poll is on its way while it is removed.
pub(crate) fn a_removal_races_with_the_peer(setup: &Setup) {
    let ctx = setup.context();
    for _ in 0..200 {
        let (ours, peer) = stream();
        let registration = watch(&ctx, &ours, Interest::READABLE);
        let writer = std::thread::spawn({
            let mut peer = peer.try_clone().unwrap();
            move || io::Write::write_all(&mut peer, b"x")
        });
        drop(registration);
        drop(ours);
        // ECONNRESET if the byte was written before the close, and not read.
        let read = (&peer).read(&mut [0; 8]).map_err(|e| e.kind());
        assert!(matches!(read, Ok(0) | Err(ErrorKind::ConnectionReset)), "{read:?}");
        let _ = writer.join().unwrap();
        ctx.poll(false).unwrap();
    }
}

/// A handler owns its descriptor, and closes it when the registration is dropped.
pub(crate) fn a_handler_closes_the_descriptor_that_it_owns(setup: &Setup) {
    for interest in INTERESTS {
        let ctx = setup.context();
        let [dropped, replaced, by_context] = [(); 3].map(|()| stream());
        let registration = ctx.add_fd(dropped.0, interest, |_, _| ()).unwrap();
        (0..3).for_each(|_| _ = look(&ctx));
        drop(registration);
        expect_end(&dropped.1);

        let shared = Rc::new(replaced.0);
        let first = ctx.add_fd(Rc::clone(&shared), interest, |_, _| ()).unwrap();
        let second = ctx.add_fd(Rc::clone(&shared), interest, |_, _| ()).unwrap();
        assert_eq!(Rc::strong_count(&shared), 2, "the replaced handler has given up its share");
        drop(shared);
        (0..3).for_each(|_| _ = look(&ctx));
        assert_eq!((&replaced.1).read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
        drop((first, second));
        expect_end(&replaced.1);

        let kept = ctx.add_fd(by_context.0, interest, |_, _| ()).unwrap();
        (0..3).for_each(|_| _ = look(&ctx));
        drop(ctx);
        expect_end(&by_context.1);
        drop(kept);
    }
}

/// The callback that drops its registration can still use the descriptor.
pub(crate) fn a_handler_that_removes_itself_closes_after_its_callback(setup: &Setup) {
    let ctx = setup.context();
    let (ours, peer) = stream();
    let (slot, calls) = (Slot::new(), Count::default());
    let registration = ctx.add_fd(ours, Interest::WRITABLE, {
        let (slot, calls, peer) = (slot.clone(), calls.clone(), peer.try_clone().unwrap());
        move |_, _| {
            drop(slot.take());
            assert_eq!((&peer).read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
            calls.bump();
        }
    });
    slot.put(registration.unwrap());
    turn_until(&ctx, || calls.get() == 1);
    expect_end(&peer);
}

pub(crate) fn a_refused_descriptor_comes_back_open(setup: &Setup) {
    let ctx = setup.context();
    let refused = ctx.add_fd(os::memory_file(), Interest::READABLE, |_, _| ()).unwrap_err();
    let (file, _callback) = refused.value;
    assert!(file.metadata().unwrap().is_file());
    assert_eq!(refused.error.kind(), ErrorKind::PermissionDenied);
}

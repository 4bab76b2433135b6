//! The serial ports of the guide, which people copy: the one of step 2 and that of the example.

#[path = "../../examples/uart/one_thread.rs"]
mod one_thread;
#[path = "../../examples/uart/registers.rs"]
mod registers;
#[path = "../../examples/uart/uart.rs"]
mod uart;

use crate::setup::Setup;
use crate::support::{SPIN, look, turns_of_an_idle_loop};
use aio::{AioContext, EventNotifier, Reset};
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::rc::Rc;

/// A port as the guest sees it.
trait Port {
    fn read(&self, offset: u16) -> u8;
    fn write(&self, offset: u16, value: u8);

    /// The transmitter is empty.
    fn is_empty(&self) -> bool {
        self.read(5) & 0x20 != 0
    }
}

impl Port for Rc<one_thread::Uart> {
    fn read(&self, offset: u16) -> u8 {
        one_thread::Uart::read(self, offset)
    }
    fn write(&self, offset: u16, value: u8) {
        one_thread::Uart::write(self, offset, value);
    }
}

impl Port for Rc<uart::Line> {
    fn read(&self, offset: u16) -> u8 {
        self.uart().read(offset)
    }
    fn write(&self, offset: u16, value: u8) {
        self.uart().write(offset, value);
    }
}

/// Enough turns for what a test expects. Not until the loop is quiet: it must not spin here.
fn settle(ctx: &AioContext) {
    for _ in 0..6 {
        look(ctx);
    }
}

/// Runs a test with both ports, and the other end of the line.
fn with_each(setup: &Setup, test: impl Fn(&AioContext, &dyn Port, UnixStream)) {
    let ctx = setup.context();
    let (socket, peer) = UnixStream::pair().unwrap();
    let port = one_thread::Uart::attach(&ctx, socket).unwrap();
    test(&ctx, &port, peer);
    drop(port);
    let (socket, peer) = UnixStream::pair().unwrap();
    let irq = EventNotifier::new(Reset::Classic).unwrap();
    let port = uart::Line::attach(&ctx, socket, irq).unwrap();
    test(&ctx, &port, peer);
}

/// Lets the guest write until the line takes nothing more. Returns how many bytes it has written.
fn fill(ctx: &AioContext, port: &dyn Port) -> usize {
    for written in 0..1_000_000 {
        if !port.is_empty() {
            return written;
        }
        port.write(0, b'x');
        settle(ctx);
    }
    panic!("the line takes everything");
}

/// Reads what has arrived.
fn arrived(peer: &mut UnixStream) -> usize {
    let (mut count, mut bytes) = (0, [0; 4096]);
    loop {
        match peer.read(&mut bytes) {
            Ok(read) => count += read,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return count,
            Err(error) => panic!("{error}"),
        }
    }
}

pub(crate) fn output_reaches_a_peer_that_sends_nothing_more(setup: &Setup) {
    with_each(setup, |ctx, port, mut peer| {
        peer.set_nonblocking(true).unwrap();
        peer.shutdown(Shutdown::Write).unwrap();
        settle(ctx);
        let written = fill(ctx, port);
        assert!(turns_of_an_idle_loop(ctx) < SPIN, "it waits for room");
        let mut read = arrived(&mut peer);
        assert!(read < written, "{read} of {written}");
        settle(ctx);
        assert!(port.is_empty(), "the rest was sent as there was room");
        read += arrived(&mut peer);
        assert_eq!(read, written);
        assert!(turns_of_an_idle_loop(ctx) < SPIN);
        // And then it goes.
        drop(peer);
        settle(ctx);
        port.write(0, b'x');
        settle(ctx);
        assert!(port.is_empty(), "lost, and the guest goes on");
        assert!(turns_of_an_idle_loop(ctx) < SPIN);
    });
}

pub(crate) fn a_peer_that_does_not_read_costs_no_turns(setup: &Setup) {
    with_each(setup, |ctx, port, mut peer| {
        peer.shutdown(Shutdown::Read).unwrap();
        port.write(0, b'x');
        settle(ctx);
        assert!(port.is_empty(), "lost, and the guest goes on");
        assert!(turns_of_an_idle_loop(ctx) < SPIN);
        peer.write_all(b"y").unwrap();
        settle(ctx);
        assert_eq!(port.read(0), b'y', "the other direction works");
    });
}

pub(crate) fn a_peer_that_is_gone_costs_no_turns(setup: &Setup) {
    with_each(setup, |ctx, port, mut peer| {
        let text = b"more bytes than the FIFO holds";
        peer.write_all(text).unwrap();
        drop(peer);
        settle(ctx);
        assert!(turns_of_an_idle_loop(ctx) < SPIN, "the guest does not read yet");
        let mut read = Vec::new();
        while port.read(5) & 1 != 0 {
            read.push(port.read(0));
            settle(ctx);
        }
        assert_eq!(read, text);
        assert!(turns_of_an_idle_loop(ctx) < SPIN);
    });
}

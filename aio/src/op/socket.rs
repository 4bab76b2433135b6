//! Connections: accepting, connecting, and the bytes of a stream.
#![expect(unsafe_code, reason = "entries that point to the address or the buffer that the operation owns")]

use super::Operation;
use super::address::SocketAddress;
use super::buffer::{StableBuffer, StableBufferMut};
use super::entry::{Entry, RingId, Sealed, bytes, length};
use super::file::{RingFile, on};
use super::path::new_descriptor;
use io_uring::opcode;
use std::io;
use std::os::fd::OwnedFd;

/// Accepts one connection, as accept4(2). The output is the connection, which is close-on-exec and
/// blocking, with the address of the peer; and the listener.
///
/// To accept one after another, see [`AcceptMultishot`](super::AcceptMultishot).
#[derive(Debug)]
pub struct Accept<F> {
    listener: F,
    peer: SocketAddress,
}

impl<F: RingFile> Accept<F> {
    /// An operation that accepts a connection of a listening socket.
    pub fn new(listener: F) -> Self {
        Self { listener, peer: SocketAddress::default() }
    }
}

// SAFETY: the address stays with the operation, which owns it.
unsafe impl<F: RingFile> Operation for Accept<F> {
    type Output = (io::Result<(OwnedFd, SocketAddress)>, F);

    fn entry(&mut self, ring: RingId, _: Sealed) -> Entry {
        let (address, len) = self.peer.as_raw_mut();
        let accept = |fd| opcode::Accept::new(fd, address, len).flags(libc::SOCK_CLOEXEC).build();
        Entry(on(&self.listener, ring, accept))
    }

    fn complete(self, result: io::Result<u32>, _: Sealed) -> Self::Output {
        (result.map(|number| (new_descriptor(number), self.peer)), self.listener)
    }
}

/// Connects a socket, as connect(2). The output is the result and the socket.
///
/// Waits for the connection, also if the socket is non-blocking: there is no EINPROGRESS.
#[derive(Debug)]
pub struct Connect<F> {
    socket: F,
    address: SocketAddress,
}

impl<F: RingFile> Connect<F> {
    /// An operation that connects `socket` to `address`.
    pub fn new(socket: F, address: impl Into<SocketAddress>) -> Self {
        Self { socket, address: address.into() }
    }
}

// SAFETY: the address stays with the operation, which owns it.
unsafe impl<F: RingFile> Operation for Connect<F> {
    type Output = (io::Result<()>, F);

    fn entry(&mut self, ring: RingId, _: Sealed) -> Entry {
        let (address, len) = self.address.as_raw();
        Entry(on(&self.socket, ring, |fd| opcode::Connect::new(fd, address, len).build()))
    }

    fn complete(self, result: io::Result<u32>, _: Sealed) -> Self::Output {
        (result.map(drop), self.socket)
    }
}

/// Receives bytes from a socket, as recv(2). The output is the number of bytes, which is zero at
/// the end of a stream, the socket and the buffer.
///
/// For many connections that are idle most of the time, [`RecvMultishot`](super::RecvMultishot)
/// needs less memory.
#[derive(Debug)]
pub struct Recv<F, B> {
    socket: F,
    buffer: B,
    flags: i32,
}

impl<F: RingFile, B: StableBufferMut> Recv<F, B> {
    /// An operation that receives from `socket` into `buffer`. `flags` are those of recv(2), such
    /// as `libc::MSG_WAITALL`.
    pub fn new(socket: F, buffer: B, flags: i32) -> Self {
        Self { socket, buffer, flags }
    }
}

// SAFETY: the buffer is stable, and the operation owns it.
unsafe impl<F: RingFile, B: StableBufferMut> Operation for Recv<F, B> {
    type Output = (io::Result<usize>, F, B);

    fn entry(&mut self, ring: RingId, _: Sealed) -> Entry {
        let (len, flags, pointer) =
            (length(self.buffer.byte_len()), self.flags, self.buffer.stable_mut_ptr());
        Entry(on(&self.socket, ring, |fd| opcode::Recv::new(fd, pointer, len).flags(flags).build()))
    }

    fn complete(self, result: io::Result<u32>, _: Sealed) -> Self::Output {
        (bytes(result), self.socket, self.buffer)
    }
}

/// Sends bytes through a socket, as send(2). The output is the number of bytes, which may be less
/// than all, the socket and the buffer.
///
/// EPIPE if the other end is closed; never raises SIGPIPE.
#[derive(Debug)]
pub struct Send<F, B> {
    socket: F,
    buffer: B,
    flags: i32,
}

impl<F: RingFile, B: StableBuffer> Send<F, B> {
    /// An operation that sends `buffer` through `socket`. `flags` are those of send(2), such as
    /// `libc::MSG_MORE`; `libc::MSG_WAITALL` sends all bytes unless there is an error.
    pub fn new(socket: F, buffer: B, flags: i32) -> Self {
        Self { socket, buffer, flags: flags | libc::MSG_NOSIGNAL }
    }
}

// SAFETY: the buffer is stable, and the operation owns it.
unsafe impl<F: RingFile, B: StableBuffer> Operation for Send<F, B> {
    type Output = (io::Result<usize>, F, B);

    fn entry(&mut self, ring: RingId, _: Sealed) -> Entry {
        let (len, flags, pointer) = (length(self.buffer.byte_len()), self.flags, self.buffer.stable_ptr());
        Entry(on(&self.socket, ring, |fd| opcode::Send::new(fd, pointer, len).flags(flags).build()))
    }

    fn complete(self, result: io::Result<u32>, _: Sealed) -> Self::Output {
        (bytes(result), self.socket, self.buffer)
    }
}

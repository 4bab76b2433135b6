//! A character device: a UNIX socket for one client at a time, with a bounded buffer in each
//! direction.
//!
//! It is the host's side of a device that carries bytes, such as a console. The queues may run on
//! any thread. They look at the buffers in
//! [`Handled::may_begin`](crate::queue::Handled::may_begin), so a queue takes no chain while there
//! is no input, or no room for output:
//!
//! ```text
//! client ─► socket ─► input  ─► receive ─► writable part of a chain      on_input wakes the queue
//! client ◄─ socket ◄─ output ◄─ send    ◄─ readable part of a chain      on_room wakes the queue
//! ```
//!
//! A client that sends too fast is not read from until the guest has taken some input. Input that a
//! client sent before it left reaches the guest later. Output is discarded while no client is
//! connected, so that the guest does not hang.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt::Arguments;
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aio::{AioContext, BottomHalf, BottomHalfHandle, Interest, Registration};

use crate::accept::Accepting;
use crate::log::Line;
use crate::virtqueue::Segments;

/// A buffer that holds this many bytes takes no more.
pub const LIMIT: usize = 64 << 10;

/// What one [`send`](Chardev::send) adds at most. Linux sends up to 32 KiB with a write(2) to a
/// console, and with a splice(2) what a pipe holds: 1 MiB, unless root allows more.
pub const MAX_SEND: usize = 1 << 20;

/// How many bytes are copied at a time: from the client to the input, and from a chain to the
/// output.
const PART: usize = 4096;

/// The buffers, and the bottom halves that wake the queues. Any thread.
#[derive(Debug)]
pub struct Chardev {
    /// The lock is held over system calls of the socket's loop.
    state: Mutex<State>,
    /// How many bytes of input are buffered. Can be read without the lock.
    input: Arc<AtomicUsize>,
    /// The same for output.
    output: Arc<AtomicUsize>,
}

#[derive(Debug, Default)]
struct State {
    /// A client is there to read the output.
    connected: bool,
    input: Buffer,
    output: Buffer,
    on_input: Option<BottomHalfHandle>,
    on_room: Option<BottomHalfHandle>,
    /// Looks at the buffers in the socket's loop.
    look: Option<BottomHalfHandle>,
}

/// Buffered bytes, and a copy of their number for readers without the lock.
#[derive(Debug, Default)]
struct Buffer {
    bytes: VecDeque<u8>,
    // Relaxed: a queue that saw an old number is woken by a bottom half that was scheduled after
    // the store, and `receive` and `send` take the lock.
    len: Arc<AtomicUsize>,
}

impl Buffer {
    fn len(&self) -> usize {
        self.bytes.len()
    }

    fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    fn append(&mut self, part: &[u8]) {
        self.bytes.extend(part);
        self.len.store(self.bytes.len(), Ordering::Relaxed);
    }

    /// Removes `count` bytes, or all if there are fewer.
    fn remove(&mut self, count: usize) {
        self.bytes.drain(..count.min(self.bytes.len()));
        self.len.store(self.bytes.len(), Ordering::Relaxed);
    }
}

impl Default for Chardev {
    fn default() -> Self {
        let state = State::default();
        let (input, output) = (Arc::clone(&state.input.len), Arc::clone(&state.output.len));
        Self { state: Mutex::new(state), input, output }
    }
}

impl Chardev {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns true if the client sent something that was not received yet. Does not block.
    pub fn has_input(&self) -> bool {
        self.input.load(Ordering::Relaxed) > 0
    }

    /// Returns true if more may be sent. Does not block.
    pub fn has_room(&self) -> bool {
        self.output.load(Ordering::Relaxed) < LIMIT
    }

    /// Returns whether a client is connected.
    pub fn is_connected(&self) -> bool {
        self.state().connected
    }

    /// Returns how many bytes of input and of output are buffered.
    pub fn buffered(&self) -> (usize, usize) {
        (self.input.load(Ordering::Relaxed), self.output.load(Ordering::Relaxed))
    }

    /// Sets the bottom half to schedule when input arrives, replacing the last. May be spurious.
    pub fn on_input(&self, queue: BottomHalfHandle) {
        self.state().on_input = Some(queue);
    }

    /// Sets the bottom half to schedule when there is room for output, replacing the last. May be
    /// spurious.
    pub fn on_room(&self, queue: BottomHalfHandle) {
        self.state().on_room = Some(queue);
    }

    /// Moves buffered input to a chain. Returns the number of bytes.
    pub fn receive(&self, writable: &Segments) -> u32 {
        let state = &mut *self.state();
        let full = state.input.len() >= LIMIT;
        let (first, second) = state.input.bytes.as_slices();
        let mut received = writable.copy_from(0, first);
        received += writable.copy_from(received as u64, second);
        state.input.remove(received);
        // While the input was full, the client was not read from.
        if full && state.input.len() < LIMIT {
            state.look();
        }
        // Less than LIMIT + PART.
        received as u32
    }

    /// Buffers the bytes of a chain as output, at most [`MAX_SEND`]. Further bytes are discarded.
    /// Without a client, all are.
    pub fn send(&self, readable: &Segments) {
        let state = &mut *self.state();
        if !state.connected {
            return;
        }
        let (mut part, mut sent) = ([0; PART], 0);
        while sent < MAX_SEND {
            let count = readable.copy_to(sent as u64, &mut part);
            let Some(bytes) = part.get(..count.min(MAX_SEND - sent)).filter(|bytes| !bytes.is_empty()) else {
                break;
            };
            state.output.append(bytes);
            sent += bytes.len();
        }
        state.look();
    }

    /// Serves the clients of a listening socket until the returned value is dropped.
    ///
    /// # Errors
    /// What registering the socket returns.
    pub fn listen(self: Arc<Self>, context: &AioContext, listener: UnixListener) -> io::Result<Clients> {
        let socket = Rc::new(Socket { chardev: self, client: RefCell::default() });
        let looks = Rc::clone(&socket);
        let look = context.bottom_half(move |_| looks.exchange(false));
        socket.chardev.state().look = Some(look.handle());
        let take = move |context: &AioContext, stream| socket.take(context, stream);
        let log = |line: Arguments<'_>| Line::warn(line).device("character device").limited();
        let accepting = Accepting::new(context, listener, Accepting::allowance().into(), take, log)?;
        Ok(Clients { _accepting: accepting, _look: look })
    }
}

/// A listening socket on its loop. Dropping it hangs up on the client.
#[must_use = "dropping it stops listening"]
#[derive(Debug)]
pub struct Clients {
    _accepting: Accepting,
    _look: BottomHalf,
}

struct Socket {
    chardev: Arc<Chardev>,
    client: RefCell<Option<Client>>,
}

struct Client {
    /// `None` once the client hung up. The rest of what it sent is still read when the guest takes
    /// input.
    registration: Option<Registration>,
    stream: UnixStream,
}

impl Socket {
    /// Serves a client. While one is connected, another is hung up on.
    fn take(self: &Rc<Self>, context: &AioContext, stream: UnixStream) {
        // The present client may have left a moment ago.
        self.exchange(false);
        if self.chardev.is_connected() || stream.set_nonblocking(true).is_err() {
            return;
        }
        let socket = Rc::downgrade(self);
        let ready = move |_: &AioContext, ready: aio::Readiness| {
            if let Some(socket) = socket.upgrade() {
                socket.exchange(ready.is_hang_up());
            }
        };
        // The rest of what the last one sent is lost.
        self.client.take();
        if let Ok(registration) = context.add_borrowed_fd(&stream, Interest::READABLE, ready) {
            self.client.replace(Some(Client { registration: Some(registration), stream }));
            self.chardev.state().connected = true;
        }
    }

    /// Moves what can be moved between the client and the buffers, and wakes the queues.
    fn exchange(&self, hung_up: bool) {
        let mut slot = self.client.borrow_mut();
        let Some(client) = &mut *slot else { return };
        let state = &mut *self.chardev.state();
        state.write(&client.stream);
        let ended = !state.read(&client.stream);
        let interest = state.interest();
        let deaf = client.registration.as_ref().is_some_and(|r| r.set_interest(interest).is_err());
        if hung_up || ended || deaf {
            state.disconnect();
            // A hang-up is reported again in each turn, whatever the interest is.
            client.registration = None;
        }
        if ended {
            slot.take();
        }
        state.wake();
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // Nobody reads the output any more. A client without a registration has left already.
        if self.client.take().is_some_and(|client| client.registration.is_some()) {
            let state = &mut *self.chardev.state();
            state.disconnect();
            state.wake();
        }
    }
}

impl State {
    fn look(&self) {
        self.look.iter().for_each(BottomHalfHandle::schedule);
    }

    fn wake(&self) {
        if !self.input.is_empty() {
            self.on_input.iter().for_each(BottomHalfHandle::schedule);
        }
        if self.output.len() < LIMIT {
            self.on_room.iter().for_each(BottomHalfHandle::schedule);
        }
    }

    fn disconnect(&mut self) {
        self.connected = false;
        self.output.remove(usize::MAX);
    }

    fn interest(&self) -> Interest {
        let reads = if self.input.len() < LIMIT { Interest::READABLE } else { Interest::NONE };
        if self.output.is_empty() { reads } else { reads | Interest::WRITABLE }
    }

    /// Sends output until the socket takes no more.
    fn write(&mut self, mut stream: &UnixStream) {
        while !self.output.is_empty() {
            match stream.write(self.output.bytes.as_slices().0) {
                Ok(sent) => self.output.remove(sent),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                // The client has left, but there may still be something to read from it.
                Err(_) => self.disconnect(),
            }
        }
    }

    /// Receives input until there is no more, or no room. Returns false at the end of the stream.
    /// The end may be an error such as ECONNRESET: the client left without reading everything.
    fn read(&mut self, mut stream: &UnixStream) -> bool {
        let mut part = [0; PART];
        while self.input.len() < LIMIT {
            match stream.read(&mut part) {
                Ok(received @ 1..) => self.input.append(part.get(..received).unwrap_or_default()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Ok(_) | Err(_) => return false,
            }
        }
        true
    }
}

#[cfg(test)]
mod tests;

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
//! A client that sends too fast is not read from, until the guest has taken some input. Input
//! outlives its client, and reaches the guest later. Output for nobody is discarded: a guest must
//! not hang because no one looks at its console.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt::Arguments;
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aio::{AioContext, BottomHalf, BottomHalfHandle, Interest, Registration};

use crate::accept::Accepting;
use crate::log;
use crate::virtqueue::Segments;

/// A buffer that holds this many bytes takes no more.
pub const LIMIT: usize = 64 << 10;

/// What one [`send`](Chardev::send) adds at most. Linux sends up to 32 KiB with a write(2) to a
/// console, and with a splice(2) what a pipe holds: 1 MiB, unless root allows more.
pub const MAX_SEND: usize = 1 << 20;

/// What is read from the client at a time.
const PART: usize = 4096;

/// The buffers, and who waits for them. Any thread.
#[derive(Debug, Default)]
pub struct Chardev(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Somebody is there to read the output.
    connected: bool,
    input: VecDeque<u8>,
    output: VecDeque<u8>,
    on_input: Option<BottomHalfHandle>,
    on_room: Option<BottomHalfHandle>,
    /// Looks at the buffers in the socket's loop.
    look: Option<BottomHalfHandle>,
}

impl Chardev {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns true if the client sent something that was not received yet.
    pub fn has_input(&self) -> bool {
        !self.state().input.is_empty()
    }

    /// Returns true if more may be sent.
    pub fn has_room(&self) -> bool {
        self.state().output.len() < LIMIT
    }

    /// Returns whether a client is connected.
    pub fn is_connected(&self) -> bool {
        self.state().connected
    }

    /// Returns how many bytes of input and of output are buffered.
    pub fn buffered(&self) -> (usize, usize) {
        let state = self.state();
        (state.input.len(), state.output.len())
    }

    /// Has this bottom half scheduled when there is input, in place of the one before. Perhaps also
    /// when there is none.
    pub fn on_input(&self, queue: BottomHalfHandle) {
        self.state().on_input = Some(queue);
    }

    /// Has this bottom half scheduled when there is room for output, in place of the one before.
    /// Perhaps also when there is none.
    pub fn on_room(&self, queue: BottomHalfHandle) {
        self.state().on_room = Some(queue);
    }

    /// Moves input to where the guest wants it; returns how many bytes, at most the buffer's bound.
    pub fn receive(&self, writable: &Segments) -> u32 {
        let state = &mut *self.state();
        let (first, second) = state.input.as_slices();
        let mut received = writable.copy_from(0, first);
        received += writable.copy_from(received as u64, second);
        state.input.drain(..received);
        state.look();
        // Less than LIMIT + PART.
        received as u32
    }

    /// Buffers what the guest says: what exceeds [`MAX_SEND`] is lost, and without a client
    /// everything.
    pub fn send(&self, readable: &Segments) {
        let state = &mut *self.state();
        if state.connected {
            let mut bytes = vec![0; readable.len_bytes().min(MAX_SEND as u64) as usize];
            readable.copy_to(0, &mut bytes);
            state.output.extend(bytes);
            state.look();
        }
    }

    /// Serves the clients of a listening socket for as long as what is returned is kept.
    ///
    /// # Errors
    /// What registering the socket returns.
    pub fn listen(self: Arc<Self>, context: &AioContext, listener: UnixListener) -> io::Result<Clients> {
        let socket = Rc::new(Socket { chardev: self, client: RefCell::default() });
        let looks = Rc::clone(&socket);
        let look = context.bottom_half(move |_| looks.exchange(false));
        socket.chardev.state().look = Some(look.handle());
        let take = move |context: &AioContext, stream| socket.take(context, stream);
        let log = |line: Arguments<'_>| log::limited(format_args!("character device: {line}"));
        let accepting = Accepting::new(context, listener, take, log)?;
        Ok(Clients { _accepting: accepting, _look: look })
    }
}

/// A listening socket on its loop. Dropping it hangs up.
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
    /// `None` once the client hung up: only the rest of what it sent is still read, as the guest
    /// takes it.
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
        if let Ok(registration) = context.add_fd(&stream, Interest::READABLE, ready) {
            self.client.replace(Some(Client { registration: Some(registration), stream }));
            self.chardev.state().connected = true;
        }
    }

    /// Moves what can be moved between the client and the buffers, and wakes whoever waits for
    /// them.
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
        self.output.clear();
    }

    fn interest(&self) -> Interest {
        let reads = if self.input.len() < LIMIT { Interest::READABLE } else { Interest::NONE };
        if self.output.is_empty() { reads } else { reads | Interest::WRITABLE }
    }

    /// Sends output until the socket takes no more.
    fn write(&mut self, mut stream: &UnixStream) {
        while !self.output.is_empty() {
            match stream.write(self.output.as_slices().0) {
                Ok(sent) => drop(self.output.drain(..sent)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                // It left, and there may be something to read from it all the same.
                Err(_) => self.disconnect(),
            }
        }
    }

    /// Receives input until there is no more, or no room. Returns false at its end, which may be an
    /// error such as ECONNRESET: the client left without reading everything.
    fn read(&mut self, mut stream: &UnixStream) -> bool {
        let mut part = [0; PART];
        while self.input.len() < LIMIT {
            match stream.read(&mut part) {
                Ok(received @ 1..) => self.input.extend(part.iter().take(received)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Ok(_) | Err(_) => return false,
            }
        }
        true
    }
}

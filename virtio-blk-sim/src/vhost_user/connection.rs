//! Receives whole messages from a stream of arbitrary pieces, and sends replies to a socket that
//! may be full. Never blocks.
//!
//! The receiving half is a state machine. It reads exactly the bytes of one message, first the
//! header and then the body, so that the next message and its descriptors stay in the kernel until
//! they are needed:
//!
//! ```text
//!           ┌───────── body complete: the message is returned ◄────────────┐
//!           ▼                                                              │
//!   Header: 0..12 bytes ── 12 bytes, version 1, size within limit ──► Body: 0..size bytes
//!           └───────────────┬─────────── any error ────────────────────────┘
//!                           ▼
//!                        Failed: the start of the next message is unknown
//! ```

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use super::error::ConnectionError;
use super::frame::Frame;
use super::header::{HEADER_SIZE, Header, MAX_BODY_SIZE};
use super::socket::{self, MAX_FDS};

/// Maximum number of replies that wait for the peer to read them. A frontend that follows the
/// protocol has only one outstanding.
pub const MAX_QUEUED_FRAMES: usize = 64;

/// One end of a vhost-user socket: either the channel for the frontend's requests, or the channel
/// for the backend's own requests.
///
/// The event loop watches its fd ([`AsFd`]) for reading, and also for writing while
/// [`wants_write`](Self::wants_write) returns true. It does not have to be in non-blocking mode.
/// Memory use is bounded: one buffer of [`MAX_BODY_SIZE`], [`MAX_FDS`] descriptors, and
/// [`MAX_QUEUED_FRAMES`] replies.
#[derive(Debug)]
pub struct Connection {
    stream: Arc<UnixStream>,
    state: State,
    /// Header and body of the message being received; allocated once.
    buffer: Box<[u8]>,
    /// Number of bytes in `buffer`.
    filled: usize,
    /// The descriptors received so far with the message.
    fds: Vec<OwnedFd>,
    outbox: VecDeque<Frame>,
    /// Number of bytes already sent of the first frame in `outbox`.
    sent: usize,
}

#[derive(Debug, Clone, Copy)]
enum State {
    /// The header is incomplete, or none of it has arrived.
    Header,
    /// The header is complete, the body is not.
    Body(Header),
    /// The connection failed with an error.
    Failed,
}

/// A message as it was received. Its content is not checked yet;
/// [`Request::parse`](super::Request::parse) does that.
#[derive(Debug)]
pub struct Incoming<'a> {
    /// Its version is 1. The other fields are not checked.
    pub header: Header,
    /// The body, of `header.size` bytes.
    pub body: &'a [u8],
    /// The descriptors that came with the message, close-on-exec, at most [`MAX_FDS`]. Closed when
    /// dropped.
    pub fds: Vec<OwnedFd>,
}

impl Connection {
    /// Creates a connection from a stream that was accepted, connected or inherited.
    pub fn new(stream: UnixStream) -> Self {
        Self {
            stream: Arc::new(stream),
            state: State::Header,
            buffer: vec![0; HEADER_SIZE + MAX_BODY_SIZE].into_boxed_slice(),
            filled: 0,
            fds: Vec::new(),
            outbox: VecDeque::new(),
            sent: 0,
        }
    }

    /// Returns the next message if it is complete, otherwise `None`. An incomplete message is kept;
    /// call again when the socket is readable. One message takes two recvmsg(2) calls, or one if it
    /// has no body.
    ///
    /// A server that does not call this while [`wants_write`](Self::wants_write) returns true never
    /// gets [`RepliesUnread`](ConnectionError::RepliesUnread).
    ///
    /// # Errors
    /// Any error ends this connection; `Closed` is the normal end. A partially received message is
    /// dropped and its descriptors are closed.
    pub fn receive(&mut self) -> Result<Option<Incoming<'_>>, ConnectionError> {
        let header = match self.advance() {
            Ok(Some(header)) => header,
            Ok(None) => return Ok(None),
            Err(error) => return Err(self.fail(error)),
        };
        let message = self.buffer.get(..self.filled).unwrap_or_default();
        self.state = State::Header;
        self.filled = 0;
        Ok(Some(Incoming {
            header,
            body: message.get(HEADER_SIZE..).unwrap_or_default(),
            fds: std::mem::take(&mut self.fds),
        }))
    }

    /// How many bytes of an incomplete message have arrived.
    pub(super) fn partial(&self) -> usize {
        self.filled
    }

    /// Reads until a message is complete or no more data is available. Each iteration reads at
    /// least one byte of a message of bounded size.
    fn advance(&mut self) -> Result<Option<Header>, ConnectionError> {
        loop {
            let expected = match self.state {
                State::Header => HEADER_SIZE,
                State::Body(header) => HEADER_SIZE + header.size as usize,
                State::Failed => return Err(ConnectionError::Failed),
            };
            match self.buffer.get_mut(self.filled..expected) {
                Some(missing) if !missing.is_empty() => {
                    let received = match socket::receive(self.stream.as_fd(), missing, &mut self.fds) {
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                        // The peer closed the socket before it read everything that we sent.
                        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                            return Err(self.closed(expected));
                        }
                        received => received?,
                    };
                    if received.truncated || self.fds.len() > MAX_FDS {
                        return Err(ConnectionError::DescriptorsLost);
                    }
                    if received.bytes == 0 {
                        return Err(self.closed(expected));
                    }
                    self.filled += received.bytes;
                }
                _ => match self.state {
                    State::Body(header) => return Ok(Some(header)),
                    _ => self.state = State::Body(self.header()?),
                },
            }
        }
    }

    /// Returns the complete header in the buffer, after checking its version and size.
    fn header(&self) -> Result<Header, ConnectionError> {
        let bytes = self.buffer.first_chunk().ok_or(ConnectionError::Failed)?;
        let header = Header::decode(bytes);
        if !header.is_version_1() {
            return Err(ConnectionError::Version { flags: header.flags });
        }
        if header.size as usize > MAX_BODY_SIZE {
            return Err(ConnectionError::TooLarge { request: header.request, size: header.size });
        }
        Ok(header)
    }

    fn closed(&self, expected: usize) -> ConnectionError {
        match self.filled {
            0 => ConnectionError::Closed,
            received => ConnectionError::ClosedMidMessage { received, expected },
        }
    }

    /// Sends a message: immediately as far as the socket accepts it, the rest when
    /// [`flush`](Self::flush) is called. The descriptors are sent with the first byte and then
    /// closed on this side.
    ///
    /// # Errors
    /// Any error ends this connection: the peer closed the socket, or it left [`MAX_QUEUED_FRAMES`]
    /// replies unread.
    pub fn send(&mut self, message: impl Into<Frame>) -> Result<(), ConnectionError> {
        if matches!(self.state, State::Failed) {
            return Err(ConnectionError::Failed);
        }
        if self.outbox.len() >= MAX_QUEUED_FRAMES {
            let queued = self.outbox.len();
            return Err(self.fail(ConnectionError::RepliesUnread { queued }));
        }
        self.outbox.push_back(message.into());
        self.flush()
    }

    /// Returns true while a message waits for space in the socket. Then watch the fd for writing,
    /// and call [`flush`](Self::flush).
    pub fn wants_write(&self) -> bool {
        !self.outbox.is_empty()
    }

    /// Continues sending queued messages, if there are any.
    ///
    /// # Errors
    /// Same as [`send`](Self::send).
    pub fn flush(&mut self) -> Result<(), ConnectionError> {
        while let Some(frame) = self.outbox.front_mut() {
            let rest = frame.bytes.get(self.sent..).unwrap_or_default();
            if rest.is_empty() {
                self.outbox.pop_front();
                self.sent = 0;
                continue;
            }
            match socket::send(self.stream.as_fd(), rest, &frame.fds) {
                Ok(bytes) => {
                    self.sent += bytes;
                    frame.fds.clear();
                }
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => return Ok(()),
                    io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => {
                        return Err(self.fail(ConnectionError::Closed));
                    }
                    _ => return Err(self.fail(error.into())),
                },
            }
        }
        Ok(())
    }

    /// The socket, for whoever waits for room in it.
    pub(super) fn socket(&self) -> Arc<UnixStream> {
        Arc::clone(&self.stream)
    }

    /// Ends the connection and frees everything that was received or queued.
    fn fail(&mut self, error: ConnectionError) -> ConnectionError {
        self.state = State::Failed;
        self.filled = 0;
        self.fds.clear();
        self.outbox.clear();
        error
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

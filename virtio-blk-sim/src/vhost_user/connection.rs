//! Whole messages out of whatever pieces arrive, and replies into a socket that may be full. Never blocks.
//!
//! The receiving half is a state machine. A message's bytes are read exactly, first the header's and then the body's, so the
//! next message and its descriptors stay in the kernel until their turn:
//!
//! ```text
//!           ┌──────────── body complete: the message is handed out ◄───────────┐
//!           ▼                                                                  │
//!   Header: 0..12 bytes ── 12 bytes, version 1, size within bounds ──► Body: 0..size bytes
//!           └───────────────┬─────────── any error ────────────────────────────┘
//!                           ▼
//!                        Failed: nobody can tell any more where the next message begins
//! ```

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use super::error::ConnectionError;
use super::frame::Frame;
use super::header::{HEADER_SIZE, Header, MAX_BODY_SIZE};
use super::socket::{self, MAX_FDS};

/// Most replies that wait for the peer to read them. A frontend that follows the protocol has one answer outstanding.
pub const MAX_QUEUED_FRAMES: usize = 64;

/// One end of a vhost-user socket: the frontend's requests, or the channel for the backend's own.
///
/// The event loop watches it ([`AsFd`]) for reading, and for writing while [`wants_write`](Self::wants_write). It need not be
/// in non-blocking mode. Its memory is bounded: one buffer of [`MAX_BODY_SIZE`], [`MAX_FDS`] descriptors, and
/// [`MAX_QUEUED_FRAMES`] replies.
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
    state: State,
    /// Header and body of the message that is being received; allocated once.
    buffer: Box<[u8]>,
    /// How much of `buffer` is filled.
    filled: usize,
    /// The descriptors that came with the message so far.
    fds: Vec<OwnedFd>,
    outbox: VecDeque<Frame>,
    /// How much of the first frame in `outbox` has been sent.
    sent: usize,
}

#[derive(Debug, Clone, Copy)]
enum State {
    /// The header is incomplete, or nothing of it has come.
    Header,
    /// The header is known, the body is incomplete.
    Body(Header),
    /// An error has ended it.
    Failed,
}

/// A message as it came. Its form is unknown: [`Request::parse`](super::Request::parse) looks at it.
#[derive(Debug)]
pub struct Incoming<'a> {
    /// Of version 1; everything else in it is the peer's word.
    pub header: Header,
    /// The body: `header.size` bytes.
    pub body: &'a [u8],
    /// The descriptors that came with it, close-on-exec, at most [`MAX_FDS`]. Closed when dropped.
    pub fds: Vec<OwnedFd>,
}

impl Connection {
    /// A connection over a stream that somebody accepted, connected or inherited.
    pub fn new(stream: UnixStream) -> Self {
        Self {
            stream,
            state: State::Header,
            buffer: vec![0; HEADER_SIZE + MAX_BODY_SIZE].into_boxed_slice(),
            filled: 0,
            fds: Vec::new(),
            outbox: VecDeque::new(),
            sent: 0,
        }
    }

    /// The next message if there is a whole one, `None` if not: then what there is of it is kept, and the call is worth
    /// repeating when the socket is readable. One message costs two recvmsg(2), or one without a body.
    ///
    /// A server that stops calling this while [`wants_write`](Self::wants_write) never meets
    /// [`RepliesUnread`](ConnectionError::RepliesUnread).
    ///
    /// # Errors
    /// Any error is the end of this connection; `Closed` is the ordinary one. What was received of a message is dropped, its
    /// descriptors are closed.
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

    /// Reads until a message is complete, which its header says, or nothing more has come. Each turn of the loop takes a
    /// byte of a bounded message.
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
                        // The peer closed without reading all that we sent.
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

    /// The complete header in the buffer, if what follows it can be read.
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

    /// Sends a message: at once as far as the socket takes it, the rest when [`flush`](Self::flush) is called. Its
    /// descriptors go with its first byte and are closed on this side.
    ///
    /// # Errors
    /// The end of this connection: the peer has gone, or [`MAX_QUEUED_FRAMES`] replies lie unread.
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

    /// True while a message waits for room in the socket: watch it for writing, and [`flush`](Self::flush).
    pub fn wants_write(&self) -> bool {
        !self.outbox.is_empty()
    }

    /// Goes on sending what waits. Does nothing if nothing does.
    ///
    /// # Errors
    /// As for [`send`](Self::send).
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

    /// The connection is over: nothing of it is worth keeping.
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

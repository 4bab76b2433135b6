//! What can be wrong with a peer: with its bytes, with one of its messages, with an exchange.

use std::io;

use super::header::{Code, MAX_BODY_SIZE};
use super::payload::{MAX_CONFIG_SIZE, MAX_REGIONS};
use super::socket::MAX_FDS;

/// The connection is lost: drop it. (A server goes on with the next one.)
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectionError {
    /// The peer has gone, and left no half message behind: the ordinary end of a session.
    #[error("the peer closed the connection")]
    Closed,
    /// The peer has gone in the middle of a message.
    #[error("the peer closed the connection after {received} of at least {expected} bytes of a message")]
    ClosedMidMessage {
        /// Bytes that came, header included.
        received: usize,
        /// Bytes that the message has, header included; a header's as long as that is not complete.
        expected: usize,
    },
    /// The peer speaks something else, so its `size` cannot be trusted to find the next message.
    #[error(
        "a message header with flags {flags:#x} is not of vhost-user version 1; is this a vhost-user peer?"
    )]
    Version {
        /// The header's flags.
        flags: u32,
    },
    /// A body beyond every request that there is. Nothing of it has been read.
    #[error("request {request} announces a body of {size} bytes; the largest accepted is {MAX_BODY_SIZE}")]
    TooLarge {
        /// The request's number.
        request: u32,
        /// Bytes announced.
        size: u32,
    },
    /// More descriptors than a message may carry, or more than the process has room for (MSG_CTRUNC of recvmsg(2) means
    /// both). Those that came have been closed.
    #[error(
        "the descriptors of a message could not all be received: more than {MAX_FDS}, or RLIMIT_NOFILE of this process is \
         reached"
    )]
    DescriptorsLost,
    /// The peer asks and asks and does not read the answers.
    #[error("the peer leaves {queued} replies unread")]
    RepliesUnread {
        /// Replies that wait.
        queued: usize,
    },
    /// This connection has failed before; the error that was returned then says why.
    #[error("the connection has failed before: drop it and accept a new one")]
    Failed,
    /// What recvmsg(2) or sendmsg(2) says.
    #[error("the vhost-user socket failed: {0}")]
    Io(#[from] io::Error),
}

/// A message that makes no sense. The connection is intact: the message has been consumed, its descriptors are closed.
/// [`Refusal`](super::Refusal) says what to tell the peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MessageError {
    /// Not a request that a block backend serves: unknown, for other devices, or of a feature that is not offered.
    #[error("request {request} ({}) is not served by a block backend", name(*request))]
    Unsupported {
        /// Its number.
        request: u32,
    },
    /// A reply where a request belongs.
    #[error("request {request} came with the reply flag")]
    ReplyFlag {
        /// Its number.
        request: u32,
    },
    /// A request where a reply belongs, or the reply to another request.
    #[error("request {request} was answered by a message of request {got} and flags {flags:#x}")]
    NotTheReply {
        /// The request that waits.
        request: u32,
        /// What came.
        got: u32,
        /// Its flags.
        flags: u32,
    },
    /// The body of a reply is too short or too long.
    #[error("the reply to request {request} has a body of {size} bytes; it must have {expected}")]
    ReplySize {
        /// The request's number.
        request: u32,
        /// Bytes that came.
        size: usize,
        /// Bytes that its structure has.
        expected: usize,
    },
    /// A reply with descriptors missing or in surplus.
    #[error("the reply to request {request} came with {count} file descriptors; it must have {expected}")]
    ReplyDescriptors {
        /// The request's number.
        request: u32,
        /// Descriptors that came.
        count: usize,
        /// Descriptors that it takes.
        expected: usize,
    },
    /// A request of the backend that a block frontend does not know.
    #[error("request {request} of the backend is not served")]
    UnknownFromBackend {
        /// Its number.
        request: u32,
    },
    /// A request of the backend that has neither body nor descriptors came with some.
    #[error(
        "request {request} of the backend came with {size} bytes and {count} file descriptors; it must have none"
    )]
    NotEmpty {
        /// Its number.
        request: u32,
        /// Bytes that came.
        size: usize,
        /// Descriptors that came.
        count: usize,
    },
    /// Flags beyond version, reply and need_reply.
    #[error("the header of request {request} has undefined flags: {flags:#x}")]
    ReservedFlags {
        /// Its number.
        request: u32,
        /// All its flags.
        flags: u32,
    },
    /// The body is too short or too long for its structure.
    #[error("the body of {code} has {size} bytes; it must have {expected}")]
    Size {
        /// The request.
        code: Code,
        /// Bytes that came.
        size: usize,
        /// Bytes that its structure has.
        expected: usize,
    },
    /// Too many or too few memory regions.
    #[error("a memory table of {count} regions; it must have 1 to {MAX_REGIONS}")]
    Regions {
        /// What the message says.
        count: u32,
    },
    /// Descriptors missing or in surplus.
    #[error("{code} came with {count} file descriptors; it must have {expected}")]
    Descriptors {
        /// The request.
        code: Code,
        /// Descriptors that came.
        count: usize,
        /// Descriptors that it takes.
        expected: usize,
    },
    /// Bytes outside the configuration space.
    #[error("{code} of {size} bytes at offset {offset}; a configuration space has {MAX_CONFIG_SIZE} bytes")]
    ConfigRange {
        /// The request.
        code: Code,
        /// The first byte.
        offset: u32,
        /// How many.
        size: u32,
    },
    /// A field with a value that means nothing.
    #[error("{value:#x} is no value for {code}")]
    Value {
        /// The request.
        code: Code,
        /// The value.
        value: u64,
    },
}

/// An exchange of the [`Frontend`](super::Frontend) that did not succeed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FrontendError {
    /// No connection to begin with.
    #[error("cannot connect to the vhost-user socket: {0}")]
    Connect(#[source] io::Error),
    /// The connection is lost.
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    /// The backend's reply makes no sense.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// The backend answered that it will not or cannot.
    #[error("the backend refused request {request} ({})", name(*request))]
    Refused {
        /// The request's number.
        request: u32,
    },
    /// No answer in time.
    #[error("the backend did not answer in time")]
    TimedOut,
    /// A system call on this side failed.
    #[error("a system call failed: {0}")]
    Io(#[from] io::Error),
}

fn name(request: u32) -> String {
    Code::from_number(request).map_or_else(|| "unknown".to_owned(), |code| code.to_string())
}

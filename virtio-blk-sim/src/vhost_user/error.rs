//! Errors caused by the peer: in its byte stream, in one of its messages, or in an exchange.

use std::io;

use super::header::{Code, MAX_BODY_SIZE};
use super::payload::{MAX_CONFIG_SIZE, MAX_REGIONS};
use super::socket::MAX_FDS;

/// The connection is lost and must be dropped. (A server continues with the next one.)
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectionError {
    /// The peer disconnected between two messages. This is how a session normally ends.
    #[error("the peer closed the connection")]
    Closed,
    /// The peer disconnected in the middle of a message.
    #[error("the peer closed the connection after {received} of at least {expected} bytes of a message")]
    ClosedMidMessage {
        /// Bytes received, header included.
        received: usize,
        /// Bytes of the whole message, header included. While the header is incomplete, the size of
        /// a header.
        expected: usize,
    },
    /// The peer speaks another protocol version, so the `size` field cannot be trusted to find the
    /// next message.
    #[error("a message header with flags {flags:#x} is not vhost-user version 1; is this a vhost-user peer?")]
    Version {
        /// The header's flags.
        flags: u32,
    },
    /// The body is larger than the limit, which every known request fits. Nothing of it has been
    /// read.
    #[error("request {request} announces a body of {size} bytes; the largest accepted is {MAX_BODY_SIZE}")]
    TooLarge {
        /// The request number.
        request: u32,
        /// The body size in its header.
        size: u32,
    },
    /// The peer sent more descriptors than a message may carry, or the process reached its limit
    /// (recvmsg(2) reports both as MSG_CTRUNC). The descriptors that were received have been
    /// closed.
    #[error(
        "the descriptors of a message could not all be received: more than {MAX_FDS}, or RLIMIT_NOFILE of this process is \
         reached"
    )]
    DescriptorsLost,
    /// The peer keeps sending requests without reading the replies.
    #[error("the peer leaves {queued} replies unread")]
    RepliesUnread {
        /// Number of queued replies.
        queued: usize,
    },
    /// This connection failed before. The error returned at that time has the reason.
    #[error("the connection failed before; drop it and accept a new one")]
    Failed,
    /// recvmsg(2) or sendmsg(2) failed.
    #[error("the vhost-user socket failed: {0}")]
    Io(#[from] io::Error),
}

/// A message that cannot be understood. The connection is still usable: the message has been
/// consumed, and its descriptors are closed. [`Refusal`](super::Refusal) decides how to answer it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MessageError {
    /// Not a request that a block backend serves: it is unknown, or belongs to other devices, or
    /// needs a feature that is not offered.
    #[error("request {request} ({}) is not served by a block backend", name(*request))]
    Unsupported {
        /// The request number.
        request: u32,
    },
    /// A reply where a request was expected.
    #[error("request {request} came with the reply flag")]
    ReplyFlag {
        /// The request number.
        request: u32,
    },
    /// A request where a reply was expected, or the reply to another request.
    #[error("request {request} was answered by a message of request {got} and flags {flags:#x}")]
    NotTheReply {
        /// The request that waits for a reply.
        request: u32,
        /// The request number of the message that arrived.
        got: u32,
        /// Its flags.
        flags: u32,
    },
    /// The body of a reply is too short or too long.
    #[error("the reply to request {request} has a body of {size} bytes; it must have {expected}")]
    ReplySize {
        /// The request number.
        request: u32,
        /// Bytes received.
        size: usize,
        /// Bytes required.
        expected: usize,
    },
    /// A reply with missing or extra descriptors.
    #[error("the reply to request {request} came with {count} file descriptors; it must have {expected}")]
    ReplyDescriptors {
        /// The request number.
        request: u32,
        /// Descriptors received.
        count: usize,
        /// Descriptors required.
        expected: usize,
    },
    /// A request from the backend that a block frontend does not know.
    #[error("request {request} of the backend is not served")]
    UnknownFromBackend {
        /// The request number.
        request: u32,
    },
    /// A request from the backend has a body or descriptors, but must have neither.
    #[error(
        "request {request} of the backend came with {size} bytes and {count} file descriptors; it must have none"
    )]
    NotEmpty {
        /// The request number.
        request: u32,
        /// Bytes received.
        size: usize,
        /// Descriptors received.
        count: usize,
    },
    /// Flags other than version, reply, and need_reply.
    #[error("the header of request {request} has undefined flags: {flags:#x}")]
    ReservedFlags {
        /// The request number.
        request: u32,
        /// All flags of the header.
        flags: u32,
    },
    /// The body is too short or too long for its structure.
    #[error("the body of {code} has {size} bytes; it must have {expected}")]
    Size {
        /// The request.
        code: Code,
        /// Bytes received.
        size: usize,
        /// Bytes required.
        expected: usize,
    },
    /// Too many or too few memory regions.
    #[error("a memory table of {count} regions; it must have 1 to {MAX_REGIONS}")]
    Regions {
        /// The number of regions that the message states.
        count: u32,
    },
    /// Missing or extra descriptors.
    #[error("{code} came with {count} file descriptors; it must have {expected}")]
    Descriptors {
        /// The request.
        code: Code,
        /// Descriptors received.
        count: usize,
        /// Descriptors required.
        expected: usize,
    },
    /// The access is outside the configuration space.
    #[error("{code} of {size} bytes at offset {offset}; a configuration space has {MAX_CONFIG_SIZE} bytes")]
    ConfigRange {
        /// The request.
        code: Code,
        /// Offset of the first byte.
        offset: u32,
        /// Number of bytes.
        size: u32,
    },
    /// A field with an undefined value.
    #[error("{value:#x} is not a valid value for {code}")]
    Value {
        /// The request.
        code: Code,
        /// The value.
        value: u64,
    },
}

/// An exchange of the [`Frontend`](super::Frontend) that failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FrontendError {
    /// Connecting to the socket failed.
    #[error("cannot connect to the vhost-user socket: {0}")]
    Connect(#[source] io::Error),
    /// The connection is lost.
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    /// The reply of the backend cannot be understood.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// The backend refused the request.
    #[error("the backend refused request {request} ({})", name(*request))]
    Refused {
        /// The request number.
        request: u32,
    },
    /// The backend did not answer in time.
    #[error("the backend did not answer in time")]
    TimedOut,
    /// A system call on this side failed.
    #[error("a system call failed: {0}")]
    Io(#[from] io::Error),
}

fn name(request: u32) -> String {
    Code::from_number(request).map_or_else(|| "unknown".to_owned(), |code| code.to_string())
}

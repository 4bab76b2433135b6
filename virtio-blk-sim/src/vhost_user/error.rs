//! Errors of a connection, of a single message, and of an exchange.

use std::io;

use super::header::{Code, MAX_BODY_SIZE};
use super::payload::{MAX_CONFIG_SIZE, MAX_REGIONS};
use super::socket::MAX_FDS;

/// The connection failed and must be dropped. (A server continues with the next one.)
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectionError {
    /// The peer closed the connection, and not in the middle of a message: the normal end of a
    /// session.
    #[error("the peer closed the connection")]
    Closed,
    /// The peer closed the connection in the middle of a message.
    #[error("the peer closed the connection after {received} of at least {expected} bytes of a message")]
    ClosedMidMessage {
        /// Bytes received, including the header.
        received: usize,
        /// Size of the message, including the header; the header's size if the header is
        /// incomplete.
        expected: usize,
    },
    /// The peer uses another protocol, so its `size` cannot be trusted to find the next message.
    #[error(
        "a message header with flags {flags:#x} is not of vhost-user version 1; is this a vhost-user peer?"
    )]
    Version {
        /// The header's flags.
        flags: u32,
    },
    /// The body is larger than any request. None of it was read.
    #[error("request {request} announces a body of {size} bytes; the largest accepted is {MAX_BODY_SIZE}")]
    TooLarge {
        /// The request number.
        request: u32,
        /// Announced size of the body in bytes.
        size: u32,
    },
    /// More descriptors than a message may have, or more than this process can open (MSG_CTRUNC of
    /// recvmsg(2) means both). The received ones were closed.
    #[error(
        "the descriptors of a message could not all be received: more than {MAX_FDS}, or RLIMIT_NOFILE of this process is \
         reached"
    )]
    DescriptorsLost,
    /// The peer sends requests without reading the replies.
    #[error("the peer leaves {queued} replies unread")]
    RepliesUnread {
        /// Number of replies in the queue.
        queued: usize,
    },
    /// This connection failed before; the error returned at that time has the reason.
    #[error("the connection has failed before: drop it and accept a new one")]
    Failed,
    /// An error of recvmsg(2) or sendmsg(2).
    #[error("the vhost-user socket failed: {0}")]
    Io(#[from] io::Error),
}

/// An invalid message. The connection is still usable: the message was consumed, and its
/// descriptors were closed. [`Refusal`](super::Refusal) determines the answer to the peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MessageError {
    /// A request that a block backend does not support: unknown, for other devices, or of a feature
    /// that is not offered.
    #[error("request {request} ({}) is not supported by a block backend", name(*request))]
    Unsupported {
        /// The request's number.
        request: u32,
    },
    /// A reply was received where a request was expected.
    #[error("request {request} came with the reply flag")]
    ReplyFlag {
        /// The request's number.
        request: u32,
    },
    /// A request was received where a reply was expected, or the reply to another request.
    #[error("request {request} was answered by a message with request number {got} and flags {flags:#x}")]
    NotTheReply {
        /// Number of the request that waits for its reply.
        request: u32,
        /// Request number of the received message.
        got: u32,
        /// Flags of the received message.
        flags: u32,
    },
    /// The body of a reply is too short or too long.
    #[error("the reply to request {request} has a body of {size} bytes; it must have {expected}")]
    ReplySize {
        /// The request number.
        request: u32,
        /// Size of the received body in bytes.
        size: usize,
        /// Size of the expected structure in bytes.
        expected: usize,
    },
    /// A reply with missing or surplus descriptors.
    #[error("the reply to request {request} came with {count} file descriptors; it must have {expected}")]
    ReplyDescriptors {
        /// The request number.
        request: u32,
        /// Number of descriptors received.
        count: usize,
        /// Number of descriptors expected.
        expected: usize,
    },
    /// A request of the backend that a block frontend does not support.
    #[error("request {request} of the backend is not supported")]
    UnknownFromBackend {
        /// The request's number.
        request: u32,
    },
    /// A request of the backend that must be empty came with a body or descriptors.
    #[error(
        "request {request} of the backend came with {size} bytes and {count} file descriptors; it must have none"
    )]
    NotEmpty {
        /// The request's number.
        request: u32,
        /// Size of the received body in bytes.
        size: usize,
        /// Number of descriptors received.
        count: usize,
    },
    /// Flags other than version, reply and need_reply are set.
    #[error("the header of request {request} has undefined flags: {flags:#x}")]
    ReservedFlags {
        /// The request's number.
        request: u32,
        /// All flags of the header.
        flags: u32,
    },
    /// The body is too short or too long for its structure.
    #[error("the body of {code} has {size} bytes; it must have {expected}")]
    Size {
        /// The request.
        code: Code,
        /// Size of the received body in bytes.
        size: usize,
        /// Size of the expected structure in bytes.
        expected: usize,
    },
    /// Too many or too few memory regions.
    #[error("a memory table of {count} regions; it must have 1 to {MAX_REGIONS}")]
    Regions {
        /// Number of regions in the message.
        count: u32,
    },
    /// Missing or surplus descriptors.
    #[error("{code} came with {count} file descriptors; it must have {expected}")]
    Descriptors {
        /// The request.
        code: Code,
        /// Number of descriptors received.
        count: usize,
        /// Number of descriptors expected.
        expected: usize,
    },
    /// The bytes are not inside the configuration space.
    #[error("{code} of {size} bytes at offset {offset}; a configuration space has {MAX_CONFIG_SIZE} bytes")]
    ConfigRange {
        /// The request.
        code: Code,
        /// Offset of the first byte.
        offset: u32,
        /// Number of bytes.
        size: u32,
    },
    /// A field has an invalid value.
    #[error("{value:#x} is not a valid value for {code}")]
    Value {
        /// The request.
        code: Code,
        /// The value.
        value: u64,
    },
}

/// An exchange of the [`Frontend`](super::Frontend) failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FrontendError {
    /// Could not connect.
    #[error("cannot connect to the vhost-user socket: {0}")]
    Connect(#[source] io::Error),
    /// The connection is lost.
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    /// The backend's reply is invalid.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// The backend refused the request.
    #[error("the backend refused request {request} ({})", name(*request))]
    Refused {
        /// The request number.
        request: u32,
    },
    /// The backend did not answer before the timeout.
    #[error("the backend did not answer in time")]
    TimedOut,
    /// A system call on this side failed.
    #[error("a system call failed: {0}")]
    Io(#[from] io::Error),
}

fn name(request: u32) -> String {
    Code::from_number(request).map_or_else(|| "unknown".to_owned(), |code| code.to_string())
}

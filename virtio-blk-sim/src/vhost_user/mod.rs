//! vhost-user: the protocol with which a VMM delegates its guest's queues to a device in another
//! process.
//!
//! The VMM is the *frontend*, the device the *backend*. Requests, with file descriptors in their
//! ancillary data, are sent over a Unix stream socket. The guest's data is never sent, because the
//! backend maps the guest's memory. The protocol code of the backend never blocks, is independent
//! of event loop and device, and checks everything that a peer sends.
//!
//! ```text
//! bytes, fds ─► Connection::receive ─► Incoming ─► Request::parse ─► Request
//!                                                                    (or MessageError ─► Refusal)
//! bytes, fd  ◄─ Connection::send    ◄─ Frame    ◄─ Reply
//! ```
//!
//! | file | mechanism |
//! |---|---|
//! | `socket.rs` | one non-blocking recvmsg(2) or sendmsg(2), with descriptors |
//! | `header.rs` | the 12-byte header of each message, the request codes |
//! | `payload.rs` | the structures in a message's body |
//! | `request.rs`, `parse.rs` | the frontend's requests; parsing a message into a request |
//! | `reply.rs` | the backend's replies, and its own requests |
//! | `connection.rs` | framing: whole messages from a stream of pieces, and back |
//! | `memory.rs`, `mapping.rs`, `sigbus.rs` | guest memory, also if a peer truncates it |
//! | `inflight.rs` | records of requests in flight, in memory that survives a crash |
//! | `dirty_log.rs` | the log of dirty pages, for live migration |
//! | `error_line.rs` | the eventfd that reports a ring error |
//! | `ring_device.rs` | what the server asks of a device |
//! | `session.rs` | the state of a session, and the execution of requests |
//! | `loops.rs` | the event loops that run the queues |
//! | `bind.rs` | a listening socket in the file system |
//! | `rings.rs` | the running rings of a session |
//! | `pace.rs` | how fast the messages of a disk's frontends are served |
//! | `conversation.rs` | the task that serves one frontend |
//! | `server.rs` | the socket on the event loop, one frontend at a time |
//! | `daemon.rs` | a complete daemon for one device |
//! | `frontend.rs` | a blocking client with timeouts, for tests and for the benchmark's driver |
//!
//! # What a guest or its VMM may do wrong
//!
//! | mistake | reaction |
//! |---|---|
//! | in the rings or in a request | see [`virtqueue`](crate::virtqueue): it costs the request or the queue |
//! | features that were not offered | the request is refused, and no ring starts until others are accepted; the session continues |
//! | a ring outside the memory, misaligned or of an invalid size | the ring does not start, and its error eventfd is signalled; a request for this ring is refused; the session continues |
//! | any other request that cannot be carried out, or a message with an invalid body | the request is refused; the session continues |
//! | a request for data that cannot be given, such as GET_VRING_BASE of a ring that does not exist | the connection is closed: the reply cannot express an error |
//! | a byte stream that is not vhost-user, descriptors that get lost, unread replies | the connection is closed |
//! | more messages or connections than any frontend needs | they wait, see below |
//! | guest memory, or a log of dirty pages, that is truncated while it is shared | the connection is closed |
//! | a log of dirty pages that is too small or cannot be mapped | the request is refused, and so is LOG_ALL from then on; if LOG_ALL is enabled already, the connection is closed |
//! | guest memory that grows beyond the log of dirty pages | the ring that writes there stops, and its error eventfd is signalled |
//!
//! A refused request, or a ring that cannot start, is logged with one line. If the frontend asked
//! for an acknowledgement of a refused request, it gets an error.
//!
//! # What a frontend may ask for
//!
//! One loop serves the frontends of many devices. So each device has an allowance for its
//! frontends, which is far above what they need when they connect, start the rings, migrate, or
//! come back after a crash:
//!
//! | | at once | after that, each second |
//! |---|---|---|
//! | messages | 1,000, and 200 for each ring | 500 |
//! | connections | 100 | 100 |
//!
//! A message that maps memory, or for which rings are stopped or asked, counts as eight. When the
//! allowance is used up, the server reads nothing more from the socket for a few hundredths of a
//! second, until there is enough for sixteen more messages. The frontend notices only the delay,
//! and its rings do not wait. The server writes one line to the log and counts the pauses
//! ([`Server::throttled`]). A frontend that connects again has no new allowance. A program that
//! trusts its frontends turns all this off with [`Served::throttles`].
//!
//! What a guest does with its rings has no such limit. A request costs about the same whether it is
//! right or wrong, and few chains that cannot be served are looked at in a turn. So a guest that
//! makes mistakes takes no more from the other rings of its loop than one that is busy. A
//! [`RateLimit`](crate::queue::RateLimit) bounds what a disk may do.
//!
//! # Setting a ring up
//!
//! The messages may come in any order. A ring starts after the first message by which it has
//! everything it needs: SET_FEATURES, memory, SET_VRING_NUM, SET_VRING_ADDR, SET_VRING_KICK, and
//! (if protocol features were negotiated) SET_VRING_ENABLE. It starts at the index of
//! SET_VRING_BASE, or without that message at its used index.
//!
//! A ring without a kick eventfd (SET_VRING_KICK with the NOFD flag) is polled, see
//! [`Kick::Polled`](crate::queue::Kick::Polled): its loop does not sleep while the ring is busy,
//! and has 20,000 turns a second while it is idle.
//! # Live migration
//!
//! A frontend that migrates the guest shares a log of dirty pages (SET_LOG_BASE), and then enables
//! it: LOG_ALL of SET_FEATURES for what requests write, and the flag of SET_VRING_ADDR for each
//! used ring. Rings keep running meanwhile. A bit is set after the page was written; all of a
//! ring's bits are set when GET_VRING_BASE is answered. While there is no log, nothing is recorded,
//! and it costs nothing. The order is in [`DirtyLog`](crate::memory::DirtyLog) and
//! [`virtqueue`](crate::virtqueue).
//!
//! The in-flight region is empty once the rings have been stopped, because GET_VRING_BASE waits for
//! the requests in flight. So the destination may start with a new region or with the one that the
//! frontend has migrated (SET_INFLIGHT_FD).
//!
//! | message | on a running ring |
//! |---|---|
//! | SET_LOG_BASE | counts at once; when it is answered, no bit is set in the former log any more |
//! | SET_FEATURES that differs only in LOG_ALL | counts at once |
//! | SET_VRING_ADDR that differs only in the flag and the place in the log | counts at once |
//! | SET_LOG_FD | the eventfd is closed: frontends read the log when they need it |
//!
//! The module [`frontends`] has a table of the messages that QEMU, libblkio and others send.
//!
//! Facts are from the vhost-user specification (QEMU's `docs/interop/vhost-user.rst`). Numbers are
//! in native byte order.

mod backend_channel;
mod bind;
mod caught;
mod connection;
mod conversation;
mod daemon;
mod dirty_log;
mod error;
mod error_line;
mod features;
mod frame;
#[doc = include_str!("frontends.md")]
pub mod frontends {}
mod frontend;
mod header;
mod held;
mod inflight;
mod loops;
mod losses;
mod mapping;
mod memory;
mod pace;
mod parse;
mod payload;
mod reply;
mod request;
mod ring_device;
mod rings;
mod server;
mod session;
pub mod sigbus;
mod socket;

pub use bind::{SocketFile, bind};
pub use connection::{Connection, Incoming, MAX_QUEUED_FRAMES};
pub use daemon::Daemon;
pub use dirty_log::LogError;
pub use error::{ConnectionError, FrontendError, MessageError};
pub use features::{F_LOG_ALL, F_PROTOCOL_FEATURES, ProtocolFeatures};
pub use frame::Frame;
pub use frontend::{Frontend, RawMessage};
pub use header::{Code, HEADER_SIZE, Header, MAX_BODY_SIZE};
pub use inflight::{InflightError, InflightQueue, InflightRegion, Recovered};
pub use loops::Loops;
pub use mapping::MappingError;
pub use memory::{MAX_MEM_SLOTS, MemoryError, MemoryTable, Space};
pub use payload::{
    ConfigAccess, ConfigData, Inflight, LogArea, MAX_CONFIG_SIZE, MAX_REGIONS, MemoryRegion, VringAddr,
    VringState,
};
pub use reply::{Ack, BackendRequest, Refusal, Reply};
pub use request::{Request, VringFd};
pub use ring_device::{RingDevice, RingLink, RingOrder, RunningRing, Stopping};
pub use server::{Listening, Server, Throttled};
pub use session::{Served, SessionError};
pub use socket::MAX_FDS;

#[cfg(test)]
mod tests;

//! vhost-user: the protocol that lets a VMM hand over its guest's virtqueues to a device in another
//! process.
//!
//! The VMM is the *frontend*, the device process is the *backend*. Requests, with file descriptors
//! as ancillary data, travel over a Unix stream socket. The disk data does not: the backend maps
//! the guest's memory and accesses it there. The protocol files (`socket.rs` to `connection.rs`
//! below) never block in the backend, and they do not depend on an event loop or on a particular
//! device. Everything that comes from the peer is untrusted and is checked.
//!
//! ```text
//! bytes, fds ─► Connection::receive ─► Incoming ─► Request::parse ─► Request
//!                                                        └─► MessageError ─► Refusal
//! bytes, fd  ◄─ Connection::send    ◄─ Frame    ◄─ Reply
//! ```
//!
//! | file | mechanism |
//! |---|---|
//! | `socket.rs` | one non-blocking recvmsg(2) or sendmsg(2), with file descriptors |
//! | `header.rs` | the 12-byte message header, the request codes |
//! | `payload.rs` | the structures in a message body |
//! | `request.rs`, `parse.rs` | the requests of a frontend; how a message is parsed into a request |
//! | `reply.rs` | the replies of a backend, and the requests that it sends itself |
//! | `connection.rs` | framing: whole messages from a byte stream, and back |
//! | `memory.rs`, `mapping.rs`, `sigbus.rs` | the guest memory, and what happens if the peer truncates its file |
//! | `inflight.rs` | the record of requests in flight, which survives a crash |
//! | `session.rs` | the state that a frontend has set up, and how its requests change it |
//! | `loops.rs` | which event loops the queues run on |
//! | `bind.rs` | a listening socket in the file system |
//! | `server.rs` | the socket on the event loop, one frontend at a time |
//! | `daemon.rs` | a complete daemon for one device |
//! | `frontend.rs` | a blocking client with timeouts, for tests and for the benchmark's driver |
//!
//! Protocol facts are from the vhost-user specification (QEMU's `docs/interop/vhost-user.rst`).
//! Numbers are in native byte order.

mod bind;
mod connection;
mod daemon;
mod error;
mod features;
mod frame;
mod frontend;
mod header;
mod inflight;
mod loops;
mod mapping;
mod memory;
mod parse;
mod payload;
mod reply;
mod request;
mod server;
mod session;
pub mod sigbus;
mod socket;

pub use bind::{SocketFile, bind};
pub use connection::{Connection, Incoming, MAX_QUEUED_FRAMES};
pub use daemon::Daemon;
pub use error::{ConnectionError, FrontendError, MessageError};
pub use features::{F_PROTOCOL_FEATURES, ProtocolFeatures};
pub use frame::Frame;
pub use frontend::{Frontend, RawMessage};
pub use header::{Code, HEADER_SIZE, Header, MAX_BODY_SIZE};
pub use inflight::{InflightError, InflightQueue, InflightRegion, Recovered};
pub use loops::Loops;
pub use mapping::MappingError;
pub use memory::{MAX_MEM_SLOTS, MemoryError, MemoryTable, Space};
pub use payload::{
    ConfigAccess, ConfigData, Inflight, MAX_CONFIG_SIZE, MAX_REGIONS, MemoryRegion, VringAddr, VringState,
};
pub use reply::{Ack, BackendRequest, Refusal, Reply};
pub use request::{Request, VringFd};
pub use server::{Listening, Server};
pub use session::{Served, SessionError};
pub use socket::MAX_FDS;

#[cfg(test)]
mod tests;

//! vhost-user: the protocol by which a VMM hands the queues of its guest to a device in another process.
//!
//! The VMM is the *frontend*, the device the *backend*. Requests, with file descriptors in their ancillary data, travel over
//! a Unix stream socket; the data itself never does, for the backend maps the guest's memory. The backend's half never
//! blocks, knows no event loop and no device, and believes nothing that a peer says.
//!
//! ```text
//! bytes, fds ─► Connection::receive ─► Incoming ─► Request::parse ─► Request      (or MessageError ─► Refusal)
//! bytes, fd  ◄─ Connection::send    ◄─ Frame    ◄─ Reply
//! ```
//!
//! | file | mechanism |
//! |---|---|
//! | `socket.rs` | one recvmsg(2) or sendmsg(2) that does not block, descriptors with it |
//! | `header.rs` | the 12 bytes before each message, the request codes |
//! | `payload.rs` | the structures in a message's body |
//! | `request.rs`, `parse.rs` | what a frontend asks; how a message becomes a request |
//! | `reply.rs` | what a backend answers, and what it says unasked |
//! | `connection.rs` | framing: whole messages out of whatever pieces arrive, and back |
//! | `memory.rs`, `mapping.rs`, `sigbus.rs` | the guest's memory, and what becomes of us when the peer takes it away |
//! | `inflight.rs` | what is in flight, where it survives a crash |
//! | `session.rs` | what a frontend has set up, and what its requests do |
//! | `loops.rs` | where the queues run |
//! | `bind.rs` | a listening socket in the file system |
//! | `server.rs` | the socket on the event loop, one frontend at a time |
//! | `daemon.rs` | a whole daemon for one device |
//! | `frontend.rs` | a blocking client with a deadline, for tests and the benchmark's driver |
//!
//! Facts are from the vhost-user specification (QEMU's `docs/interop/vhost-user.rst`); numbers are in native byte order.

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

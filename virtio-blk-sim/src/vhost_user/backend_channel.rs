//! The channel for messages that the backend sends by itself (SET_BACKEND_REQ_FD).

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use aio::{AioContext, AsyncFd, Interest};

use super::connection::Connection;
use super::reply::BackendRequest;
use crate::queue::set_nonblocking;

/// The channel. A frontend that does not read it costs one message that waits, however often there
/// is something to tell.
#[derive(Debug)]
pub(super) struct BackendChannel {
    connection: Connection,
    /// The same socket, while a message waits for room in it.
    full: Option<AsyncFd<Arc<UnixStream>>>,
    /// The frontend has to be told that the configuration space has changed.
    config_changed: bool,
}

impl BackendChannel {
    pub(super) fn new(fd: OwnedFd) -> io::Result<Self> {
        set_nonblocking(&fd)?;
        let connection = Connection::new(UnixStream::from(fd));
        Ok(Self { connection, full: None, config_changed: false })
    }

    /// Tells the frontend that the configuration space has changed: now, or in
    /// [`advance`](Self::advance). One message is enough for all changes before it.
    pub(super) fn notify_config_change(&mut self, context: &AioContext) -> io::Result<()> {
        self.config_changed = true;
        self.advance(context)
    }

    /// Sends what waits, as far as there is room.
    pub(super) fn advance(&mut self, context: &AioContext) -> io::Result<()> {
        self.full = None;
        self.connection.flush().map_err(io::Error::other)?;
        if self.config_changed && !self.connection.wants_write() {
            self.config_changed = false;
            let message = BackendRequest::ConfigChange.encode(false);
            self.connection.send(message).map_err(io::Error::other)?;
        }
        if self.connection.wants_write() {
            let socket = context.async_fd(self.connection.socket());
            self.full = Some(socket.map_err(|refused| refused.error)?);
        }
        Ok(())
    }

    /// Waits until there is room for what waits; for ever if nothing does.
    pub(super) async fn has_room(&self) {
        match &self.full {
            // An error is found by the next attempt to send.
            Some(socket) => _ = socket.ready(Interest::WRITABLE).await,
            None => std::future::pending().await,
        }
    }
}

//! An encoded message, ready to be sent.

use std::os::fd::OwnedFd;

use super::header::Header;

/// A message as bytes, with its descriptors.
#[derive(Debug)]
pub struct Frame {
    pub(super) bytes: Vec<u8>,
    /// Sent with the first byte, then closed on this side.
    pub(super) fds: Vec<OwnedFd>,
}

impl Frame {
    /// Creates a message. `header` makes the header from the size of the body; `body` appends the
    /// body.
    pub(super) fn new(header: impl FnOnce(u32) -> Header, body: impl FnOnce(&mut Vec<u8>)) -> Self {
        let mut payload = Vec::new();
        body(&mut payload);
        // Our messages are far smaller than 4 GiB.
        let size = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        let mut bytes = header(size).encode().to_vec();
        bytes.append(&mut payload);
        Self { bytes, fds: Vec::new() }
    }

    pub(super) fn with_fds(self, fds: impl IntoIterator<Item = OwnedFd>) -> Self {
        Self { fds: fds.into_iter().collect(), ..self }
    }

    /// Creates a frame from arbitrary bytes and descriptors, which need not be a valid message.
    /// Tests send such frames to check that a server survives them.
    pub fn raw(bytes: Vec<u8>, fds: Vec<OwnedFd>) -> Self {
        Self { bytes, fds }
    }

    /// The bytes of the message, header first.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The descriptors.
    pub fn fds(&self) -> &[OwnedFd] {
        &self.fds
    }
}

//! A message ready to be sent.

use std::os::fd::OwnedFd;

use super::header::Header;

/// A message as bytes, with the descriptors that go with it.
#[derive(Debug)]
pub struct Frame {
    pub(super) bytes: Vec<u8>,
    /// Gone with the first byte; closed on this side as soon as that is sent.
    pub(super) fds: Vec<OwnedFd>,
}

impl Frame {
    /// A message whose header is what `header` makes of the body's size, and whose body is what
    /// `body` appends.
    pub(super) fn new(header: impl FnOnce(u32) -> Header, body: impl FnOnce(&mut Vec<u8>)) -> Self {
        let mut payload = Vec::new();
        body(&mut payload);
        // Nothing that we encode comes near 4 GiB.
        let size = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        let mut bytes = header(size).encode().to_vec();
        bytes.append(&mut payload);
        Self { bytes, fds: Vec::new() }
    }

    pub(super) fn with_fds(self, fds: impl IntoIterator<Item = OwnedFd>) -> Self {
        Self { fds: fds.into_iter().collect(), ..self }
    }

    /// Bytes that need not be a message, with descriptors that need not belong to it: what a test
    /// sends to a server that should survive it.
    pub fn raw(bytes: Vec<u8>, fds: Vec<OwnedFd>) -> Self {
        Self { bytes, fds }
    }

    /// The bytes, header first.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The descriptors.
    pub fn fds(&self) -> &[OwnedFd] {
        &self.fds
    }
}

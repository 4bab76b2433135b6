//! What a subscriber gets when one of its descriptors is ready.

use crate::monitor::Readiness;
use std::os::fd::RawFd;

/// One event of one descriptor, for [`Subscriber::process`](super::Subscriber::process).
/// event-manager calls this `Events`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    pub(super) fd: RawFd,
    pub(super) data: u32,
    pub(super) readiness: Readiness,
}

impl Event {
    /// The number of the descriptor, as it was when it was added.
    pub fn fd(&self) -> RawFd {
        self.fd
    }

    /// The number that the subscriber chose for the descriptor in [`Ops::add`](super::Ops::add) or
    /// [`Ops::modify`](super::Ops::modify).
    pub fn data(&self) -> u32 {
        self.data
    }

    /// What the descriptor is ready for. A notifier that was rung is readable, although the loop
    /// has reset it already.
    pub fn readiness(&self) -> Readiness {
        self.readiness
    }
}

//! The one descriptor that an outer loop sleeps on, for monitors whose sets of descriptors come and
//! go: an epoll set with the set of the moment as its only member.

use crate::sys::epoll::Epoll;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

#[derive(Debug)]
pub(super) struct Outward(Epoll);

impl Outward {
    pub(super) fn new(inner: &Epoll) -> io::Result<Self> {
        let this = Self(Epoll::new()?);
        this.show(inner)?;
        Ok(this)
    }

    /// Makes the descriptor readable while `inner` has an event. Closing a set that was shown
    /// before takes it out.
    pub(super) fn show(&self, inner: &Epoll) -> io::Result<()> {
        self.0.add(inner.descriptor().as_raw_fd(), libc::EPOLLIN as u32, 0)
    }

    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.0.descriptor()
    }
}

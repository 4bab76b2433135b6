//! The file of an operation: an open descriptor, or a file that is registered with the ring.

use super::entry::{RingId, Sealed};
use io_uring::{squeue, types};
use std::os::fd::{AsFd, AsRawFd};

/// What an operation can do its I/O on: everything that has a descriptor ([`AsFd`]), and a
/// [`FixedFile`](crate::FixedFile). For a type of your own, implement `AsFd`.
///
/// The operation owns the file while it is in flight, and its output returns it. To use one file in
/// many operations at once, put it into an [`Rc`](std::rc::Rc). Its descriptor is asked for once,
/// when the operation is started.
pub trait RingFile: 'static {
    #[doc(hidden)]
    fn target(&self, ring: RingId, sealed: Sealed) -> Target;
}

/// A file as an SQE names it.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    number: i32,
    is_fixed: bool,
}

impl Target {
    /// A slot of the ring's table of files. `None`: a file that does not exist (EBADF).
    pub(crate) fn fixed(slot: Option<u32>) -> Self {
        Self { number: slot.and_then(|slot| i32::try_from(slot).ok()).unwrap_or(-1), is_fixed: true }
    }

    pub(super) fn is_fixed(self) -> bool {
        self.is_fixed
    }

    pub(super) fn fd(self) -> types::Fd {
        types::Fd(self.number)
    }

    /// The entry that `build` makes for this file.
    pub(super) fn entry(self, build: impl FnOnce(types::Fd) -> squeue::Entry) -> squeue::Entry {
        let entry = build(self.fd());
        if self.is_fixed { entry.flags(squeue::Flags::FIXED_FILE) } else { entry }
    }
}

impl<F: AsFd + 'static> RingFile for F {
    fn target(&self, _: RingId, _: Sealed) -> Target {
        Target { number: self.as_fd().as_raw_fd(), is_fixed: false }
    }
}

/// The entry that `build` makes for a file.
pub(super) fn on(
    file: &impl RingFile,
    ring: RingId,
    build: impl FnOnce(types::Fd) -> squeue::Entry,
) -> squeue::Entry {
    file.target(ring, Sealed(())).entry(build)
}

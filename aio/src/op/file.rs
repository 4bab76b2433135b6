//! The file of an operation: an open descriptor.

use super::entry::Sealed;
use io_uring::{squeue, types};
use std::os::fd::{AsFd, AsRawFd};

/// What an operation can do its I/O on: everything that has a descriptor ([`AsFd`]).
///
/// The operation owns the file while it is in flight. To use one file in many operations at once,
/// put it into an [`Rc`](std::rc::Rc).
pub trait RingFile: 'static {
    #[doc(hidden)]
    fn target(&self, sealed: Sealed) -> Target;
}

/// A file, as an SQE names it.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    number: i32,
    flags: squeue::Flags,
}

impl<F: AsFd + 'static> RingFile for F {
    fn target(&self, _: Sealed) -> Target {
        Target { number: self.as_fd().as_raw_fd(), flags: squeue::Flags::empty() }
    }
}

/// The entry that `build` makes for a file.
pub(super) fn on(file: &impl RingFile, build: impl FnOnce(types::Fd) -> squeue::Entry) -> squeue::Entry {
    let Target { number, flags } = file.target(Sealed(()));
    build(types::Fd(number)).flags(flags)
}

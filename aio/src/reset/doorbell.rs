//! The facts about an eventfd that decide which reset methods it can have.

use crate::sys::eventfd::{maximum, probe_maximum};
use std::os::fd::BorrowedFd;

/// What the choice depends on besides the monitor: the eventfd of a doorbell.
#[derive(Debug)]
pub(crate) struct Doorbell<'a> {
    pub(crate) eventfd: BorrowedFd<'a>,
    /// It was created with EFD_AUTORESET, or seen to reset by itself.
    pub(crate) has_kernel_flag: bool,
}

impl Doorbell<'_> {
    /// Returns true if this kernel bounds eventfds and this one is bounded. Whoever has the
    /// descriptor may bound it later, too.
    pub(super) fn has_maximum(&self) -> bool {
        probe_maximum() && maximum(self.eventfd).is_ok_and(|maximum| maximum != u64::MAX)
    }
}

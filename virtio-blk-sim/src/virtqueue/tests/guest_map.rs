//! The guest memory of these tests. The tests of transports see the same guest.

use super::{GuestAddress, GuestRam};

/// Two regions that touch, then a hole, then a third.
pub(crate) const LOW: u64 = 0;
pub(crate) const LOW_END: u64 = 0x1_0000;
pub(crate) const MIDDLE_END: u64 = 0x2_0000;
pub(crate) const HIGH: u64 = 0x10_0000;
pub(crate) const HIGH_END: u64 = 0x11_0000;
/// Where the tests put the rings; below and above is room for buffers and tables.
pub(crate) const RINGS: u64 = 0x1000;

pub(crate) fn three_regions() -> GuestRam {
    GuestRam::with_regions(&[
        (GuestAddress(LOW), (LOW_END - LOW) as usize),
        (GuestAddress(LOW_END), (MIDDLE_END - LOW_END) as usize),
        (GuestAddress(HIGH), (HIGH_END - HIGH) as usize),
    ])
    .unwrap()
}

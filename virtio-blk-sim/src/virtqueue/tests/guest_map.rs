//! The guest memory of these tests. The tests of the vhost-user server use it too.

use super::{GuestAddress, GuestRam};

/// Two regions that touch, then a hole, then a third.
pub(crate) const LOW: u64 = 0;
pub(crate) const LOW_END: u64 = 0x1_0000;
pub(crate) const MIDDLE_END: u64 = 0x2_0000;
pub(crate) const HIGH: u64 = 0x10_0000;
pub(crate) const HIGH_END: u64 = 0x11_0000;
/// Where the tests put the rings. The memory below and above is free for buffers and tables.
pub(crate) const RINGS: u64 = 0x1000;

pub(crate) fn three_regions() -> GuestRam {
    GuestRam::with_regions(&[
        (GuestAddress(LOW), (LOW_END - LOW) as usize),
        (GuestAddress(LOW_END), (MIDDLE_END - LOW_END) as usize),
        (GuestAddress(HIGH), (HIGH_END - HIGH) as usize),
    ])
    .unwrap()
}

/// Pages next to those regions that the device does not have. (Nothing is below address 0.)
pub(crate) const CANARIES: [u64; 3] = [MIDDLE_END, HIGH - PAGE, HIGH_END];
const PAGE: u64 = 4096;

/// The three regions and the canaries beside them.
pub(crate) fn three_regions_and_canaries() -> GuestRam {
    let mut regions = vec![(LOW, LOW_END - LOW), (LOW_END, MIDDLE_END - LOW_END), (HIGH, HIGH_END - HIGH)];
    regions.extend(CANARIES.map(|start| (start, PAGE)));
    regions.sort_unstable();
    let regions: Vec<_> =
        regions.into_iter().map(|(start, len)| (GuestAddress(start), len as usize)).collect();
    GuestRam::with_regions(&regions).unwrap()
}

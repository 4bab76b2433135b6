//! [`Method::RingReadMultishot`](super::Method::RingReadMultishot): one READ_MULTISHOT stays in
//! flight and completes for each write.

use super::doorbell::Doorbell;
use super::probe::{once, ring_sees_each_write};
use super::ring_read::NEEDS_RING;
use crate::monitor::{MonitorKind, Watch};
use io_uring::opcode;
use std::sync::OnceLock;

pub(super) const WATCH: Watch = Watch::RingReadMultishot;

pub(super) fn obstacle(monitor: MonitorKind, _: &Doorbell<'_>) -> Option<&'static str> {
    match monitor {
        MonitorKind::IoUring => (!works())
            .then_some("this kernel has no IORING_OP_READ_MULTISHOT for eventfds (Linux 6.7); use ring read"),
        _ => Some(NEEDS_RING),
    }
}

/// Returns true if READ_MULTISHOT exists and reports each write.
fn works() -> bool {
    static WORKS: OnceLock<bool> = OnceLock::new();
    let arm = |fd| opcode::ReadMulti::new(fd, 0, 0).build();
    once(&WORKS, || ring_sees_each_write(arm, true))
}

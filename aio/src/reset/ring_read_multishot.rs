//! [`Method::RingReadMultishot`](super::Method::RingReadMultishot): one READ_MULTISHOT stays in
//! flight and completes for each write.

use super::doorbell::Doorbell;
use super::probe::{Obstacle, probed, ring_sees_each_write};
use super::ring_read::NEEDS_RING;
use crate::monitor::{MonitorKind, Watch};
use io_uring::opcode;
use std::sync::OnceLock;

pub(super) const WATCH: Watch = Watch::RingReadMultishot;

pub(super) fn obstacle(monitor: MonitorKind, _: &Doorbell<'_>) -> Option<Obstacle> {
    match monitor {
        MonitorKind::IoUring => on_ring(),
        _ => Some(NEEDS_RING.into()),
    }
}

/// Probes whether READ_MULTISHOT exists and reports each write.
fn on_ring() -> Option<Obstacle> {
    static WORKS: OnceLock<bool> = OnceLock::new();
    let does_not = "this kernel has no IORING_OP_READ_MULTISHOT for eventfds (Linux 6.7); use ring read";
    let arm = |fd| opcode::ReadMulti::new(fd, 0, 0).build();
    // Before Linux 5.19 the kernel refuses the buffers.
    let probe = || match ring_sees_each_write(arm, true) {
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => Ok(false),
        result => result,
    };
    probed(&WORKS, probe, does_not)
}

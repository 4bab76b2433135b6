//! [`Method::RingRead`](super::Method::RingRead): the ring reads the counter, one READ at a time.

use super::doorbell::Doorbell;
use super::probe::Obstacle;
use crate::monitor::{MonitorKind, Watch};

pub(super) const WATCH: Watch = Watch::RingRead;

pub(super) fn obstacle(monitor: MonitorKind, _: &Doorbell<'_>) -> Option<Obstacle> {
    (monitor != MonitorKind::IoUring).then_some(NEEDS_RING.into())
}

pub(super) const NEEDS_RING: &str = "ring reads need the io_uring monitor";

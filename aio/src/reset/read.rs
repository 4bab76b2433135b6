//! [`Method::Read`](super::Method::Read): the loop clears the counter with read(2).

use super::doorbell::Doorbell;
use super::probe::Obstacle;
use crate::monitor::{Interest, MonitorKind, Watch};

pub(super) const WATCH: Watch = Watch::Level(Interest::READABLE);

pub(super) fn obstacle(_: MonitorKind, _: &Doorbell<'_>) -> Option<Obstacle> {
    None
}

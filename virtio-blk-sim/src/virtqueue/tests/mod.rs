//! Tests of both halves: against each other, against a hostile driver, and against another
//! implementation.

mod cases;
mod differential;
mod dirty;
mod foreign;
mod guest_map;
mod hostile;
mod malformed;
mod resubmit;
mod round_trip;
mod segments;
mod setup;
mod stress;
mod support;

#[cfg(feature = "device")]
pub(crate) use malformed::malformed_cases;
// `cases` and `guest_map` are also compiled into an integration test. Their parent module provides
// the names that they use.
use crate::memory::{GuestAddress, GuestRam};
use crate::virtqueue::driver::DriverQueue;
use crate::virtqueue::error::QueueError;
use crate::virtqueue::layout::{Descriptor, MAX_CHAIN, QueueConfig};
use guest_map::{HIGH, HIGH_END, LOW_END, MIDDLE_END, RINGS, three_regions_and_canaries};

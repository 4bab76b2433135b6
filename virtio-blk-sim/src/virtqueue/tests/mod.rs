//! Tests of both halves: against each other, against a hostile driver, and against another
//! implementation.

mod differential;
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
// `guest_map` is also compiled into an integration test, where its parent provides these names.
use crate::memory::{GuestAddress, GuestRam};

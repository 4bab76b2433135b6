//! Guests: what stands at the other end of the queue.
//!
//! [`BlkDriver`] is a block driver over the driver half of a virtqueue, with its requests' buffers in guest RAM.
//! [`run`] lets a thread play the vCPU that uses it: a workload in fio's words, timed and, if asked, verified.

mod driver;
mod thread;
mod workload;

pub use driver::{BlkDriver, Completion, DriverError};
pub use thread::{GuestError, GuestReport, run};
pub use workload::{Pattern, Stop, Workload};

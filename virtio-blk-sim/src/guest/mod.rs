//! Guests: what stands at the other end of the queue.
//!
//! [`BlkDriver`] is a block driver over the driver half of a virtqueue, with its requests' buffers in guest RAM.
//! [`VhostUserDisk`] gives it the disk of a server in another process.
//! [`run`] lets a thread play the vCPU that uses it: a workload in fio's words, timed and, if asked, verified.

mod driver;
mod thread;
mod vhost_user;
mod workload;

pub use driver::{BlkDriver, Completion, DriverError, Kicking, Waiting};
pub use thread::{GuestError, GuestReport, run};
pub use vhost_user::{QueueShape, VhostUserDisk, VhostUserError};
pub use workload::{Pattern, Stop, Workload};

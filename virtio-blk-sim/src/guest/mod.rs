//! Guests: what stands at the other end of the queue.
//!
//! [`BlkDriver`] is a block driver over the driver half of a virtqueue, with its requests' buffers in guest RAM.
//! [`VhostUserDisk`] gives it the disk of a server in another process.
//! [`run`] lets a thread play the vCPU that uses it: a workload in fio's words, timed and, if asked, verified.
//! [`kvm`] does without the play: a virtual machine runs the same workload with a driver of its own, and KVM carries kicks
//! and interrupts.

mod driver;
#[cfg(target_arch = "x86_64")]
pub mod kvm;
mod thread;
mod vhost_user;
mod workload;

pub use driver::{BlkDriver, Completion, DriverError, Kicking, Waiting};
pub use thread::{GuestError, GuestReport, run};
pub use vhost_user::{QueueShape, VhostUserDisk, VhostUserError};
pub use workload::{Pattern, Stop, Workload};

//! Guests: what is at the other end of a queue.
//!
//! [`BlkDriver`] is a block driver over the driver half of a virtqueue, with its requests' buffers in guest
//! RAM. [`SimTransport`] connects it to a device in this process, [`VhostUserDisk`] to a server in another
//! one. [`run`] lets a thread play the vCPU: a workload in fio's words, timed and, if asked, verified.
//! [`kvm`] runs the same workload on a real vCPU with a driver of its own, and KVM carries kicks and
//! interrupts.

mod driver;
#[cfg(all(feature = "kvm", target_arch = "x86_64"))]
pub mod kvm;
mod sim;
mod thread;
mod vhost_user;
mod workload;

pub use driver::{BlkDriver, Completion, DriverError, Kicking, Waiting};
pub use sim::{GuestPorts, SimTransport};
pub use thread::{GuestError, GuestReport, run};
pub use vhost_user::{QueueShape, VhostUserDisk, VhostUserError};
pub use workload::{Pattern, Stop, Workload};

//! Guests: the driver side of the queue.
//!
//! [`BlkDriver`] is a block driver on the driver half of a virtqueue, with its buffers in guest
//! RAM. [`VhostUserDisk`] connects it to a server in another process. [`run`] plays the vCPU on a
//! thread: it runs a workload, described in fio's terms, measures it and optionally verifies the
//! data. [`kvm`] uses a real vCPU instead: a virtual machine runs the same workload with its own
//! driver, and KVM transports kicks and interrupts.

mod driver;
#[cfg(target_arch = "x86_64")]
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

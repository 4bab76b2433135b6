//! Guest memory: regions of host memory at guest-physical addresses.
//!
//! [`GuestRegion`] is one region. It implements vm-memory's `GuestMemoryRegion`, and
//! [`GuestMemoryMmap`] is vm-memory's collection of such regions, so all of vm-memory's traits work
//! on it. [`GuestRam`] is the RAM of a simulated guest: a sealed memfd that can be mapped several
//! times and shared with another process. [`DirtyLog`] records which pages a device has written.
//!
//! The virtqueue does not require these types; see [`crate::virtqueue`] for the memory it accepts.

mod dirty_log;
#[cfg(test)]
pub(crate) mod fenced;
#[cfg(test)]
pub(crate) mod log_bits;
mod ram;
mod region;
mod sealed;

pub use dirty_log::{DirtyLog, LogOwner};
pub use ram::GuestRam;
pub use region::{GuestMemoryMmap, GuestRegion};
#[cfg(feature = "vhost-user")]
pub(crate) use sealed::sealed_memfd;
pub use vm_memory::GuestAddress;

//! Both halves of the split virtqueue of virtio 1.2, section 2.7.
//!
//! [`DeviceQueue`] is the half that a device model runs, in memory that an untrusted guest writes
//! at the same time. [`DriverQueue`] is the guest's half, for simulated guests and for tests. Both
//! support INDIRECT_DESC, EVENT_IDX and the NO_INTERRUPT and NO_NOTIFY flags. They do not send
//! kicks or interrupts; they report when one is needed.
//!
//! ```
//! use virtio_blk_sim::memory::{GuestAddress, GuestRam};
//! use virtio_blk_sim::virtqueue::{DeviceQueue, DriverQueue, QueueConfig};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let ram = GuestRam::new(64 << 10)?;
//! let config = QueueConfig::at(GuestAddress(0), 128);
//! let mut driver = DriverQueue::new(ram.map()?, config)?; // the guest's own mapping
//! let mut device = DeviceQueue::new(ram.memory().clone(), config)?;
//! assert!(!device.enable_kicks(), "nothing is available yet");
//!
//! // The guest: 16 bytes for the device to read, 512 for it to write.
//! let head = driver.add(&[(GuestAddress(0x8000), 16)], &[(GuestAddress(0x9000), 512)])?.unwrap();
//! assert!(driver.publish(), "the device sleeps, so it needs a kick");
//!
//! // The device wakes up. It needs no kicks while it is working.
//! let mut chain = device.new_chain();
//! device.disable_kicks();
//! while device.pop(&mut chain)? {
//!     let mut header = [0; 16];
//!     assert_eq!(chain.readable().copy_to(0, &mut header), 16);
//!     let written = chain.writable().copy_from(0, b"sixteen bytes in");
//!     device.push(chain.head(), written as u32)?;
//! }
//! assert!(device.publish(), "the guest sleeps, so it needs an interrupt");
//! assert!(!device.enable_kicks(), "no new work arrived: sleep");
//!
//! // The guest handles the interrupt.
//! assert_eq!(driver.pop_used()?, Some((head, 16)));
//! # Ok(())
//! # }
//! ```
//!
//! # Guest memory
//!
//! The queues work in any memory that implements vm-memory's `GuestMemoryBackend`, held in an
//! `Arc`. The default is [`GuestMemoryMmap`](crate::memory::GuestMemoryMmap) of this crate. Users
//! of rust-vmm pass their own `vm_memory::GuestMemoryMmap`; a snapshot of a `GuestMemoryAtomic`
//! becomes an `Arc` with `GuestMemoryLoadGuard::into_inner`. See [`DeviceQueue`] for an example and
//! for what is required.
//!
//! # What a hostile driver can do
//!
//! It can break its own queue and nothing else. [`DeviceQueue::pop`] distinguishes an empty ring
//! from a malformed one. After an error the queue stays broken until the driver resets the device.
//! The number of descriptors per chain is bounded. Each descriptor is copied once, and all checks
//! use the copy. Each segment lies in guest memory that the [`Chain`] keeps mapped. A head is in
//! flight at most once.
//!
//! # Memory order
//!
//! | Stored by | Read by | Purpose |
//! |---|---|---|
//! | avail.idx, Release, [`DriverQueue::publish`] | Acquire, [`DeviceQueue::pop`] | descriptors and request bytes are visible before the index |
//! | used.idx, Release, [`DeviceQueue::publish`] | Acquire, [`DriverQueue::pop_used`] | used entries and response bytes are visible before the index |
//! | avail.idx, *fence*, load the device's request, [`DriverQueue::publish`] | store the request, *fence*, load avail.idx, [`DeviceQueue::enable_kicks`] | no lost kick |
//! | used.idx, *fence*, load the driver's request, [`DeviceQueue::publish`] | store the request, *fence*, load used.idx, [`DriverQueue::enable_interrupts`] | no lost interrupt |
//!
//! The fences are SeqCst. Each one is between a store and a load of another location, an order that
//! even x86 does not keep without a fence. Devices that lacked one have hung (cloud-hypervisor
//! issue 2179, SPDK issue 3178).

mod chain;
mod device;
mod driver;
mod error;
mod in_flight;
mod layout;
mod segment;
mod suppression;
#[cfg(test)]
mod tests;
mod translate;

pub use chain::Chain;
pub use device::DeviceQueue;
pub use driver::DriverQueue;
pub use error::{QueueError, RingPart};
pub use layout::{Descriptor, QueueConfig};
pub use segment::{Segment, Segments};
#[cfg(all(test, feature = "device"))]
pub(crate) use tests::malformed_cases;

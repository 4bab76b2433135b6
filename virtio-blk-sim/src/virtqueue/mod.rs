//! The split virtqueue of virtio 1.2, section 2.7, both halves of it.
//!
//! [`DeviceQueue`] is the half that a device model runs, over memory that a guest it does not trust is
//! writing at the same time. [`DriverQueue`] is the guest's half, for the simulated guests and for tests.
//! Both speak INDIRECT_DESC, EVENT_IDX and the NO_INTERRUPT and NO_NOTIFY flags; neither knows who carries a
//! kick or an interrupt, they only say when one is due.
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
//! assert!(driver.publish(), "the device sleeps, so it wants a kick");
//!
//! // The device, woken: no more kicks while it is at work.
//! let mut chain = device.new_chain();
//! device.disable_kicks();
//! while device.pop(&mut chain)? {
//!     let mut header = [0; 16];
//!     assert_eq!(chain.readable().copy_to(0, &mut header), 16);
//!     let written = chain.writable().copy_from(0, b"sixteen bytes in");
//!     device.push(chain.head(), written as u32)?;
//! }
//! assert!(device.publish(), "the guest sleeps, so it wants an interrupt");
//! assert!(!device.enable_kicks(), "no work came meanwhile: sleep");
//!
//! // The guest, interrupted.
//! assert_eq!(driver.pop_used()?, Some((head, 16)));
//! # Ok(())
//! # }
//! ```
//!
//! # What a hostile driver can do
//!
//! Break its own queue, and nothing else. [`DeviceQueue::pop`] tells an empty ring from a malformed one;
//! after an error the queue is broken and stays so until the driver resets the device. Every walk is bounded
//! by the queue size, every descriptor is copied once and judged on the copy, every segment handed out lies
//! in guest memory that the [`Chain`] keeps mapped, a head is in flight at most once.
//!
//! # Memory order
//!
//! | store, by | read, by | why |
//! |---|---|---|
//! | avail.idx, Release, [`DriverQueue::publish`] | Acquire, [`DeviceQueue::pop`] | descriptors and request bytes go before the index |
//! | used.idx, Release, [`DeviceQueue::publish`] | Acquire, [`DriverQueue::pop_used`] | used entries and response bytes go before the index |
//! | avail.idx, *fence*, load the device's request, [`DriverQueue::publish`] | store the request, *fence*, load avail.idx, [`DeviceQueue::enable_kicks`] | no lost kick |
//! | used.idx, *fence*, load the driver's request, [`DeviceQueue::publish`] | store the request, *fence*, load used.idx, [`DriverQueue::enable_interrupts`] | no lost interrupt |
//!
//! The fences are SeqCst: each stands between a store and a load of another location, the one order that x86
//! too gives up. Devices have shipped without one and hung (cloud-hypervisor issue 2179, SPDK issue 3178).

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
#[cfg(test)]
pub(crate) use tests::malformed_cases;

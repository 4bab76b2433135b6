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
//! It can break its own queue and nothing else. What harms only a request is answered for that
//! request alone; a queue stops only where its rings can no longer be trusted. The number of
//! descriptors per chain is bounded. Each descriptor is copied once, and all checks use the copy.
//! Each segment lies in guest memory that the [`Chain`] keeps mapped. A head is in flight at most
//! once.
//!
//! | what the driver does | the reaction |
//! |---|---|
//! | a chain longer than the queue, up to [`MAX_CHAIN`] descriptors, with an indirect table | served |
//! | a buffer of 0 bytes | served; it has no bytes |
//! | unknown descriptor flags, WRITE on an indirect descriptor, garbage in the used ring | ignored |
//! | a chain of more than [`MAX_CHAIN`] descriptors, or of more than 2^32 bytes | the chain is refused |
//! | a buffer or an indirect table outside guest memory, or in a read-only region | the chain is refused |
//! | a device-readable buffer after a device-writable one | the chain is refused |
//! | a table that is empty, has a part of a descriptor, a loop, a `next` beyond it, or another table | the chain is refused |
//! | INDIRECT without negotiation, or together with NEXT | the chain is refused |
//! | a head outside the descriptor table, or one that is in flight already | the queue breaks |
//! | avail.idx that goes backwards or more than the queue size ahead | the queue breaks |
//! | in the queue's own descriptor table: a loop, or a `next` beyond it | the queue breaks |
//!
//! *Refused* means that [`DeviceQueue::pop`] returns an error of which
//! [`QueueError::is_of_one_chain`] is true: the device returns the chain to the driver, with an
//! error in the last device-writable byte if its requests have a status there, and continues. The
//! byte is found if the chain can be followed to its end; otherwise the last entry of the indirect
//! table is taken for it. A chain without such a byte is returned with a used length of 0.
//!
//! A *broken* queue pops and writes nothing more until the driver resets the device.
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
//!
//! # Live migration
//!
//! [`DeviceQueue::set_dirty_log`] makes a queue record the guest pages that it writes in a
//! [`DirtyLog`](crate::memory::DirtyLog). Each page is marked after it was written. The buffers of
//! a chain are marked before used.idx shows the chain, and the used ring before the interrupt. All
//! marks of a queue are made once it is drained: nothing is written later.

mod chain;
mod device;
mod dirty;
mod driver;
mod error;
mod in_flight;
mod layout;
mod refused;
mod segment;
mod suppression;
#[cfg(test)]
mod tests;
mod translate;

pub use chain::Chain;
pub use device::DeviceQueue;
pub use dirty::DirtyPages;
pub use driver::DriverQueue;
pub use error::{QueueError, RingPart};
pub use layout::{Descriptor, MAX_CHAIN, QueueConfig};
pub use segment::{Segment, Segments};
#[cfg(all(test, feature = "device"))]
pub(crate) use tests::malformed_cases;

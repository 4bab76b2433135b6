//! A framework for virtio devices on the [`aio`] event loop, a block device made with it, and the guests
//! that drive it.
//!
//! Authors of device emulators can take as much of it as they need: the virtqueue alone, a queue on an
//! event loop, or a vhost-user server for a device of their own. For the benchmark, the block device is the
//! workload. This is the way of a request:
//!
//! ```text
//! guest::BlkDriver ─► avail ring ─► ioeventfd ─► AioContext ─► queue::Queue ─► blk::BlkWorker ─► backend
//! guest::BlkDriver ◄─ used ring  ◄─ irqfd     ◄─ one publish for a batch     ◄─ Answer       ◄──┘
//! ```
//!
//! From the ground up, each module knows only those above it in this table:
//!
//! | module | is about | does not know |
//! |---|---|---|
//! | [`memory`] | guest RAM: a memfd that device and guest map separately | queues |
//! | [`virtqueue`] | the split ring, the device's half and the driver's | what a chain means |
//! | [`queue`] | a virtqueue on an event loop, for any device: the traits `Device` and `Worker` | who kicks, what a chain means |
//! | [`vhost_user`] | the protocol and a server, for any device | what a device is |
//! | [`blk`] | the block device: requests, configuration, backends | how requests arrive |
//! | [`guest`] | a driver, a thread that plays the vCPU, a real vCPU under KVM | the device's side |
//!
//! # Features
//!
//! | feature | adds |
//! |---|---|
//! | none | [`memory`] and [`virtqueue`], on vm-memory and little else |
//! | `device` | [`queue`] and [`blk`], on [`aio`] |
//! | `vhost-user` | [`vhost_user`] |
//! | `sandbox` | [`sandbox`]: seccomp and landlock for a server |
//! | `guest`, `kvm` | [`guest`]: simulated guests; one on a real vCPU |
//! | `cli` | the program `vhost-user-blk` |
//!
//! By default all of them.
//!
//! # Trust
//!
//! The guest is not trusted: every descriptor is copied once and checked, arithmetic is in sectors, and every
//! loop is bounded by the queue's size. A driver that breaks a rule of the ring loses its queue until it
//! resets the device; a bad request is answered with a status. [`virtqueue`] and [`blk::device`] describe
//! what is checked where.
//!
//! # A device of your own
//!
//! Implement [`queue::Device`], and serve it with [`vhost_user::Server`]. `examples/vhost-user-rng.rs` and
//! `examples/vhost-user-console.rs` are complete programs.
//!
//! # Example
//!
//! A disk in memory, its device on a thread of its own, and a guest that writes and reads it back.
//!
//! ```
//! use std::sync::Arc;
//! use aio::{AioContext, IoThread, Reset};
//! use virtio_blk_sim::blk::backend::Backend;
//! use virtio_blk_sim::blk::device::{BlockDevice, DeviceConfig, Features};
//! use virtio_blk_sim::guest::{BlkDriver, Pattern, SimTransport, Stop, Workload, run};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! const SECTORS: u64 = 2048;
//! let device = BlockDevice::new(DeviceConfig::new(SECTORS))?;
//! let features = Features::INDIRECT_DESC | Features::EVENT_IDX | Features::FLUSH;
//! let queue_size = BlkDriver::queue_size_for(8, features);
//! let ram = BlkDriver::ram_bytes(queue_size, 8, 4096);
//! let transport = SimTransport::new(device, features, queue_size, ram as usize, Reset::Autoreset)?;
//! let transport = Arc::new(transport);
//!
//! let mut driver = BlkDriver::new(transport.guest()?, 8, 4096)?; // lays out the rings
//! let thread = IoThread::spawn_with("device", AioContext::builder(), move |context| {
//!     transport.attach(context, Backend::memory(SECTORS)?) // answers kicks from here on
//! })?;
//!
//! let pattern = Pattern::RandRw;
//! let workload = Workload { pattern, iodepth: 8, stop: Stop::Requests(1000), verify: true, seed: 1 };
//! let report = run(&mut driver, &workload)?;
//! println!("{} requests, {} kicks, {} interrupts", report.requests, report.kicks, report.interrupts);
//! thread.stop()?;
//! # Ok(())
//! # }
//! ```

#[cfg(feature = "device")]
mod bit_set;
#[cfg(feature = "device")]
pub mod blk;
#[cfg(feature = "vhost-user")]
pub mod chardev;
#[cfg(feature = "guest")]
pub mod guest;
pub mod memory;
#[cfg(feature = "device")]
pub mod queue;
#[cfg(feature = "sandbox")]
pub mod sandbox;
#[cfg(feature = "device")]
pub mod signals;
#[cfg(feature = "vhost-user")]
pub mod vhost_user;
pub mod virtqueue;

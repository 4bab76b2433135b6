//! A framework for virtio devices on the [`aio`] event loop, a block device made with it, and the
//! guests that drive it.
//!
//! Authors of device emulators can take as much of it as they need: the virtqueue alone, a queue on
//! an event loop, or a vhost-user server for a device of their own. For the benchmark, the block
//! device is the workload. This is the way of a request:
//!
//! ```text
//! guest::BlkDriver ─► avail ring ─► ioeventfd ─► AioContext ─► queue::Queue ─► blk::BlkWorker ─► backend
//! guest::BlkDriver ◄─ used ring  ◄─ irqfd     ◄─ one publish for a batch     ◄─ Answer       ◄──┘
//! ```
//!
//! From the ground up, each module knows only those above it in this table:
//!
//! [`queue`] and [`vhost_user`] know no disk: `examples/` has an entropy device and a console on them.
//!
//! The guest is not trusted: every descriptor is copied once and checked, arithmetic is in sectors, every loop is bounded by
//! the queue's size. A driver that breaks a rule of the ring loses its queue until it resets the device; a bad request is
//! answered with a status. [`virtqueue`] and [`device`] say what is checked where.
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

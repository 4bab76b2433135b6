//! A virtio-blk device on the [`aio`] event loop, and the guests that drive it.
//!
//! For authors of device emulators it is a worked example of a production device on AioContext: doorbell, virtqueue with
//! kick and interrupt suppression, busy polling, I/O on the loop's own ring. For the benchmark it is the
//! workload. A request's way, and the rooms it passes:
//!
//! ```text
//! guest::BlkDriver ─► avail ring ─► ioeventfd ─► AioContext ─► queue::Queue ─► device::Request ─► backend
//! guest::BlkDriver ◄─ used ring  ◄─ irqfd     ◄─ one publish for a batch        ◄─ FinishedRequest ◄──┘
//! ```
//!
//! | module | knows | does not know |
//! |---|---|---|
//! | [`memory`] | guest RAM: a memfd that device and guest map each for themselves | queues |
//! | [`virtqueue`] | the split ring, the device's half and the driver's | what is in a chain |
//! | [`device`] | what a request means | what a disk is, how requests come |
//! | [`backend`] | how a request is carried out: null, memory, delay, file | queues |
//! | [`blk_queue`] | a queue on an event loop, from its doorbell to its interrupt | where kicks come from |
//! | [`transport`] | who kicks and who is interrupted | requests |
//! | [`guest`] | a driver, a thread that plays the vCPU, and a vCPU of KVM | the device's side |
//!
//! [`queue`] and [`vhost_user`] know no disk: `examples/` has an entropy device and a console on them.
//!
//! The guest is not trusted: every descriptor is copied once and checked, arithmetic is in sectors, every loop is bounded by
//! the queue's size. A driver that breaks a rule of the ring loses its queue until it resets the device; a bad request is
//! answered with a status. [`virtqueue`] and [`device`] say what is checked where.
//!
//! # Example
//!
//! A disk in memory, a device on a thread of its own, and a guest that writes and reads it back.
//!
//! ```
//! use std::sync::Arc;
//! use aio::{AioContext, IoThread, Reset};
//! use virtio_blk_sim::blk::backend::Backend;
//! use virtio_blk_sim::blk::device::{BlockDevice, DeviceConfig, Features};
//! use virtio_blk_sim::guest::{BlkDriver, Pattern, SimTransport, Stop, Workload, run};
//! //!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! const SECTORS: u64 = 2048;
//! let device = BlockDevice::new(DeviceConfig::new(SECTORS))?;
//! let features = Features::INDIRECT_DESC | Features::EVENT_IDX | Features::FLUSH;
//! let queue_size = BlkDriver::queue_size_for(8, features);
//! let ram = BlkDriver::ram_bytes(queue_size, 8, 4096);
//! let transport = Arc::new(SimTransport::new(device, features, queue_size, ram as usize, Reset::Autoreset)?);
//!
//! let mut driver = BlkDriver::new(transport.guest()?, 8, 4096)?;           // lays out the rings
//! let thread = IoThread::spawn_with("device", AioContext::builder(), move |context| {
//!     transport.attach(context, Backend::memory(SECTORS)?)                 // answers kicks from here on
//! })?;
//!
//! let workload = Workload { pattern: Pattern::RandRw, iodepth: 8, stop: Stop::Requests(1000), verify: true, seed: 1 };
//! let report = run(&mut driver, &workload)?;
//! println!("{} requests, {} kicks, {} interrupts", report.requests, report.kicks, report.interrupts);
//! thread.stop()?;
//! # Ok(())
//! # }
//! ```

mod bit_set;
pub mod blk;
pub mod chardev;
pub mod guest;
pub mod memory;
pub mod queue;
pub mod signals;
pub mod vhost_user;
pub mod virtqueue;

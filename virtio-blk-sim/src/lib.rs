//! A framework for virtio devices on the [`aio`] event loop, a block device built with it, and
//! simulated and real guests that drive the device.
//!
//! A device emulator can use only the parts it needs: the virtqueue alone, a queue on an event
//! loop, or a vhost-user server for its own device. The benchmark uses the block device as its
//! workload. A request takes this path:
//!
//! ```text
//! guest::BlkDriver ─► avail ring ─► ioeventfd ─► AioContext ─► queue::Queue ─┐
//!                                                                            ▼
//!                                                 backend ◄────────── blk::BlkWorker
//!                                                    │
//!                                                    ▼
//! guest::BlkDriver ◄─ used ring ◄─ irqfd ◄─ one publish per batch ◄─ Answer
//! ```
//!
//! The modules, lowest first. Each module uses only the modules above it in this table:
//!
//! | module | contents |
//! |---|---|
//! | [`log`], [`signals`] | events for the operator that stop nothing; signals as events of the loop |
//! | [`memory`] | guest RAM: a memfd that device and guest map separately |
//! | [`virtqueue`] | both halves of the split ring; does not know what a chain means |
//! | [`queue`] | a virtqueue on an event loop, for any device |
//! | `metrics` | what disks and loops do, as OpenMetrics |
//! | [`sandbox`], [`chardev`] | fewer rights for a server; a socket with bounded buffers |
//! | [`vhost_user`] | the protocol and a server, for any device |
//! | `hosted` | devices written for the crate vhost-user-backend |
//! | [`blk`] | the block device: requests, configuration, backends |
//! | [`guest`] | a driver, a thread that plays the vCPU, a real vCPU under KVM |
//!
//! # A device of your own
//!
//! [`guide`] builds one step by step. Implement [`queue::Device`], and serve it with
//! [`vhost_user::Daemon`] or [`vhost_user::Server`]. `examples/vhost-user-rng.rs` and
//! `examples/vhost-user-console.rs` are complete programs.
//!
//! # Features
//!
//! | feature | adds |
//! |---|---|
//! | none | [`memory`] and [`virtqueue`], on vm-memory and little else |
//! | `device` | [`queue`], [`blk`] and [`signals`], on [`aio`] |
//! | `vhost-user` | [`vhost_user`] and [`chardev`] |
//! | `vhost-user-backend` | `hosted`: devices written for the crate vhost-user-backend |
//! | `metrics` | `metrics`: OpenMetrics of disks and loops |
//! | `sandbox` | [`sandbox`]: seccomp and landlock for a server |
//! | `guest`, `kvm` | [`guest`]: simulated guests; one on a real vCPU |
//! | `cli` | the program `vhost-user-blk` |
//!
//! By default all but `vhost-user-backend`.
//!
//! # Trust
//!
//! The guest is not trusted: every descriptor is copied once and checked, arithmetic is in sectors,
//! and every loop is bounded by the length of a chain. A bad request, or a chain that cannot be
//! served, costs only that request. A driver whose rings contradict themselves loses its queue
//! until it resets the device. [`virtqueue`] and [`blk::device`] describe what is checked where.
//!
//! # Example
//!
//! A disk in memory, a device that runs in its own thread, and a guest that writes data and reads
//! it back.
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
//! let ram = ram as usize;
//! let transport = SimTransport::new(device, features, queue_size, ram, Reset::Autoreset)?;
//! let transport = Arc::new(transport);
//!
//! let mut driver = BlkDriver::new(transport.guest()?, 8, 4096)?; // sets up the rings
//! let thread = IoThread::spawn_with("device", AioContext::builder(), move |context| {
//!     transport.attach(context, Backend::memory(SECTORS)?) // handles kicks from now on
//! })?;
//!
//! let (pattern, stop) = (Pattern::RandRw, Stop::Requests(1000));
//! let workload = Workload { pattern, iodepth: 8, stop, verify: true, seed: 1 };
//! let report = run(&mut driver, &workload)?;
//! println!("{} requests, {} kicks", report.requests, report.kicks);
//! println!("{} interrupts", report.interrupts);
//! thread.stop()?;
//! # Ok(())
//! # }
//! ```

// Output goes through `log`, which ignores errors: `println!` and `eprintln!` panic on them.
#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr, clippy::dbg_macro))]

#[cfg(feature = "vhost-user")]
mod accept;
#[cfg(feature = "vhost-user")]
mod allowance;
#[cfg(feature = "device")]
mod bit_set;
#[cfg(feature = "device")]
pub mod blk;
#[cfg(feature = "vhost-user")]
pub mod chardev;
#[cfg(feature = "guest")]
pub mod guest;
#[cfg(feature = "vhost-user")]
#[doc = include_str!("guide.md")]
pub mod guide {}
#[cfg(feature = "vhost-user-backend")]
pub mod hosted;
#[cfg(feature = "device")]
pub mod log;
#[cfg(any(feature = "vhost-user", feature = "imago"))]
mod loop_thread;
pub mod memory;
#[cfg(feature = "metrics")]
pub mod metrics;
#[cfg(feature = "device")]
pub mod queue;
#[cfg(feature = "sandbox")]
pub mod sandbox;
#[cfg(feature = "device")]
pub mod signals;
#[cfg(feature = "device")]
mod token_bucket;
#[cfg(feature = "vhost-user")]
pub mod vhost_user;
pub mod virtqueue;
#[cfg(feature = "device")]
mod waiters;

#[cfg(feature = "device")]
pub use waiters::Waiters;

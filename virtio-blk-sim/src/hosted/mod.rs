//! Devices that are written for the crate [vhost-user-backend](vhost_user_backend), on the event
//! loops of this crate.
//!
//! Many published devices implement its trait [`VhostUserBackend`]: virtiofsd, and those of
//! rust-vmm's vhost-device. Its `VhostUserDaemon` serves such a device with a thread for the
//! frontend, and with an epoll loop on a thread of its own for each group of queues. [`Hosted`]
//! serves the same device, unchanged, with the [`Server`](crate::vhost_user::Server) of this crate,
//! on the [`Loops`](crate::vhost_user::Loops) that the program chooses: on threads of their own,
//! or together with other devices on one thread.
//!
//! ```no_run
//! # use std::sync::Arc;
//! # use virtio_blk_sim::hosted::Hosted;
//! # use virtio_blk_sim::hosted::vhost_user_backend::VhostUserBackend;
//! # use virtio_blk_sim::vhost_user::{Daemon, Served};
//! # fn serve<B: VhostUserBackend + 'static>(backend: B) -> Result<(), Box<dyn std::error::Error>>
//! # where
//! #     B::Vring: Clone + Send + Sync,
//! #     B::Bitmap: virtio_blk_sim::hosted::vm_memory::mmap::NewBitmap + Send + Sync,
//! # {
//! let device = Hosted::new("vhost-user-fs", backend)?;
//! Daemon::new(Served::new(device), "/run/fs.sock".as_ref(), &[])?.run(|_, _| {})?;
//! # Ok(())
//! # }
//! ```
//!
//! # What a device sees
//!
//! | part of the trait | here |
//! |---|---|
//! | `num_queues`, `max_queue_size`, `features` | as they are, up to 256 queues; `VHOST_F_LOG_ALL`, packed rings and IOMMU addresses are not offered |
//! | `protocol_features` | those that the server has, too; see below |
//! | `queues_per_thread` | each group runs on one loop; [`Hosted::loops`] makes a thread for each |
//! | `handle_event` | for a kick, and once when a ring starts; on the home thread of the ring's loop |
//! | [`VringEpollHandler::register_listener`](vhost_user_backend::VringEpollHandler::register_listener) | [`Hosted::register_listener`] |
//! | `exit_event` | ends the group: its rings stop, as a thread of the daemon does |
//! | `update_memory` | each new memory table; the server has mapped it and guards it against truncation |
//! | `set_backend_req_fd` | the socket is the device's; the server sends nothing on it |
//! | `set_event_idx`, `acked_features`, `get_config`, `set_config`, `reset_device` | as under the daemon |
//! | `set_gpu_socket`, `get_shared_object`, `get_shmem_config`, `set_device_state_fd` | never called: the protocol features are not offered |
//!
//! Of the protocol features, MQ, REPLY_ACK, BACKEND_REQ, CONFIG, RESET_DEVICE and
//! CONFIGURE_MEM_SLOTS are offered if the device offers them. INFLIGHT_SHMFD is not, because the
//! trait has no place for it.
//!
//! # What is different
//!
//! - A ring that is stopped is drained: the answer to GET_VRING_BASE waits until the device has
//!   returned every chain that it took, also those that threads of its own work on, for up to
//!   [`Hosted::set_drain_limit`]. The daemon does not wait.
//! - A ring is stopped while the memory table changes, and continues where it was.
//! - If `handle_event` fails, the ring that was kicked stops, its error eventfd is signalled, and a
//!   line is logged. Under the daemon the thread ends, and with it all queues of the group.
//! - The kick eventfd is reset by the event loop, so there is no read(2) of it where the loop can
//!   avoid it. `VringT::get_ref().get_kick()` still has it.
//! - When the frontend is gone its memory is unmapped, as soon as the device holds no snapshot of
//!   it. The device lives on for the next frontend, without a `reset_device`.
//! - `handle_event` may block, as virtiofsd's does; meanwhile nothing else on its loop runs.
//!
//! A device that panics unwinds out of [`AioContext::poll`](aio::AioContext::poll).

mod device;
mod group;
mod memory;
mod ring;

pub use device::Hosted;
/// The crate whose devices are hosted, in the version that this crate is built with.
pub use vhost_user_backend;
pub use vhost_user_backend::VhostUserBackend;
/// The version of vm-memory whose types are part of [`VhostUserBackend`].
pub use vm_memory_017 as vm_memory;
pub use vmm_sys_util::epoll::EventSet;

//! What disks and loops do, as OpenMetrics text for a scraper such as Prometheus. Feature
//! `metrics`.
//!
//! ```text
//! BlkWorker ─► Recorder, on the loop of the queue ─┐
//!                                                  ├─► Exporter ─► text ─► Scrapers: a Unix socket
//! AioContext::stats of each loop ──────────────────┘                   └─► Written: a file
//! ```
//!
//! A disk that was [given](crate::blk::Disk::metered) [`Meters`] counts its requests. Each queue
//! records on its own loop, in memory that only this loop touches. An [`Exporter`] that is asked
//! asks each loop in a task there, which looks at a few queues in each turn, and waits for the
//! answers without blocking. A loop that does not answer in two seconds is left out: its disks show
//! what they showed last. The text is made on a worker thread. Nothing runs while nobody asks.
//!
//! # What it costs
//!
//! A disk without meters has one test and a few instructions more for each request, none for a
//! completion, and reads no clock. A disk with meters reads the clock (CLOCK_MONOTONIC, in the
//! vDSO) once for each batch that it takes off the ring, once for each batch of completions, and
//! once for each request that is answered at once. The memory of a queue's histogram, 4 KiB for
//! each kind of request, is allocated with the first request of that kind.
//!
//! # Families
//!
//! | family | labels | meaning |
//! |---|---|---|
//! | `virtio_blk_requests` | disk, queue, operation | requests answered |
//! | `virtio_blk_transferred_bytes` | disk, queue, operation | bytes that were read, written, discarded or zeroed |
//! | `virtio_blk_request_duration_seconds` | disk, queue, operation | from the taking of the request's batch to its completion |
//! | `virtio_blk_errors` | disk, queue, operation, errno | requests that the backend failed |
//! | `virtio_blk_interrupts`, `virtio_blk_drains`, `virtio_blk_stalls` | disk, queue | as in [`QueueStats`](crate::queue::QueueStats) |
//! | `virtio_blk_ring_running` | disk, queue | 1 while the driver has the ring running |
//! | `virtio_blk_frontend_connected`, `virtio_blk_frontends` | disk | whether there is a frontend, and how many there were |
//! | `virtio_blk_frontend_throttled` | disk, of | how often the `messages` or `connections` of frontends had to wait, as in `vhost_user::Throttled` |
//! | `virtio_blk_loop_answered` | loop | 0 if the loop did not answer in time |
//! | `virtio_blk_loop_alive` | loop | 0 if the loop has ended: a callback has panicked, or the kernel has failed it |
//! | `aio_turns`, `aio_wakeups`, `aio_syscalls`, `aio_busy_polling_rounds` | loop | as in [`aio::Stats`] |
//!
//! An operation is `read`, `write`, `flush`, `discard`, `write-zeroes`, `get-id`, or `refused` for
//! a request that was not carried out because of its form. An errno is a name such as `EIO`, or
//! `none` if the kernel reported no error, such as for an image that is shorter than its disk.
//! Counters of a disk go on when its rings are started again and when its queues move to another
//! loop; they begin again when the disk is added again.

mod errno;
mod exporter;
mod families;
mod figures;
mod file;
mod http;
mod latency;
mod meter;
mod recorder;
mod socket;

pub use exporter::Exporter;
pub use figures::{Frontends, Kind};
pub use file::Written;
pub use meter::Meters;
pub(crate) use recorder::Recorder;
pub use socket::{MAX_CLIENTS, Scrapers};

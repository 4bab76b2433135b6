//! The block device: requests, configuration, backends, and its side of a queue.
//!
//! | module | |
//! |---|---|
//! | [`device`] | what a request means; features and the configuration space |
//! | [`backend`] | how a request is carried out: null, memory, delay, file |
//! | `lock_wait.rs` | a queue waits until its image is locked |
//! | `disk.rs` | [`Disk`]: both of them as one kind of [`Device`](crate::queue::Device) |

pub mod backend;
pub mod device;
mod disk;
mod lock_wait;

pub use disk::{Attached, BlkQueue, BlkWorker, Disk};

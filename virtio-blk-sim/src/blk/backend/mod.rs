//! Where the disk's content lives.
//!
//! A backend takes a [`PendingRequest`](crate::blk::device::PendingRequest) and gives back a
//! [`FinishedRequest`](crate::blk::device::FinishedRequest). It may rely on what parsing checked: the request lies inside
//! the disk it was configured with, and may be carried out on it.
//!
//! | backend | content | its `execute` |
//! |---|---|---|
//! | [`Null`] | none | answers at once |
//! | [`Memory`] | this process's memory | answers at once |
//! | [`FileImage`] | a file or a block device | blocks the thread on the disk |
//! | [`Delay`] | none | – |
//!
//! A [`Backend`] that is attached to an event loop becomes an [`Engine`]: the same without blocking the loop. A file is
//! then driven through the loop's io_uring, or by a few threads where the loop has none, or on request by Linux AIO; a delay
//! by the loop's timers.

mod aligned_buffer;
mod delay;
mod done;
mod engine;
mod file_image;
mod file_ops;
mod linux_aio;
mod memory;
mod null;
mod pool;
mod ring;

pub use delay::Delay;
pub use done::Done;
pub use engine::{Backend, Engine};
pub use file_image::{DirectAlignment, FileImage, OpenError};
pub use file_ops::{DISCARD_MODE, is_unsupported, write_zeroes_modes};
pub use memory::Memory;
pub use null::Null;

#[cfg(test)]
mod tests;

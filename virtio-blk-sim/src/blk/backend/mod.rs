//! Where the content of the disk is stored.
//!
//! A backend takes a [`PendingRequest`](crate::blk::device::PendingRequest) and returns a
//! [`FinishedRequest`](crate::blk::device::FinishedRequest). It may rely on the checks of the
//! parser: the request lies inside the configured disk and is permitted on it.
//!
//! | backend | content | its `execute` |
//! |---|---|---|
//! | [`Null`] | none | answers at once |
//! | [`Memory`] | this process's memory | answers at once |
//! | [`FileImage`] | a file or a block device | blocks the thread on the disk |
//! | [`Delay`] | none | – |
//! | `FormattedImage`, feature `imago` | a qcow2 image | – |
//!
//! When a [`Backend`] is attached to an event loop it becomes an [`Engine`], which does the same
//! without blocking the loop. A file then uses the loop's io_uring, or a few threads if the loop
//! has none, or Linux AIO on request. A file in the page cache uses calls in the loop's thread as
//! long as they are short ([`Stall`]). A delay uses the loop's timers.

mod aligned_buffer;
mod delay;
mod done;
mod engine;
mod file_format;
mod file_image;
mod file_lock;
mod file_ops;
mod file_sync;
#[cfg(feature = "imago")]
mod formatted;
mod image_error;
mod image_format;
mod inline;
mod linux_aio;
mod memory;
mod null;
mod open;
mod pool;
mod ring;

pub use delay::Delay;
pub use done::Done;
pub use engine::{Backend, Engine};
pub use file_image::{DirectAlignment, FileImage, OpenError};
pub use file_lock::LockError;
pub use file_ops::{DISCARD_MODE, is_unsupported, write_zeroes_modes};
#[cfg(feature = "imago")]
pub use formatted::FormattedImage;
pub use image_error::ImageError;
pub use image_format::ImageFormat;
pub use inline::Stall;
pub use memory::Memory;
pub use null::Null;

#[cfg(test)]
mod tests;

//! Images with metadata: qcow2, by the crate imago (feature `imago`).
//!
//! ```text
//! engine.rs    a request is a task of its queue's loop
//!     │
//! requests.rs  what a request does with the image: mappings, data, flushes
//!     │        unwritten.rs  metadata is in the file before a write is answered
//!     │
//! imago        metadata: caches, allocation, locks between tasks
//!     │
//! storage.rs   a file, as imago sees it         layers.rs  which files make up an image
//!     │                                         metadata.rs  what is checked before it is opened
//! file_io.rs   an operation: on the ring of the loop, or in a worker thread
//! current.rs   which loop that is; panics of imago
//! ```
//!
//! imago needs no runtime. Its locks (of tokio's `sync`) work with any executor and between
//! threads, so the queues of an image may be on several loops: each request runs on the loop of its
//! queue, and its operations use the ring of that loop.
//!
//! The data of a request moves between the file and guest memory without a copy. Copied once are:
//! the data of compressed clusters, the rest of a cluster that is written for the first time over a
//! backing file, and buffers that are not aligned as direct I/O needs it.

mod current;
mod engine;
mod file_io;
mod health;
mod layers;
mod metadata;
mod requests;
mod storage;
mod unwritten;

pub(super) use engine::FormattedEngine;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::{Mutex, RwLock};

use self::current::{Panicked, blocking};
use self::health::Health;
use self::layers::{Layer, Layers};
use self::unwritten::Unwritten;
use super::file_image::FileImage;
use super::image_error::ImageError;
use crate::blk::device::{DeviceConfig, SECTOR_SIZE};
use crate::{log, loop_thread};

/// An open image with metadata: a qcow2 image of version 2 or 3.
///
/// Metadata that a write has changed is in the file before the write is answered, so a process that
/// is killed loses nothing that was answered. A flush also puts it on the disk. After a kill the
/// image may have leaked clusters, which `qemu-img check -r leaks` frees. The last reference, when
/// it is dropped, flushes the image. That blocks, so a thread that runs a loop starts another
/// thread for it and does not wait. The cache has up to 128 tables of mappings and
/// 32 of reference counts for each file of the chain, one cluster each: 10 MiB with clusters of
/// 64 KiB, 320 MiB with 2 MiB.
///
/// If a flush fails, all later writes and flushes fail, as for a [`FileImage`]. If imago panics,
/// which metadata that contradicts itself might make it do, every later request of this image
/// fails, and nothing more is written to it.
///
/// Its size does not change while it is open.
pub struct FormattedImage {
    /// A discard takes it for writing: it frees clusters, so no other request may be about to use
    /// where they were mapped to.
    image: Arc<RwLock<Layer>>,
    /// Held during a flush. One after the other, each covers all that were answered before it.
    flushing: Mutex<()>,
    unwritten: Unwritten,
    health: Arc<Health>,
    path: PathBuf,
    capacity_sectors: u64,
    block_size: u32,
    read_only: bool,
    /// How many files it consists of.
    files: usize,
    /// Clusters can be marked as zeros, which version 2 cannot.
    has_zero_clusters: bool,
}

impl FormattedImage {
    /// Opens the qcow2 image in `file`, which is at `path` and should be [locked](FileImage::lock).
    /// It is writable if the file is. `allow_backing` are the directories whose files the image may
    /// name as its backing files and as its data file, directly or through symbolic links; none by
    /// default. These files are opened and locked as well, backing files for reading. Relative
    /// names start at the directory of the image that has them.
    ///
    /// Blocks on the disk, and up to a second for each file that is locked. To be called before the
    /// process is confined to the files that it has open.
    ///
    /// # Errors
    /// [`ImageError`]: the image is not qcow2, is damaged, uses features that imago does not know
    /// (encryption, an unclean shutdown with lazy reference counts, zstd, extended mappings, a
    /// mark that it is corrupt), or names files that are not allowed, that are in use, whose format
    /// is not recorded, that make a loop, or that are more than 32.
    pub fn open(file: FileImage, path: &Path, allow_backing: &[PathBuf]) -> Result<Self, ImageError> {
        let health = Arc::new(Health::default());
        let (read_only, direct) = (file.is_read_only(), file.direct().is_some());
        let mut layers = Layers::new(allow_backing, direct, &health)?;
        let image = match blocking(layers.open(file, path)) {
            Ok(opened) => opened?,
            Err(Panicked) => return Err(ImageError::Damaged(path.into())),
        };
        let (files, block_size) = (layers.files(), layers.alignment.max(SECTOR_SIZE as u32));
        let size = image.size();
        let capacity_sectors = (size - size % u64::from(block_size)) / SECTOR_SIZE;
        if capacity_sectors == 0 {
            return Err(ImageError::Empty(path.into()));
        }
        let has_zero_clusters = image.inner().zero_granularity().is_some();
        Ok(Self {
            image: Arc::new(RwLock::new(image)),
            flushing: Mutex::default(),
            unwritten: Unwritten::default(),
            health,
            path: path.into(),
            capacity_sectors,
            block_size,
            read_only,
            files,
            has_zero_clusters,
        })
    }

    /// Returns the size of the disk in sectors.
    pub fn capacity_sectors(&self) -> u64 {
        self.capacity_sectors
    }

    /// Returns whether the image was opened for reading only.
    pub fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// Returns how many files it has open: itself, its backing files, and data files.
    pub fn files(&self) -> usize {
        self.files
    }

    /// Returns a device configuration for this image: its size, its read-only state, a suitable
    /// block size, and for a version 2 image neither discard nor write zeroes.
    pub fn device_config(&self) -> DeviceConfig {
        DeviceConfig {
            read_only: self.read_only,
            logical_block_size: self.block_size,
            request_alignment: self.block_size,
            physical_block_size: self.block_size.max(4096),
            discard: self.has_zero_clusters,
            write_zeroes: self.has_zero_clusters,
            ..DeviceConfig::new(self.capacity_sectors)
        }
    }
}

impl Drop for FormattedImage {
    /// Writes the metadata that is cached.
    fn drop(&mut self) {
        if self.read_only || self.health.check_change().is_err() {
            return;
        }
        let closing = || {
            let (image, health, path) =
                (Arc::clone(&self.image), Arc::clone(&self.health), self.path.clone());
            move || flush_at_end(&image, &health, &path)
        };
        if loop_thread::is_this() {
            let started = std::thread::Builder::new().name("image-end".to_owned()).spawn(closing());
            if started.is_ok() {
                return;
            }
        }
        closing()();
    }
}

/// Flushes an image that nobody uses any more. Blocks.
fn flush_at_end(image: &RwLock<Layer>, health: &Health, path: &Path) {
    let flush = async {
        let image = image.read().await;
        image.flush().await?;
        image.sync().await
    };
    match blocking(flush) {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            let path = path.display();
            log::line(format_args!("{path}: the image was not flushed at its end: {error}"));
        }
        Err(Panicked) => health.broken(),
    }
}

impl std::fmt::Debug for FormattedImage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FormattedImage")
            .field("path", &self.path)
            .field("capacity_sectors", &self.capacity_sectors)
            .field("read_only", &self.read_only)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;

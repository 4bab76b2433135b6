//! Opens a qcow2 image and the files that its header names.
//!
//! Whoever has written the image has chosen these names, so a file is opened only if it is in a
//! directory that the operator has allowed. imago opens nothing by itself.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use imago::FormatAccess;
use imago::qcow2::Qcow2;
use imago::raw::Raw;

use super::health::Health;
use super::metadata;
use super::storage::FileStorage;
use crate::blk::backend::file_image::FileImage;
use crate::blk::backend::file_lock::LockError;
use crate::blk::backend::image_error::ImageError;
use crate::log;

/// The most images in a chain of backing files. Each has its own cache of metadata.
pub(super) const MOST_LAYERS: usize = 32;

pub(super) type Layer = FormatAccess<FileStorage>;

/// The files of one disk.
pub(super) struct Layers<'a> {
    /// Directories whose files may be opened, without symbolic links in their names.
    allowed: Vec<PathBuf>,
    direct: bool,
    health: &'a Arc<Health>,
    /// Device and inode of each file that is open.
    open: Vec<(u64, u64)>,
    /// The offset alignment that all files need, in bytes.
    pub(super) alignment: u32,
}

impl<'a> Layers<'a> {
    pub(super) fn new(allow: &[PathBuf], direct: bool, health: &'a Arc<Health>) -> Result<Self, ImageError> {
        let canonical = |dir: &PathBuf| match dir.canonicalize() {
            Ok(path) => Ok(path),
            Err(error) => Err(ImageError::AllowedDirectory { path: dir.clone(), error }),
        };
        let allowed = allow.iter().map(canonical).collect::<Result<_, _>>()?;
        Ok(Self { allowed, direct, health, open: Vec::new(), alignment: 1 })
    }

    /// How many files were opened.
    pub(super) fn files(&self) -> usize {
        self.open.len()
    }

    /// Opens the qcow2 image in this file, which is locked already, and everything below it.
    pub(super) async fn open(&mut self, file: FileImage, path: &Path) -> Result<Layer, ImageError> {
        let fail = |error: io::Error| ImageError::Header { path: path.into(), error };
        let writable = !file.is_read_only();
        metadata::check(&file, path)?;
        self.note(&file, path)?;
        let storage = FileStorage::new(file, path.into(), self.health);
        let mut image = Qcow2::<FileStorage>::open_image(storage, writable).await.map_err(fail)?;
        if image.requires_external_data_file() {
            let name = image.implicit_external_data_file().cloned();
            let name = name.ok_or_else(|| ImageError::NoDataFileName(path.into()))?;
            let (data, data_path) = self.referenced(path, &name, !writable)?;
            self.note(&data, &data_path)?;
            image.set_data_file(Some(FileStorage::new(data, data_path, self.health)));
        } else {
            image.set_data_file(None);
        }
        let backing = match image.implicit_backing_file().cloned() {
            None => None,
            Some(name) => {
                let format = image.implicit_backing_format().cloned();
                // A future of a recursive function has to be on the heap.
                Some(Box::pin(self.open_backing(path, name, format)).await?)
            }
        };
        image.set_backing(backing);
        Ok(FormatAccess::new(image))
    }

    async fn open_backing(
        &mut self,
        above: &Path,
        name: String,
        format: Option<String>,
    ) -> Result<Layer, ImageError> {
        let (file, path) = self.referenced(above, &name, true)?;
        // To guess would let a guest decide, if the backing file was once its raw disk.
        match format.as_deref() {
            Some("qcow2") => self.open(file, &path).await,
            Some("raw" | "file") => {
                self.note(&file, &path)?;
                let storage = FileStorage::new(file, path.clone(), self.health);
                let raw = Raw::open_image(storage, false).await;
                Ok(FormatAccess::new(raw.map_err(|error| ImageError::Header { path, error })?))
            }
            Some(other) => Err(ImageError::BackingFormat { path, format: other.to_owned() }),
            None => Err(ImageError::NoBackingFormat { path, above: above.into() }),
        }
    }

    /// Opens and locks a file that an image names.
    fn referenced(
        &self,
        above: &Path,
        name: &str,
        read_only: bool,
    ) -> Result<(FileImage, PathBuf), ImageError> {
        let refused = |why| ImageError::Reference { above: above.into(), name: name.to_owned(), why };
        // As for QEMU: a colon before the first slash ends the name of a protocol.
        if name.split('/').next().is_some_and(|start| start.contains(':')) {
            return Err(refused("only plain file names are served, without a protocol"));
        }
        if self.allowed.is_empty() {
            return Err(refused("files that an image names are opened only where --allow-backing allows it"));
        }
        if self.open.len() >= MOST_LAYERS {
            return Err(refused("the chain has too many files; shorten it with qemu-img commit or rebase"));
        }
        // An absolute name replaces the directory.
        let path = above.parent().unwrap_or(Path::new("")).join(name);
        let fail = |error| ImageError::Referenced { path: path.clone(), error };
        let real = path.canonicalize().map_err(fail)?;
        if !self.is_allowed(&real) {
            return Err(refused("this is not inside a directory of --allow-backing"));
        }
        let file = FileImage::open(&real, read_only, self.direct)?;
        // The name may lead to another file by now.
        let opened = path_of(file.file()).map_err(fail)?;
        if !self.is_allowed(&opened) {
            return Err(refused("this is not inside a directory of --allow-backing"));
        }
        match file.lock() {
            Ok(()) => {}
            Err(error @ LockError::InUse(_)) => return Err(ImageError::InUse { path: real, error }),
            Err(error @ LockError::Unsupported(_)) => {
                log::line(format_args!(
                    "{}: not locked, make sure that nothing else writes to it: {error}",
                    real.display()
                ));
            }
        }
        Ok((file, real))
    }

    fn is_allowed(&self, real: &Path) -> bool {
        self.allowed.iter().any(|dir| real.starts_with(dir))
    }

    /// Notes a file that is about to be part of the disk. No file is part of it twice.
    fn note(&mut self, file: &FileImage, path: &Path) -> Result<(), ImageError> {
        let fail = |error| ImageError::Referenced { path: path.into(), error };
        let metadata = file.file().metadata().map_err(fail)?;
        let identity = (metadata.dev(), metadata.ino());
        if self.open.contains(&identity) {
            return Err(ImageError::Loop(path.into()));
        }
        self.open.push(identity);
        self.alignment = self.alignment.max(file.direct().map_or(1, |alignment| alignment.offset));
        Ok(())
    }
}

/// The path of an open file, from /proc.
fn path_of(file: &File) -> io::Result<PathBuf> {
    std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

//! The format of an image, and what opens it.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use super::engine::Backend;
use super::file_image::{FileImage, OpenError};
use super::file_lock::LockError;
use crate::blk::device::DeviceConfig;

/// What the content of an image file means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageFormat {
    /// The bytes of the file are those of the disk.
    Raw,
    /// QEMU's format, version 2 or 3. Needs the feature `imago`.
    Qcow2,
    /// What the header says. A file without a known header is raw, which is accepted only for
    /// reading: a guest that can write to a raw disk can write a header to it, and so choose the
    /// format of the next start.
    ///
    /// Use it only for images that were never a guest's raw disk.
    Auto,
}

impl FromStr for ImageFormat {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "raw" => Ok(Self::Raw),
            "qcow2" => Ok(Self::Qcow2),
            "auto" => Ok(Self::Auto),
            _ => Err(format!("{name}: the format of an image is raw, qcow2 or auto")),
        }
    }
}

impl fmt::Display for ImageFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
            Self::Auto => "auto",
        })
    }
}

impl Backend {
    /// Makes the backend of an image, and the device configuration that suits it. `path` is where
    /// `file` was opened, and should be [locked](FileImage::lock).
    ///
    /// Without a `format` the image is raw, and is refused if it has the header of another format.
    /// `allow_backing` is for qcow2 images: the directories whose files they may name as backing
    /// files and data files. Blocks on the disk.
    ///
    /// # Errors
    /// [`ImageError`].
    pub fn open(
        file: FileImage,
        path: &Path,
        format: Option<ImageFormat>,
        allow_backing: &[PathBuf],
    ) -> Result<(Self, DeviceConfig), ImageError> {
        match decide(&file, path, format)? {
            ImageFormat::Qcow2 => open_qcow2(file, path, allow_backing),
            ImageFormat::Raw | ImageFormat::Auto => {
                let config = file.device_config();
                Ok((Self::File(Arc::new(file)), config))
            }
        }
    }
}

/// Returns raw or qcow2.
fn decide(file: &FileImage, path: &Path, wanted: Option<ImageFormat>) -> Result<ImageFormat, ImageError> {
    if wanted == Some(ImageFormat::Raw) {
        return Ok(ImageFormat::Raw);
    }
    let found = file.foreign_format().map_err(|error| ImageError::Header { path: path.into(), error })?;
    match (wanted, found) {
        (Some(ImageFormat::Qcow2 | ImageFormat::Auto), Some("qcow2")) => Ok(ImageFormat::Qcow2),
        (Some(ImageFormat::Qcow2), _) => Err(ImageError::NotQcow2(path.into())),
        (Some(ImageFormat::Auto), None) if !file.is_read_only() => Err(ImageError::Guess(path.into())),
        (_, None) => Ok(ImageFormat::Raw),
        (_, Some(format)) => Err(ImageError::Foreign { path: path.into(), format }),
    }
}

#[cfg(feature = "imago")]
fn open_qcow2(
    file: FileImage,
    path: &Path,
    allow_backing: &[PathBuf],
) -> Result<(Backend, DeviceConfig), ImageError> {
    let image = super::formatted::FormattedImage::open(file, path, allow_backing)?;
    let config = image.device_config();
    Ok((Backend::Formatted(Arc::new(image)), config))
}

#[cfg(not(feature = "imago"))]
fn open_qcow2(_: FileImage, path: &Path, _: &[PathBuf]) -> Result<(Backend, DeviceConfig), ImageError> {
    Err(ImageError::NotBuilt(path.into()))
}

/// Why an image cannot be served in its format.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// Without a format, and the file has the header of another format than raw; or the format was
    /// to be found, and it is one that is not served.
    #[error(
        "{}: this looks like a {format} image, and it is not served as it is; name its format if that is \
         qcow2 (--format qcow2), or convert it (qemu-img convert -O raw). If it is a raw disk to which the \
         guest has written such a header, serve it with --format raw", .path.display()
    )]
    Foreign {
        /// The image.
        path: PathBuf,
        /// The name of the format.
        format: &'static str,
    },
    /// The format was to be found, and the file has no known header.
    #[error(
        "{}: there is no header of a known format, and a writable raw image is not guessed, because its \
         guest could choose another format by writing a header; name the format (--format raw)", .0.display()
    )]
    Guess(PathBuf),
    /// The file does not begin as a qcow2 image.
    #[error("{}: this is not a qcow2 image", .0.display())]
    NotQcow2(PathBuf),
    /// The feature `imago` is off.
    #[error(
        "{}: qcow2 images need a server that was built with the cargo feature `imago`; build it so, or \
         convert the image (qemu-img convert -O raw)", .0.display()
    )]
    NotBuilt(PathBuf),
    /// The metadata cannot be read or makes no sense, or has features that are not known.
    #[error("{}: {error}", .path.display())]
    Header {
        /// The file with the metadata.
        path: PathBuf,
        /// What was found.
        error: io::Error,
    },
    /// The metadata made the format driver panic.
    #[error("{}: the metadata is damaged; see qemu-img check", .0.display())]
    Damaged(PathBuf),
    /// The content is encrypted.
    #[error("{}: the image is encrypted, which is not supported; decrypt it with qemu-img convert", .0.display())]
    Encrypted(PathBuf),
    /// The disk in the image is smaller than a block.
    #[error("{}: the disk in this image has no block", .0.display())]
    Empty(PathBuf),
    /// The image keeps its data in another file and does not name it.
    #[error("{}: the image needs a data file and does not name it", .0.display())]
    NoDataFileName(PathBuf),
    /// The image names a file that is not opened.
    #[error("{}: this image names the file {name:?}: {why}", .above.display())]
    Reference {
        /// The image that names it.
        above: PathBuf,
        /// The name in the image.
        name: String,
        /// Why it is not opened.
        why: &'static str,
    },
    /// A file that the image names cannot be found.
    #[error("{}: {error}", .path.display())]
    Referenced {
        /// The file.
        path: PathBuf,
        /// The error of the kernel.
        error: io::Error,
    },
    /// A file that the image names cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A file that the image names is used by another process.
    #[error("{}: the image is in use: {error}", .path.display())]
    InUse {
        /// The file.
        path: PathBuf,
        /// What was found.
        error: LockError,
    },
    /// The image does not say what format its backing file has.
    #[error(
        "{}: {} names it as its backing file without a format, which is not guessed; record it with \
         qemu-img rebase -u -b FILE -F FORMAT", .path.display(), .above.display()
    )]
    NoBackingFormat {
        /// The backing file.
        path: PathBuf,
        /// The image that names it.
        above: PathBuf,
    },
    /// The backing file has a format that is not served.
    #[error("{}: a backing file in the format {format:?} is not supported, only raw and qcow2", .path.display())]
    BackingFormat {
        /// The backing file.
        path: PathBuf,
        /// The format that is recorded.
        format: String,
    },
    /// The chain of files comes back to one of them.
    #[error("{}: this file would be part of the disk twice", .0.display())]
    Loop(PathBuf),
    /// A directory of `allow_backing` cannot be found.
    #[error("--allow-backing {}: {error}", .path.display())]
    AllowedDirectory {
        /// The directory.
        path: PathBuf,
        /// The error of the kernel.
        error: io::Error,
    },
}

#[cfg(test)]
mod tests;

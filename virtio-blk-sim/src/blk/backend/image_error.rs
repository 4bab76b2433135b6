//! What can be wrong with an image.

use std::io;
use std::path::PathBuf;

use super::file_image::OpenError;
use super::file_lock::LockError;

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
    /// The file is locked only while queues run, and its metadata is read before that.
    #[error(
        "{}: a qcow2 image has to be locked from the start (not --lock running), because its metadata is kept \
         in memory", .0.display()
    )]
    LockedWhileUsed(PathBuf),
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

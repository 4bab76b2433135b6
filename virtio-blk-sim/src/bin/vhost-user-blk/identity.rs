//! What a disk uses alone: the name of its socket, and its image. Paths do not tell: a link is
//! another path to the same file.

use std::fs::Metadata;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::spec::DiskSpec;

/// A file, by the numbers that the kernel has for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum File {
    Inode {
        device: u64,
        inode: u64,
    },
    /// A block device can have several inodes.
    BlockDevice(u64),
}

impl File {
    fn of(metadata: &Metadata) -> Self {
        match metadata.file_type().is_block_device() {
            true => Self::BlockDevice(metadata.rdev()),
            false => Self::Inode { device: metadata.dev(), inode: metadata.ino() },
        }
    }
}

/// What a disk uses. Two disks must not use the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct Identity {
    /// The directory and the name in it. `None` if the directory does not exist, which the opening
    /// of the disk then says.
    socket: Option<(File, PathBuf)>,
    image: Option<(File, bool)>,
}

impl Identity {
    /// Looks at the files that `spec` names. Blocks as stat(2) does.
    pub(crate) fn of(spec: &DiskSpec) -> Self {
        Self {
            socket: spec.socket.as_deref().and_then(socket),
            image: spec.image.as_deref().and_then(|path| image(path, spec.read_only)),
        }
    }

    /// Returns which part of a disk the other one uses, too. Several disks may have the same image
    /// if all of them are read-only.
    pub(crate) fn shares(&self, other: &Self) -> Option<&'static str> {
        if self.socket.is_some() && self.socket == other.socket {
            return Some("socket");
        }
        match (self.image, other.image) {
            (Some((ours, true)), Some((theirs, true))) if ours == theirs => None,
            (Some((ours, _)), Some((theirs, _))) if ours == theirs => Some("image"),
            _ => None,
        }
    }
}

fn socket(path: &Path) -> Option<(File, PathBuf)> {
    let directory = path.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new("."));
    let metadata = std::fs::metadata(directory).ok()?;
    Some((File::of(&metadata), path.file_name()?.into()))
}

fn image(path: &Path, read_only: bool) -> Option<(File, bool)> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((File::of(&metadata), read_only))
}

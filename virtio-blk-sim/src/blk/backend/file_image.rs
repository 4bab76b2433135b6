//! Opens a disk image: a raw file or a block device.
#![expect(unsafe_code, reason = "statx(2) is not in std, and reports the alignment of O_DIRECT")]

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::aligned_buffer::AlignedBuffer;
use super::file_sync::Syncs;
use crate::blk::device::{DeviceConfig, SECTOR_SIZE};

/// The alignment that a file requires for I/O that bypasses the page cache. Both values are powers
/// of two, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DirectAlignment {
    /// Buffers must start at a multiple of this.
    pub memory: u32,
    /// Offsets and lengths must be multiples of this.
    pub offset: u32,
}

/// An open disk image.
///
/// Opening it takes no lock, and does not look at its content: see [`lock`](Self::lock) and
/// [`foreign_format`](Self::foreign_format).
///
/// If a flush fails, all later writes and flushes fail, until the file is opened again: the next
/// fdatasync(2) would succeed although the data is lost. Reads go on.
#[derive(Debug)]
pub struct FileImage {
    file: File,
    capacity_sectors: u64,
    dropped_bytes: u64,
    read_only: bool,
    direct: Option<DirectAlignment>,
    is_locked_while_used: bool,
    /// The image is locked. The queues of a disk, on several threads, share the lock.
    pub(super) is_locked: Mutex<bool>,
    syncs: Arc<Syncs>,
}

impl FileImage {
    /// Opens a regular file or a block device of at least one sector. `direct` bypasses the page
    /// cache (O_DIRECT).
    ///
    /// The disk has as many whole sectors as the file; with `direct`, as many whole direct I/O
    /// blocks. [`FileImage::dropped_bytes`] returns the size of the remainder. Blocks as open(2)
    /// does.
    pub fn open(path: impl AsRef<Path>, read_only: bool, direct: bool) -> Result<Self, OpenError> {
        let path = path.as_ref();
        let fail = |error| classify(path, read_only, direct, error);
        // Check the kind before opening: opening a FIFO would block, opening a tape would rewind
        // it.
        check_kind(path, &std::fs::metadata(path).map_err(fail)?)?;
        let flags = if direct { libc::O_DIRECT } else { 0 };
        let mut file =
            OpenOptions::new().read(true).write(!read_only).custom_flags(flags).open(path).map_err(fail)?;
        // Check again: the path may refer to another file by now.
        check_kind(path, &file.metadata().map_err(fail)?)?;

        // st_size is 0 for a block device; the position of the end is the size for both.
        let size = file.seek(SeekFrom::End(0)).map_err(fail)?;
        let direct = if direct && size > 0 { Some(direct_alignment(&file).map_err(fail)?) } else { None };
        let unit = direct.map_or(SECTOR_SIZE, |alignment| u64::from(alignment.offset).max(SECTOR_SIZE));
        let dropped_bytes = size % unit;
        if size < unit {
            return Err(OpenError::TooSmall { path: path.into(), size, unit });
        }
        let capacity_sectors = (size - dropped_bytes) / SECTOR_SIZE;
        Ok(Self {
            file,
            capacity_sectors,
            dropped_bytes,
            read_only,
            direct,
            is_locked_while_used: false,
            is_locked: Mutex::new(false),
            syncs: Arc::default(),
        })
    }

    /// Returns the current size of the file in whole sectors (whole direct I/O blocks): the value
    /// that [`capacity_sectors`](Self::capacity_sectors) would have after opening it again.
    ///
    /// # Errors
    /// `InvalidData` if the file is smaller than one block by now, and errors of lseek(2).
    pub fn current_sectors(&self) -> io::Result<u64> {
        // Moving the file position is harmless: all I/O passes explicit offsets.
        let size = (&self.file).seek(SeekFrom::End(0))?;
        let unit = self.direct.map_or(SECTOR_SIZE, |alignment| u64::from(alignment.offset).max(SECTOR_SIZE));
        if size < unit {
            let why = format!("{size} bytes are less than one block of {unit}");
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        Ok((size - size % unit) / SECTOR_SIZE)
    }

    /// Makes the file `sectors` sectors long. What is added reads as zeros. Blocks as ftruncate(2)
    /// does. The disk still has to be told: [`BlockDevice::resize`].
    ///
    /// [`BlockDevice::resize`]: crate::blk::device::BlockDevice::resize
    ///
    /// # Errors
    /// `InvalidInput` if the file is larger than that, or if this is not a whole number of direct
    /// I/O blocks; `Unsupported` for a block device and for an image that was opened for reading;
    /// and errors of ftruncate(2).
    pub fn grow(&self, sectors: u64) -> io::Result<()> {
        let refuse = |kind, why: &str| Err(io::Error::new(kind, why));
        if self.read_only {
            return refuse(io::ErrorKind::Unsupported, "the image is read-only");
        }
        let metadata = self.file.metadata()?;
        if !metadata.is_file() {
            return refuse(io::ErrorKind::Unsupported, "only a regular file can be made larger");
        }
        let block = self.direct.map_or(SECTOR_SIZE, |alignment| u64::from(alignment.offset));
        let bytes = sectors.checked_mul(SECTOR_SIZE).filter(|bytes| *bytes <= i64::MAX as u64);
        let Some(bytes) = bytes.filter(|bytes| bytes.is_multiple_of(block)) else {
            return refuse(io::ErrorKind::InvalidInput, "this is not a size of whole blocks of a file");
        };
        if bytes < metadata.len() {
            return refuse(io::ErrorKind::InvalidInput, "the image is larger than that, and is not cut");
        }
        self.file.set_len(bytes)
    }

    /// Calls `hook` with the error of the first flush that fails, on the thread that finds out.
    /// From then on the image counts as failed. Only the first hook is kept. A panic of it is
    /// caught. It must not block.
    pub fn on_failure(&self, hook: impl Fn(&io::Error) + Send + Sync + 'static) {
        self.syncs.on_failure(Box::new(hook));
    }

    /// Returns true once a flush has failed, so that writes and flushes fail.
    pub fn has_failed(&self) -> bool {
        self.syncs.has_failed()
    }

    /// Returns the size of the disk in sectors, as it was when the image was opened.
    pub fn capacity_sectors(&self) -> u64 {
        self.capacity_sectors
    }

    /// Returns the number of bytes at the end of the file that do not fill a sector (or direct I/O
    /// block). They are not part of the disk.
    pub fn dropped_bytes(&self) -> u64 {
        self.dropped_bytes
    }

    /// Returns whether the image was opened for reading only.
    pub fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// Lets the disk lock the image while its queues run, and only then: a queue that starts takes
    /// requests once the image is locked, and the lock ends when the last queue has been stopped
    /// ([`Device::idle`](crate::queue::Device::idle)). So a disk can wait for another process that
    /// still uses the image, such as the source of a live migration. Without this, call
    /// [`lock`](Self::lock).
    #[must_use]
    pub fn locked_while_used(self) -> Self {
        Self { is_locked_while_used: true, ..self }
    }

    /// Returns true after [`locked_while_used`](Self::locked_while_used).
    pub fn is_locked_while_used(&self) -> bool {
        self.is_locked_while_used
    }

    /// Returns the alignment that direct I/O needs; `None` if the page cache is used.
    pub fn direct(&self) -> Option<DirectAlignment> {
        self.direct
    }

    /// Returns a device configuration for this image: its size, its read-only state, and a suitable
    /// block size.
    pub fn device_config(&self) -> DeviceConfig {
        let block = self.direct.map_or(0, |alignment| alignment.offset).max(SECTOR_SIZE as u32);
        DeviceConfig {
            read_only: self.read_only,
            logical_block_size: block,
            request_alignment: block,
            // File systems and disks work in pages, even if they report smaller sectors.
            physical_block_size: block.max(4096),
            ..DeviceConfig::new(self.capacity_sectors)
        }
    }

    /// Makes an image of any file, for tests of I/O errors.
    #[cfg(test)]
    pub(super) fn from_parts(file: File, capacity_sectors: u64, direct: Option<DirectAlignment>) -> Self {
        Self {
            file,
            capacity_sectors,
            dropped_bytes: 0,
            read_only: false,
            direct,
            is_locked_while_used: false,
            is_locked: Mutex::new(false),
            syncs: Arc::default(),
        }
    }

    /// The flushes of this file, from all queues.
    pub(super) fn syncs(&self) -> &Arc<Syncs> {
        &self.syncs
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }
}

impl AsFd for FileImage {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn check_kind(path: &Path, metadata: &std::fs::Metadata) -> Result<(), OpenError> {
    let kind = metadata.file_type();
    if kind.is_dir() {
        Err(OpenError::Directory(path.into()))
    } else if kind.is_file() || kind.is_block_device() {
        Ok(())
    } else {
        Err(OpenError::NotADisk(path.into()))
    }
}

fn classify(path: &Path, read_only: bool, direct: bool, error: io::Error) -> OpenError {
    let path = path.into();
    match error.raw_os_error() {
        Some(libc::ENOENT) => OpenError::NotFound(path),
        Some(libc::EACCES | libc::EPERM | libc::EROFS | libc::ETXTBSY) if !read_only => {
            OpenError::NotWritable { path, error }
        }
        Some(libc::EINVAL | libc::EOPNOTSUPP) if direct => OpenError::NoDirect(path),
        _ => OpenError::Io { path, error },
    }
}

/// Reads the alignment from statx(2) (Linux 6.1, not all file systems), or finds it by trying
/// reads. EOPNOTSUPP if direct I/O does not work on the file.
fn direct_alignment(file: &File) -> io::Result<DirectAlignment> {
    // SAFETY: statx consists of plain integers, for which zero is valid.
    let mut stat: libc::statx = unsafe { std::mem::zeroed() };
    // SAFETY: the descriptor is open during the call (`file` is borrowed), the path is a C string,
    // and `stat` is a valid place to write to.
    let result = unsafe {
        libc::statx(file.as_raw_fd(), c"".as_ptr(), libc::AT_EMPTY_PATH, libc::STATX_DIOALIGN, &mut stat)
    };
    if result == 0 && stat.stx_mask & libc::STATX_DIOALIGN != 0 {
        let found = DirectAlignment { memory: stat.stx_dio_mem_align, offset: stat.stx_dio_offset_align };
        // 0 means that direct I/O does not work on this file.
        let usable = found.memory.is_power_of_two() && found.offset.is_power_of_two();
        return if usable { Ok(found) } else { Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP)) };
    }
    for size in [512, 1024, 2048, 4096] {
        let mut buffer = AlignedBuffer::new(size, size);
        match file.read_at(buffer.bytes_mut(), 0) {
            Ok(_) => {
                return Ok(DirectAlignment { memory: size as u32, offset: size as u32 });
            }
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP))
}

/// Why a disk image cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// No such file.
    #[error("{}: no such file; create it, for example with `truncate -s 1G`", .0.display())]
    NotFound(PathBuf),
    /// The path is a directory.
    #[error("{}: this is a directory; name a disk image or a block device", .0.display())]
    Directory(PathBuf),
    /// The path is a character device, a pipe or a socket.
    #[error("{}: this is neither a regular file nor a block device", .0.display())]
    NotADisk(PathBuf),
    /// The file cannot be opened for writing.
    #[error("{}: cannot be written ({error}); open it read-only or change its permissions", .path.display())]
    NotWritable {
        /// The image.
        path: PathBuf,
        /// The error of open(2).
        error: io::Error,
    },
    /// The file is smaller than one block.
    #[error("{}: {size} bytes are less than one block of {unit}; make it larger", .path.display())]
    TooSmall {
        /// The image.
        path: PathBuf,
        /// The required size: one block.
        size: u64,
        /// What is needed.
        unit: u64,
    },
    /// The file system does not support direct I/O.
    #[error("{}: direct I/O does not work on this file; open it without direct I/O", .0.display())]
    NoDirect(PathBuf),
    /// Any other error.
    #[error("{}: {error}", .path.display())]
    Io {
        /// The image.
        path: PathBuf,
        /// The error of the kernel.
        error: io::Error,
    },
}

#[cfg(test)]
mod tests;

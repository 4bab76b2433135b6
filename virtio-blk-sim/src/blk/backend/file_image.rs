//! Opening a disk image: a raw file or a block device.
#![expect(unsafe_code, reason = "statx(2) is not in std, and tells what O_DIRECT needs")]

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::aligned_buffer::AlignedBuffer;
use crate::blk::device::{DeviceConfig, SECTOR_SIZE};

/// What an open file asks of I/O that bypasses the page cache. Both are powers of two, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DirectAlignment {
    /// Buffers start at a multiple of it.
    pub memory: u32,
    /// Offsets and lengths are multiples of it.
    pub offset: u32,
}

/// An open disk image.
///
/// Takes no lock: whoever opens one image twice for writing has the same disk twice.
#[derive(Debug)]
pub struct FileImage {
    file: File,
    capacity_sectors: u64,
    dropped_bytes: u64,
    read_only: bool,
    direct: Option<DirectAlignment>,
}

impl FileImage {
    /// Opens a regular file or a block device of at least one sector. `direct` bypasses the page cache
    /// (O_DIRECT).
    ///
    /// The disk has as many whole sectors (whole direct blocks with `direct`) as the file;
    /// [`FileImage::dropped_bytes`] says what is left over. Blocks as open(2) does.
    pub fn open(path: impl AsRef<Path>, read_only: bool, direct: bool) -> Result<Self, OpenError> {
        let path = path.as_ref();
        let fail = |error| classify(path, read_only, direct, error);
        // Look before opening: to open a FIFO would block, to open a tape would rewind it.
        check_kind(path, &std::fs::metadata(path).map_err(fail)?)?;
        let flags = if direct { libc::O_DIRECT } else { 0 };
        let mut file =
            OpenOptions::new().read(true).write(!read_only).custom_flags(flags).open(path).map_err(fail)?;
        // The name may have been given to something else meanwhile.
        check_kind(path, &file.metadata().map_err(fail)?)?;

        // st_size is 0 for a block device; the end of the file is its size for both.
        let size = file.seek(SeekFrom::End(0)).map_err(fail)?;
        let direct = if direct && size > 0 { Some(direct_alignment(&file).map_err(fail)?) } else { None };
        let unit = direct.map_or(SECTOR_SIZE, |alignment| u64::from(alignment.offset).max(SECTOR_SIZE));
        let dropped_bytes = size % unit;
        if size < unit {
            return Err(OpenError::TooSmall { path: path.into(), size, unit });
        }
        let capacity_sectors = (size - dropped_bytes) / SECTOR_SIZE;
        Ok(Self { file, capacity_sectors, dropped_bytes, read_only, direct })
    }

    /// Size of the file now, in whole sectors (whole direct blocks): what [`capacity_sectors`](Self::capacity_sectors) would be
    /// if it were opened again.
    ///
    /// # Errors
    /// What lseek(2) says.
    pub fn current_sectors(&self) -> io::Result<u64> {
        // Nobody uses the file's position: all I/O names its offset.
        let size = (&self.file).seek(SeekFrom::End(0))?;
        let unit = self.direct.map_or(SECTOR_SIZE, |alignment| u64::from(alignment.offset).max(SECTOR_SIZE));
        Ok((size - size % unit) / SECTOR_SIZE)
    }

    /// Size of the disk in sectors, when it was opened.
    pub fn capacity_sectors(&self) -> u64 {
        self.capacity_sectors
    }

    /// Bytes at the end of the file that are not part of the disk, because they are no whole sector.
    pub fn dropped_bytes(&self) -> u64 {
        self.dropped_bytes
    }

    /// What direct I/O needs; none if the page cache is used.
    pub fn direct(&self) -> Option<DirectAlignment> {
        self.direct
    }

    /// A device for this image: its size, its read-only state, and blocks as the image needs them.
    pub fn device_config(&self) -> DeviceConfig {
        let block = self.direct.map_or(0, |alignment| alignment.offset).max(SECTOR_SIZE as u32);
        DeviceConfig {
            read_only: self.read_only,
            logical_block_size: block,
            request_alignment: block,
            // File systems and disks work in pages, whatever they say about sectors.
            physical_block_size: block.max(4096),
            ..DeviceConfig::new(self.capacity_sectors)
        }
    }

    /// An image of whatever file, for tests of how files fail.
    #[cfg(test)]
    pub(super) fn from_parts(file: File, capacity_sectors: u64, direct: Option<DirectAlignment>) -> Self {
        Self { file, capacity_sectors, dropped_bytes: 0, read_only: false, direct }
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

/// Asks statx(2) (Linux 6.1, not every file system), else finds out by reading. EOPNOTSUPP if there is no
/// direct I/O.
fn direct_alignment(file: &File) -> io::Result<DirectAlignment> {
    // SAFETY: statx is plain integers, for which zero is a value.
    let mut stat: libc::statx = unsafe { std::mem::zeroed() };
    // SAFETY: the fd is open for the call (`file` is borrowed), the path is a C string, `stat` is ours to be
    // written.
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

/// Why a disk image cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// No such file.
    #[error("{}: there is no such file; create it, for example with `truncate -s 1G`", .0.display())]
    NotFound(PathBuf),
    /// A directory.
    #[error("{}: this is a directory; name a disk image or a block device", .0.display())]
    Directory(PathBuf),
    /// A character device, a pipe, a socket.
    #[error("{}: this is neither a regular file nor a block device", .0.display())]
    NotADisk(PathBuf),
    /// May not be written.
    #[error("{}: cannot be written ({error}); open it read-only or change its permissions", .path.display())]
    NotWritable {
        /// The image.
        path: PathBuf,
        /// What open(2) said.
        error: io::Error,
    },
    /// Has not even one sector.
    #[error("{}: {size} bytes are less than one block of {unit}; make it larger", .path.display())]
    TooSmall {
        /// The image.
        path: PathBuf,
        /// Its size in bytes.
        size: u64,
        /// What is needed.
        unit: u64,
    },
    /// Its file system cannot bypass the page cache.
    #[error("{}: direct I/O does not work on this file; use it without", .0.display())]
    NoDirect(PathBuf),
    /// Something else.
    #[error("{}: {error}", .path.display())]
    Io {
        /// The image.
        path: PathBuf,
        /// What the kernel said.
        error: io::Error,
    },
}

#[cfg(test)]
mod tests;

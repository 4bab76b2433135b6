//! The status of a file.
#![expect(unsafe_code, reason = "an all-zero statx(2) buffer")]

use std::fmt;

/// The status of a file, from statx(2): the output of [`Statx`](super::Statx). A plain value, as it
/// was when the operation ran. Fields that the file system does not know are zero.
#[derive(Clone, Copy)]
pub struct FileStatus(libc::statx);

impl FileStatus {
    /// The fields that are asked for. A kernel or a file system fills those that it knows.
    pub(super) const MASK: u32 = libc::STATX_BASIC_STATS | libc::STATX_BTIME | libc::STATX_DIOALIGN;

    pub(super) fn as_mut_ptr(&mut self) -> *mut libc::statx {
        &raw mut self.0
    }

    /// Length in bytes. Zero for a block device.
    pub fn len(&self) -> u64 {
        self.0.stx_size
    }

    /// Returns true if the length is zero.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Type and permissions, as `st_mode` of stat(2).
    pub fn mode(&self) -> u32 {
        self.0.stx_mode.into()
    }

    /// Returns true for a regular file.
    pub fn is_file(&self) -> bool {
        self.mode() & libc::S_IFMT == libc::S_IFREG
    }

    /// Returns true for a directory.
    pub fn is_directory(&self) -> bool {
        self.mode() & libc::S_IFMT == libc::S_IFDIR
    }

    /// Returns true for a block device.
    pub fn is_block_device(&self) -> bool {
        self.mode() & libc::S_IFMT == libc::S_IFBLK
    }

    /// The inode number.
    pub fn inode(&self) -> u64 {
        self.0.stx_ino
    }

    /// How much of the file is allocated, in bytes.
    pub fn allocated(&self) -> u64 {
        self.0.stx_blocks.saturating_mul(512)
    }

    /// The preferred size of I/O, in bytes.
    pub fn block_size(&self) -> u32 {
        self.0.stx_blksize
    }

    /// What direct I/O (O_DIRECT) requires of the memory and of the offset and length, in bytes.
    /// `None` if the kernel does not report it (before Linux 6.1), or direct I/O is not supported.
    pub fn direct_io_alignment(&self) -> Option<(u32, u32)> {
        let (memory, offset) = (self.0.stx_dio_mem_align, self.0.stx_dio_offset_align);
        (self.0.stx_mask & libc::STATX_DIOALIGN != 0 && memory != 0).then_some((memory, offset))
    }

    /// All fields, as the kernel has filled them.
    pub fn as_statx(&self) -> &libc::statx {
        &self.0
    }
}

impl Default for FileStatus {
    /// All zero.
    fn default() -> Self {
        // SAFETY: a struct of integers, for which all-zero is valid.
        Self(unsafe { std::mem::zeroed() })
    }
}

impl fmt::Debug for FileStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileStatus")
            .field("mode", &format_args!("{:o}", self.mode()))
            .field("len", &self.len())
            .field("inode", &self.inode())
            .finish_non_exhaustive()
    }
}

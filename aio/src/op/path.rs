//! Opening a path, closing a descriptor, and the status of a file.
#![expect(unsafe_code, reason = "entries that point to the path and the status that the operation owns")]

use super::Operation;
use super::entry::{Entry, RingId, Sealed};
use super::status::FileStatus;
use io_uring::{opcode, types};
use std::ffi::CString;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Where a relative path begins: everything that has the descriptor of a directory ([`AsFd`]), or
/// [`Cwd`]. An absolute path ignores it. A [`FixedFile`](crate::FixedFile) cannot be one, because
/// it has no descriptor.
pub trait Directory: 'static {
    #[doc(hidden)]
    fn dirfd(&self, sealed: Sealed) -> RawFd;
}

/// The current working directory of the process, at the time when the operation runs (AT_FDCWD).
#[derive(Clone, Copy, Debug, Default)]
pub struct Cwd;

impl Directory for Cwd {
    fn dirfd(&self, _: Sealed) -> RawFd {
        libc::AT_FDCWD
    }
}

impl<D: AsFd + 'static> Directory for D {
    fn dirfd(&self, _: Sealed) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

fn c_string(path: &Path) -> io::Result<CString> {
    let why = |_| io::Error::new(io::ErrorKind::InvalidInput, "a path with a NUL byte");
    CString::new(path.as_os_str().as_bytes()).map_err(why)
}

/// Opens a file, as openat(2). The output is the descriptor, which is close-on-exec, and the
/// directory.
///
/// If nobody takes the descriptor, because the context or the future is dropped, it is closed.
#[derive(Debug)]
pub struct OpenAt<D> {
    directory: D,
    path: CString,
    flags: i32,
    mode: libc::mode_t,
}

impl<D: Directory> OpenAt<D> {
    /// Opens `path`, relative to `directory`. `flags` are those of open(2), such as
    /// `libc::O_RDWR`; `mode` is for a file that is created, and subject to the umask.
    ///
    /// # Errors
    /// `InvalidInput` for a path with a NUL byte.
    pub fn new(directory: D, path: impl AsRef<Path>, flags: i32, mode: u32) -> io::Result<Self> {
        Ok(Self { directory, path: c_string(path.as_ref())?, flags: flags | libc::O_CLOEXEC, mode })
    }
}

// SAFETY: the path is on the heap, and the operation owns it.
unsafe impl<D: Directory> Operation for OpenAt<D> {
    type Output = (io::Result<OwnedFd>, D);

    fn entry(&mut self, _: RingId, sealed: Sealed) -> Entry {
        let open = opcode::OpenAt::new(types::Fd(self.directory.dirfd(sealed)), self.path.as_ptr());
        Entry(open.flags(self.flags).mode(self.mode).build())
    }

    fn complete(self, result: io::Result<u32>, _: Sealed) -> Self::Output {
        (result.map(new_descriptor), self.directory)
    }
}

/// A descriptor that the kernel has just returned.
pub(super) fn new_descriptor(number: u32) -> OwnedFd {
    // SAFETY: the number is the result of an operation that opens a descriptor, used once.
    unsafe { OwnedFd::from_raw_fd(number as RawFd) }
}

/// Closes a descriptor, as close(2), without blocking the loop. The output is the result.
///
/// The descriptor is closed in each case, also if the operation fails, is cancelled, or cannot be
/// started.
#[derive(Debug)]
pub struct Close {
    /// Until the kernel has it.
    descriptor: Option<OwnedFd>,
    number: RawFd,
}

impl Close {
    /// An operation that closes `descriptor`.
    pub fn new(descriptor: impl Into<OwnedFd>) -> Self {
        let descriptor = descriptor.into();
        Self { number: descriptor.as_raw_fd(), descriptor: Some(descriptor) }
    }
}

// SAFETY: the entry points to nothing.
unsafe impl Operation for Close {
    type Output = io::Result<()>;

    fn entry(&mut self, _: RingId, _: Sealed) -> Entry {
        // From now on the kernel closes it. If this operation is dropped without a completion (in a
        // forked child), nobody knows whether it has, and closing a number twice could close
        // another file.
        let number = self.descriptor.take().map_or(-1, IntoRawFd::into_raw_fd);
        Entry(opcode::Close::new(types::Fd(number)).build())
    }

    fn complete(self, result: io::Result<u32>, _: Sealed) -> Self::Output {
        let is_cancelled = |e: &io::Error| e.raw_os_error() == Some(libc::ECANCELED);
        if self.descriptor.is_none() && result.as_ref().is_err_and(is_cancelled) {
            // SAFETY: the operation was not begun, so the descriptor is still open and not owned by
            // anybody else.
            drop(unsafe { OwnedFd::from_raw_fd(self.number) });
        }
        result.map(drop)
    }
}

/// Asks for the status of a file, as statx(2). The output is the [status](FileStatus), and the
/// directory or file.
///
/// ```
/// use aio::op::{Cwd, Statx};
/// # fn main() -> std::io::Result<()> {
/// # let ctx = aio::AioContext::new()?;
/// # if ctx.monitor().kind != aio::MonitorKind::IoUring { return Ok(()); }
/// let (status, Cwd) = ctx.block_on(ctx.perform(Statx::new(Cwd, "/dev", 0)?))?;
/// assert!(status?.is_directory());
/// # Ok(())
/// # }
/// ```
pub struct Statx<D> {
    directory: D,
    path: CString,
    flags: i32,
    status: FileStatus,
}

impl<D: Directory> Statx<D> {
    /// The status of `path`, relative to `directory`. `flags` are those of statx(2), such as
    /// `libc::AT_SYMLINK_NOFOLLOW`.
    ///
    /// # Errors
    /// `InvalidInput` for a path with a NUL byte.
    pub fn new(directory: D, path: impl AsRef<Path>, flags: i32) -> io::Result<Self> {
        let path = c_string(path.as_ref())?;
        Ok(Self { directory, path, flags, status: FileStatus::default() })
    }

    /// The status of an open file (AT_EMPTY_PATH), which need not be a directory.
    pub fn of(file: D) -> Self {
        Self {
            directory: file,
            path: CString::default(),
            flags: libc::AT_EMPTY_PATH,
            status: FileStatus::default(),
        }
    }
}

// SAFETY: the path is on the heap, and the status stays with the operation, which owns both.
unsafe impl<D: Directory> Operation for Statx<D> {
    type Output = (io::Result<FileStatus>, D);

    fn entry(&mut self, _: RingId, sealed: Sealed) -> Entry {
        let directory = types::Fd(self.directory.dirfd(sealed));
        let statx = opcode::Statx::new(directory, self.path.as_ptr(), self.status.as_mut_ptr().cast());
        Entry(statx.flags(self.flags).mask(FileStatus::MASK).build())
    }

    fn complete(self, result: io::Result<u32>, _: Sealed) -> Self::Output {
        (result.map(|_| self.status), self.directory)
    }
}

impl<D> fmt::Debug for Statx<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Statx").field("path", &self.path).field("flags", &self.flags).finish_non_exhaustive()
    }
}

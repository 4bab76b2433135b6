//! Operations of io_uring that own what the kernel needs: files, buffers, addresses.
//!
//! An operation is a value, such as [`ReadAt`]. [`AioContext::start`](crate::AioContext::start)
//! takes it, keeps it until the kernel is done with it, and gives its [`Output`](Operation::Output)
//! to a callback. The output has the result, and returns what the operation owned:
//!
//! ```
//! use aio::op::{ReadAt, WriteAt};
//! # use std::{cell::Cell, rc::Rc};
//! # fn main() -> std::io::Result<()> {
//! # let ctx = aio::AioContext::new()?;
//! # if ctx.monitor().kind != aio::MonitorKind::IoUring { return Ok(()); }
//! # let path = std::env::temp_dir().join(format!("aio-doc-op-{}", std::process::id()));
//! # let options = std::fs::File::options().read(true).write(true).create_new(true).clone();
//! # let file = options.open(&path)?;
//! # let done = Rc::new(Cell::new(false));
//! # let flag = Rc::clone(&done);
//! ctx.start(WriteAt::new(file, "hello", 0), move |ctx, (written, file, _)| {
//!     assert_eq!(written.unwrap(), 5);
//!     let read = ReadAt::new(file, vec![0; 16], 0);
//!     let started = ctx.start(read, move |_, (read, _, buffer)| {
//!         assert_eq!(&buffer[..read.unwrap()], b"hello");
//!         flag.set(true);
//!     });
//!     started.unwrap();
//! })?;
//! while !done.get() {
//!     ctx.poll(true)?;
//! }
//! # std::fs::remove_file(path)?;
//! # Ok(())
//! # }
//! ```
//!
//! | operation | as | output |
//! |---|---|---|
//! | [`ReadAt`], [`WriteAt`] | pread(2), pwrite(2) | bytes; file, buffer |
//! | [`Readv`], [`Writev`] | preadv(2), pwritev(2) | bytes; file, buffers |
//! | [`Fsync`], [`Fallocate`] | fsync(2), fdatasync(2), fallocate(2) | file |
//! | [`OpenAt`], [`Close`] | openat(2), close(2) | descriptor, directory; nothing |
//! | [`Statx`] | statx(2) | [`FileStatus`]; directory or file |
//! | [`Splice`] | splice(2) | bytes; both files |
//! | [`Accept`], [`Connect`] | accept4(2), connect(2) | connection and address, listener; socket |
//! | [`Recv`], [`Send`] | recv(2), send(2) | bytes; socket, buffer |
//! | [`RecvMessage`], [`SendMessage`] | recvmsg(2), sendmsg(2) with SCM_RIGHTS | [`Received`], or bytes; socket, buffer, descriptors that were sent |
//! | [`PollOnce`], [`Timeout`] | poll(2), nanosleep(2) | [`Readiness`](crate::Readiness), file; nothing |
//! | [`AcceptMultishot`], [`RecvMultishot`] | accept4(2), recv(2), again and again | a connection, or a [`LentBuffer`], for each [`Shot`] |
//!
//! # What holds for all of them
//!
//! * They need the io_uring monitor. Each kind says which Linux it needs if that is newer than
//!   5.15; on an older kernel its result is EINVAL.
//! * Home thread. Making one makes no system call. Starting one makes none either: the loop's next
//!   wait submits it, so the loop must turn. An operation that has to wait does so in the kernel,
//!   and the loop goes on. One that need not wait, such as a read from the page cache, may be
//!   carried out inside the call that submits it.
//! * The result is that of the system call: `Ok`, or the error with the number that the man page
//!   names. In addition: ECANCELED for an operation that was
//!   [cancelled](crate::AioContext::cancel), EBADF for a [`FixedFile`](crate::FixedFile) of another
//!   context. Transfers may be short, as those of the system call; [`Part`] is for the rest.
//! * Operations in flight have no order. To have one run after another, start it from the callback
//!   of that one.
//! * On sockets and pipes an operation waits, also if the descriptor is non-blocking. To fail with
//!   EAGAIN instead, pass `libc::MSG_DONTWAIT` to [`Recv`] or [`Send`]. Seen on Linux 6.18; older
//!   kernels may not wait with a non-blocking descriptor, so prefer blocking ones.
#![expect(unsafe_code, reason = "the promise that what an entry points to stays where it is")]

mod address;
mod buffer;
mod control;
mod entry;
mod file;
mod group;
mod message;
mod multishot;
mod path;
mod place;
mod read_write;
mod seat;
mod socket;
mod splice;
mod status;
mod storage;
mod vectored;
mod wait;
mod waiting;

pub use self::address::SocketAddress;
pub use self::buffer::{Part, RegisteredBuffer, StableBuffer, StableBufferMut};
use self::entry::Entry;
pub(crate) use self::entry::{Again, Next, RingId, Sealed};
pub use self::file::RingFile;
pub(crate) use self::file::Target;
pub(crate) use self::group::GroupHome;
pub use self::group::{BufferGroup, LentBuffer};
pub use self::message::{Received, RecvMessage, SendMessage};
pub use self::multishot::{AcceptMultishot, MultishotOperation, RecvMultishot, Shot};
pub use self::path::{Close, Cwd, Directory, OpenAt, Statx};
pub(crate) use self::place::Place;
pub use self::read_write::{ReadAt, WriteAt};
pub use self::socket::{Accept, Connect, Recv, Send};
pub use self::splice::Splice;
pub use self::status::FileStatus;
pub use self::storage::{Fallocate, Fsync};
pub use self::vectored::{Readv, Writev};
pub use self::wait::{PollOnce, Timeout};

use std::io;

/// An operation of the ring that owns its files and buffers.
///
/// The kinds of operations are those of this module; others cannot be added. Start one with
/// [`AioContext::start`](crate::AioContext::start), which takes a callback,
/// [`OperationPool::start`](crate::OperationPool::start), which allocates nothing, or
/// [`AioContext::perform`](crate::AioContext::perform), which returns a future.
///
/// If the operation is cancelled, its output is made all the same, with the error ECANCELED or, if
/// it was too late, with its own result. If the context is dropped, the operation is dropped
/// once the kernel is done with it, and with it all that the kernel has given it, such as an
/// accepted connection.
///
/// # Safety
/// What the entry points to is owned by the operation: it stays valid while the operation is
/// neither moved nor dropped. The entry has no flags that reach beyond the operation.
pub unsafe trait Operation: Sized + 'static {
    /// What the callback gets: the result, and what the operation owned, if that comes back. Each
    /// kind says what is in it.
    type Output: 'static;

    /// The SQE, for this ring. The operation is in its final place. Called once.
    #[doc(hidden)]
    fn entry(&mut self, ring: RingId, sealed: Sealed) -> Entry;

    /// The output, from the result of the CQE or from the reason why there is none.
    #[doc(hidden)]
    fn complete(self, result: io::Result<u32>, sealed: Sealed) -> Self::Output;

    /// The output of an operation that could not be started: `error`, and what the operation owns.
    ///
    /// For those who want one way out instead of two:
    ///
    /// ```
    /// use aio::op::{Operation, ReadAt};
    /// # let error = std::io::Error::from(std::io::ErrorKind::Unsupported);
    /// # let operation = ReadAt::new(std::io::stdin(), vec![0; 16], 0);
    /// let (result, _file, buffer) = operation.refuse(error);
    /// assert!(result.is_err() && buffer.len() == 16);
    /// ```
    fn refuse(self, error: io::Error) -> Self::Output {
        self.complete(Err(error), Sealed(()))
    }
}

//! Operations on a file on behalf of a task: on the ring of its loop, or in the loop's worker
//! threads if it has no ring, or in the calling thread if there is no loop.
#![expect(
    unsafe_code,
    reason = "memory that operations own by a pointer; preadv(2), pwritev(2), fallocate(2)"
)]

use std::any::Any;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Arc;

use aio::op::{Fallocate, Fsync, Readv, StableBuffer, StableBufferMut, Writev};
use tokio::sync::OwnedRwLockReadGuard;

use super::current::current;
use crate::blk::backend::aligned_buffer::AlignedBuffer;
use crate::blk::backend::file_ops::{retry, to_off_t};
use crate::blk::backend::{DirectAlignment, FileImage};
use crate::blk::device::PendingRequest;

/// The file of one operation. An operation owns it until the kernel is done, also if nobody awaits
/// the operation any more.
pub(super) struct Target {
    image: Arc<FileImage>,
    /// Held while the operation may still change the file.
    _changes: Option<OwnedRwLockReadGuard<()>>,
}

impl Target {
    pub(super) fn new(image: &Arc<FileImage>, changes: Option<OwnedRwLockReadGuard<()>>) -> Self {
        Self { image: Arc::clone(image), _changes: changes }
    }
}

impl AsFd for Target {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.image.as_fd()
    }
}

/// Who keeps the memory of a [`Piece`]: a buffer, or a request, whose chain keeps the guest's
/// memory mapped.
type Owner = Arc<dyn Any + Send + Sync>;

/// Contiguous memory that an operation reads or fills, with a share in its owner.
pub(super) struct Piece {
    memory: *mut u8,
    len: usize,
    _owner: Owner,
}

// SAFETY: a Piece gives out its pointer and does not follow it. Its owner is Send and Sync.
unsafe impl Send for Piece {}

// SAFETY: the owner keeps the bytes in place, initialised and mapped. Guest memory has no Rust
// references to it. A buffer is borrowed only by whoever is its sole owner, so when no Piece of it
// exists.
unsafe impl StableBuffer for Piece {
    fn stable_ptr(&self) -> *const u8 {
        self.memory
    }

    fn byte_len(&self) -> usize {
        self.len
    }
}

// SAFETY: as above. Memory of the guest, and buffers, are writable.
unsafe impl StableBufferMut for Piece {
    fn stable_mut_ptr(&mut self) -> *mut u8 {
        self.memory
    }
}

impl Piece {
    /// Whether direct I/O takes it.
    pub(super) fn is_aligned(&self, alignment: DirectAlignment) -> bool {
        let (memory, offset) = (alignment.memory as usize - 1, alignment.offset as usize - 1);
        self.memory.addr() & memory == 0 && self.len & offset == 0
    }
}

/// The next `len` bytes of the data of a read or write as pieces, 1024 at most. Fails if another
/// operation has pieces of the request.
pub(super) fn pieces_of(request: &mut Arc<PendingRequest>, len: u64) -> io::Result<Vec<Piece>> {
    let mut left = usize::try_from(len).unwrap_or(usize::MAX);
    let mut spans = Vec::new();
    for iovec in exclusive(request)?.iovecs() {
        let part = iovec.iov_len.min(left);
        if part == 0 {
            break;
        }
        spans.push((iovec.iov_base.cast(), part));
        left -= part;
    }
    let owner: Owner = Arc::clone(request) as _;
    Ok(spans.into_iter().map(|(memory, len)| Piece { memory, len, _owner: Arc::clone(&owner) }).collect())
}

/// The request, if no operation uses it.
pub(super) fn exclusive(request: &mut Arc<PendingRequest>) -> io::Result<&mut PendingRequest> {
    Arc::get_mut(request).ok_or_else(|| io::ErrorKind::ResourceBusy.into())
}

/// A buffer that is aligned for direct I/O, for whoever cannot use guest memory.
pub(super) struct Buffer {
    bytes: Arc<AlignedBuffer>,
    start: *mut u8,
    len: usize,
}

// SAFETY: the pointer is into the heap memory of `bytes`, which is Send.
unsafe impl Send for Buffer {}

impl Buffer {
    pub(super) fn new(len: usize) -> Self {
        let mut bytes = AlignedBuffer::new(len, 4096);
        let start = bytes.bytes_mut().as_mut_ptr();
        Self { bytes: Arc::new(bytes), start, len }
    }

    /// The bytes. Fails while an operation uses them.
    pub(super) fn bytes_mut(&mut self) -> io::Result<&mut [u8]> {
        let busy = || io::Error::from(io::ErrorKind::ResourceBusy);
        let bytes = Arc::get_mut(&mut self.bytes).ok_or_else(busy)?.bytes_mut();
        self.start = bytes.as_mut_ptr();
        Ok(bytes)
    }

    /// The bytes from `skip` on, as a piece.
    pub(super) fn rest(&self, skip: usize) -> Piece {
        let skip = skip.min(self.len);
        let (memory, len) = (self.start.wrapping_add(skip), self.len - skip);
        Piece { memory, len, _owner: Arc::clone(&self.bytes) as _ }
    }
}

/// Reads as preadv(2): possibly less than all, 0 at the end of the file.
pub(super) async fn read(file: Target, pieces: Vec<Piece>, offset: u64) -> io::Result<usize> {
    transfer(file, pieces, offset, false).await
}

/// Writes as pwritev(2): possibly less than all.
pub(super) async fn write(file: Target, pieces: Vec<Piece>, offset: u64) -> io::Result<usize> {
    transfer(file, pieces, offset, true).await
}

async fn transfer(file: Target, pieces: Vec<Piece>, offset: u64, is_write: bool) -> io::Result<usize> {
    let Some(local) = current() else { return transfer_now(&file, &pieces, offset, is_write) };
    let (file, pieces) = if local.monitor().ring.is_none() {
        (file, pieces)
    } else {
        let (result, file, pieces) = if is_write {
            local.perform(Writev::new(file, pieces, offset)).await
        } else {
            local.perform(Readv::new(file, pieces, offset)).await
        };
        match result {
            // Not carried out: a worker thread waits for as long as it takes.
            Err(error) if is_transient(&error) => (file, pieces),
            result => return result,
        }
    };
    let work = move || transfer_now(&file, &pieces, offset, is_write);
    local.blocking(work).await.map_err(io::Error::from)?
}

/// Writes the data of the file to its device, as fdatasync(2).
pub(super) async fn sync(file: Target) -> io::Result<()> {
    let Some(local) = current() else { return file.image.file().sync_data() };
    let file = if local.monitor().ring.is_none() {
        file
    } else {
        let (result, file) = local.perform(Fsync::data(file)).await;
        match result {
            Err(error) if is_transient(&error) => file,
            result => return result,
        }
    };
    local.blocking(move || file.image.file().sync_data()).await.map_err(io::Error::from)?
}

/// As fallocate(2).
pub(super) async fn allocate(file: Target, mode: i32, offset: u64, len: u64) -> io::Result<()> {
    let Some(local) = current() else { return allocate_now(&file, mode, offset, len) };
    let file = if local.monitor().ring.is_none() {
        file
    } else {
        let (result, file) = local.perform(Fallocate::new(file, mode, offset, len)).await;
        match result {
            Err(error) if is_transient(&error) => file,
            result => return result,
        }
    };
    local.blocking(move || allocate_now(&file, mode, offset, len)).await.map_err(io::Error::from)?
}

/// Changes the size, as ftruncate(2), for which Linux has no operation before 6.9.
pub(super) async fn set_len(file: Target, len: u64) -> io::Result<()> {
    let work = move || file.image.file().set_len(len);
    match current() {
        None => work(),
        Some(local) => local.blocking(work).await.map_err(io::Error::from)?,
    }
}

fn is_transient(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN))
}

fn transfer_now(file: &Target, pieces: &[Piece], offset: u64, is_write: bool) -> io::Result<usize> {
    let iovec = |piece: &Piece| libc::iovec { iov_base: piece.memory.cast(), iov_len: piece.len };
    let iovecs: Vec<libc::iovec> = pieces.iter().map(iovec).collect();
    let (fd, array, count) = (file.as_fd().as_raw_fd(), iovecs.as_ptr(), iovecs.len() as libc::c_int);
    let offset = to_off_t(offset)?;
    retry(|| {
        if is_write {
            // SAFETY: the array is borrowed here, and its entries are those of pieces, which keep
            // their memory valid.
            unsafe { libc::pwritev(fd, array, count, offset) }
        } else {
            // SAFETY: as above; no reference to the memory exists (see `StableBufferMut`).
            unsafe { libc::preadv(fd, array, count, offset) }
        }
    })
}

fn allocate_now(file: &Target, mode: i32, offset: u64, len: u64) -> io::Result<()> {
    let (fd, offset, len) = (file.as_fd().as_raw_fd(), to_off_t(offset)?, to_off_t(len)?);
    // SAFETY: passes no memory, and the descriptor is open during the call.
    retry(|| unsafe { libc::fallocate(fd, mode, offset, len) } as isize).map(drop)
}

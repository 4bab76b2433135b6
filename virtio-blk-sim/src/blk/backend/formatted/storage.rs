//! A file as imago sees it: its `Storage`.
//!
//! Metadata, compressed clusters and what is copied from a backing file go through a buffer that
//! the operation owns, so that a request can be dropped while the kernel works on it. The data of a
//! guest does not: see [`FileStorage::read_guest`].
#![expect(unsafe_code, reason = "the trait has unsafe methods, whose callers have checked the alignment")]

use std::fmt;
use std::io::{self, Seek, SeekFrom};
use std::path::PathBuf;
use std::sync::Arc;

use imago::io_buffers::{IoVector, IoVectorMut};
use imago::storage::PreallocateMode;
use imago::storage::drivers::CommonStorageHelper;
use imago::{Storage, StorageExt};
use tokio::sync::{OwnedRwLockReadGuard, RwLock};

use super::file_io::{self, Buffer, Piece, Target, exclusive, pieces_of};
use super::health::Health;
use crate::blk::backend::FileImage;
use crate::blk::backend::file_ops::{DISCARD_MODE, is_unsupported};
use crate::blk::device::PendingRequest;

/// Bytes copied at a time when the guest's buffers are not aligned for direct I/O.
const BOUNCE_LEN: u64 = 256 << 10;

/// One of the files of an image.
#[derive(Debug)]
pub(super) struct FileStorage {
    image: Arc<FileImage>,
    path: PathBuf,
    health: Arc<Health>,
    helper: CommonStorageHelper,
    /// Operations that change the file hold it for reading until the kernel is done with them, also
    /// if they are not awaited any more. Who has it for writing knows that no such operation is
    /// left.
    changes: Arc<RwLock<()>>,
}

impl FileStorage {
    pub(super) fn new(image: FileImage, path: PathBuf, health: &Arc<Health>) -> Self {
        Self {
            image: Arc::new(image),
            path,
            health: Arc::clone(health),
            helper: CommonStorageHelper::default(),
            changes: Arc::default(),
        }
    }

    fn reading(&self) -> io::Result<Target> {
        #[cfg(test)]
        super::tests::panics::panic_if_armed();
        self.health.check_read()?;
        Ok(Target::new(&self.image, None))
    }

    async fn changing(&self) -> io::Result<Target> {
        let guard: OwnedRwLockReadGuard<()> = Arc::clone(&self.changes).read_owned().await;
        #[cfg(test)]
        super::tests::panics::panic_if_armed();
        self.health.check_change()?;
        Ok(Target::new(&self.image, Some(guard)))
    }

    async fn fill(&self, buffer: &Buffer, len: usize, offset: u64) -> io::Result<()> {
        let mut done = 0;
        while done < len {
            let at = end_of(offset, done as u64)?;
            match file_io::read(self.reading()?, vec![buffer.rest(done)], at).await? {
                // The rest of the buffer is zeros, as new.
                0 => break,
                bytes => done += bytes,
            }
        }
        Ok(())
    }

    async fn store(&self, buffer: &Buffer, len: usize, offset: u64) -> io::Result<()> {
        let mut done = 0;
        while done < len {
            let at = end_of(offset, done as u64)?;
            match file_io::write(self.changing().await?, vec![buffer.rest(done)], at).await? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                bytes => done += bytes,
            }
        }
        Ok(())
    }

    async fn zero(&self, mode: i32, offset: u64, len: u64) -> io::Result<()> {
        if len == 0 {
            return Ok(()); // fallocate(2) would fail with EINVAL
        }
        let result = file_io::allocate(self.changing().await?, mode, offset, len).await;
        // With this kind imago writes zeros, or leaves a discarded range as it is.
        let unsupported = |error: io::Error| match is_unsupported(&error) {
            true => io::Error::from(io::ErrorKind::Unsupported),
            false => error,
        };
        result.map_err(unsupported)
    }

    /// Reads `len` bytes at `offset` of the file into the next of a request's data. What lies
    /// behind the end of the file reads as zeros.
    ///
    /// The kernel fills the guest's memory, unless direct I/O needs another alignment, which costs
    /// one copy.
    pub(super) async fn read_guest(
        &self,
        request: &mut Arc<PendingRequest>,
        offset: u64,
        len: u64,
    ) -> io::Result<()> {
        let mut done = 0;
        while done < len {
            let (at, left) = (end_of(offset, done)?, len - done);
            let pieces = pieces_of(request, left)?;
            let moved = if self.suits(&pieces, at) {
                let moved = file_io::read(self.reading()?, pieces, at).await? as u64;
                exclusive(request)?.advance(moved);
                moved
            } else {
                drop(pieces);
                let mut bytes = vec![0; left.min(BOUNCE_LEN) as usize];
                self.read(&mut bytes[..], at).await?;
                exclusive(request)?.put_data(&bytes) as u64
            };
            if moved == 0 {
                return put_zeros(exclusive(request)?, left);
            }
            done += moved;
        }
        Ok(())
    }

    /// Writes the next `len` bytes of a request's data at `offset` of the file. Copies as
    /// [`read_guest`](Self::read_guest) does.
    pub(super) async fn write_guest(
        &self,
        request: &mut Arc<PendingRequest>,
        offset: u64,
        len: u64,
    ) -> io::Result<()> {
        let mut done = 0;
        while done < len {
            let (at, left) = (end_of(offset, done)?, len - done);
            let pieces = pieces_of(request, left)?;
            let moved = if self.suits(&pieces, at) {
                // Holds up writes that read around their edges, as imago does for its own.
                let _writing = self.weak_write_blocker(at..end_of(at, left)?).await;
                let moved = file_io::write(self.changing().await?, pieces, at).await? as u64;
                exclusive(request)?.advance(moved);
                moved
            } else {
                drop(pieces);
                let mut bytes = vec![0; left.min(BOUNCE_LEN) as usize];
                let taken = exclusive(request)?.take_data(&mut bytes);
                self.write(bytes.get(..taken).unwrap_or_default(), at).await?;
                taken as u64
            };
            if moved == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            done += moved;
        }
        Ok(())
    }

    /// Whether the kernel takes these pieces at this offset.
    fn suits(&self, pieces: &[Piece], offset: u64) -> bool {
        let Some(alignment) = self.image.direct() else { return true };
        offset.is_multiple_of(alignment.offset.into())
            && pieces.iter().all(|piece| piece.is_aligned(alignment))
    }
}

/// Answers the next `len` bytes of a read with zeros.
pub(super) fn put_zeros(request: &mut PendingRequest, len: u64) -> io::Result<()> {
    static ZEROS: [u8; 4096] = [0; 4096];
    let mut left = len;
    while left > 0 {
        let part = left.min(ZEROS.len() as u64) as usize;
        match request.put_data(ZEROS.get(..part).unwrap_or(&ZEROS)) {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            bytes => left -= bytes as u64,
        }
    }
    Ok(())
}

fn end_of(offset: u64, len: u64) -> io::Result<u64> {
    offset.checked_add(len).ok_or_else(|| io::Error::from_raw_os_error(libc::EOVERFLOW))
}

impl Storage for FileStorage {
    fn mem_align(&self) -> usize {
        self.image.direct().map_or(1, |alignment| alignment.memory as usize)
    }

    fn req_align(&self) -> usize {
        self.image.direct().map_or(1, |alignment| alignment.offset as usize)
    }

    fn size(&self) -> io::Result<u64> {
        // Moving the file position is harmless: all I/O passes explicit offsets.
        self.image.file().seek(SeekFrom::End(0))
    }

    fn get_filename(&self) -> Option<PathBuf> {
        Some(self.path.clone())
    }

    async unsafe fn pure_readv(&self, mut bufv: IoVectorMut<'_>, offset: u64) -> io::Result<()> {
        let len = usize::try_from(bufv.len()).map_err(|_| io::ErrorKind::OutOfMemory)?;
        let mut buffer = Buffer::new(len);
        self.fill(&buffer, len, offset).await?;
        bufv.copy_from_slice(buffer.bytes_mut()?);
        Ok(())
    }

    async unsafe fn pure_writev(&self, bufv: IoVector<'_>, offset: u64) -> io::Result<()> {
        let len = usize::try_from(bufv.len()).map_err(|_| io::ErrorKind::OutOfMemory)?;
        let mut buffer = Buffer::new(len);
        bufv.copy_into_slice(buffer.bytes_mut()?);
        self.store(&buffer, len, offset).await
    }

    async unsafe fn pure_write_zeroes(&self, offset: u64, length: u64) -> io::Result<()> {
        self.zero(libc::FALLOC_FL_ZERO_RANGE, offset, length).await
    }

    async unsafe fn pure_write_allocated_zeroes(&self, offset: u64, length: u64) -> io::Result<()> {
        self.zero(libc::FALLOC_FL_ZERO_RANGE, offset, length).await
    }

    async unsafe fn pure_discard(&self, offset: u64, length: u64) -> io::Result<()> {
        self.zero(DISCARD_MODE, offset, length).await
    }

    async fn flush(&self) -> io::Result<()> {
        Ok(()) // nothing is kept here
    }

    async fn sync(&self) -> io::Result<()> {
        if self.image.is_read_only() {
            return Ok(());
        }
        self.health.check_change()?;
        #[cfg(test)]
        super::tests::closing::note_sync();
        let result = file_io::sync(Target::new(&self.image, None)).await;
        result.inspect_err(|error| self.health.lost(error))
    }

    async fn settle_writes(&self) -> io::Result<()> {
        drop(self.changes.write().await);
        Ok(())
    }

    async unsafe fn invalidate_cache(&self) -> io::Result<()> {
        Ok(())
    }

    fn get_storage_helper(&self) -> &CommonStorageHelper {
        &self.helper
    }

    async fn resize(&self, new_size: u64, mode: PreallocateMode) -> io::Result<()> {
        match mode {
            PreallocateMode::None | PreallocateMode::Zero => {
                file_io::set_len(self.changing().await?, new_size).await
            }
            _ => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}

impl fmt::Display for FileStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())
    }
}

//! Carries out a request on a file with blocking calls. Used by pool threads, and for operations
//! that a ring cannot do.
#![expect(unsafe_code, reason = "preadv(2), pwritev(2) on guest memory and fallocate(2) are not in std")]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::FileExt;

use super::aligned_buffer::AlignedBuffer;
use super::file_image::{DirectAlignment, FileImage};
use crate::blk::device::{FinishedRequest, Operation, PendingRequest, SectorRange};

/// The fallocate(2) mode for a discard: free the space, keep the file size.
pub const DISCARD_MODE: i32 = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;

/// The fallocate(2) mode for zeroing without freeing the space.
const ZERO_MODE: i32 = libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE;

/// Bytes copied at a time when the guest's buffers are not aligned for direct I/O.
const BOUNCE_LEN: u64 = 256 << 10;

/// Returns the fallocate(2) modes to try for write zeroes, in order. If none [is
/// supported](is_unsupported), write zeros as data.
pub fn write_zeroes_modes(unmap: bool) -> &'static [i32] {
    if unmap { &[DISCARD_MODE, ZERO_MODE] } else { &[ZERO_MODE] }
}

/// Returns true if fallocate(2) failed because the file does not support the operation, and not
/// because of an I/O error. A block device returns EINVAL if the range is not a multiple of its
/// block size.
pub fn is_unsupported(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::EINVAL | libc::ENODEV))
}

impl FileImage {
    /// Carries the request out. Blocks the calling thread until the disk is done.
    ///
    /// A flush does not wait for others that overlap with it, as the flushes of an
    /// [`Engine`](super::Engine) do. One of those may get the error that concerns this one as well.
    pub fn execute(&self, mut request: PendingRequest) -> FinishedRequest {
        let result = match self.syncs().check(request.operation()) {
            Ok(()) => self.carry_out(&mut request),
            Err(error) => Err(error),
        };
        request.finish(result)
    }

    fn carry_out(&self, request: &mut PendingRequest) -> io::Result<()> {
        match request.operation() {
            Operation::In { .. } => self.transfer_all(request),
            &Operation::Out { durable, .. } => {
                self.transfer_all(request).and_then(|()| self.sync_if(durable))
            }
            Operation::Flush => self.sync_if(true),
            Operation::Discard(ranges) => ranges.iter().try_for_each(|range| discard(self.file(), range)),
            Operation::WriteZeroes { ranges, durable } => ranges
                .iter()
                .try_for_each(|range| write_zeroes(self.file(), range))
                .and_then(|()| self.sync_if(*durable)),
        }
    }

    /// Returns true if the rest of the request's data can be passed to the kernel in place. Only
    /// direct I/O has requirements. A request that does not meet them goes through
    /// [`FileImage::execute`], which copies the data.
    pub fn suits(&self, request: &mut PendingRequest) -> bool {
        let Some(DirectAlignment { memory, offset }) = self.direct() else {
            return true;
        };
        let (memory, offset) = (memory as usize - 1, offset as usize - 1);
        request
            .iovecs()
            .iter()
            .all(|iovec| iovec.iov_base.addr() & memory == 0 && iovec.iov_len & offset == 0)
    }

    fn sync_if(&self, durable: bool) -> io::Result<()> {
        if !durable {
            return Ok(());
        }
        let sync = self.syncs().begin();
        let result = self.file().sync_data();
        sync.end_of_write(&result);
        // Another flush may have failed meanwhile.
        result.and_then(|()| self.syncs().check(&Operation::Flush))
    }

    fn transfer_all(&self, request: &mut PendingRequest) -> io::Result<()> {
        if !self.suits(request) {
            return bounce_all(self.file(), request);
        }
        // Each iteration moves at least one byte, and the request is bounded.
        while request.remaining() > 0 {
            let moved = transfer(self.file(), request)?;
            if moved == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            request.advance(moved as u64);
        }
        Ok(())
    }
}

/// Makes one preadv(2) or pwritev(2) call for the rest of an In or Out request. Returns the number
/// of bytes moved, which may be less than requested.
fn transfer(file: &File, request: &mut PendingRequest) -> io::Result<usize> {
    let write = match request.operation() {
        Operation::In { .. } => false,
        Operation::Out { .. } => true,
        Operation::Flush | Operation::Discard(_) | Operation::WriteZeroes { .. } => return Ok(0),
    };
    let offset = to_off_t(request.offset())?;
    let iovecs = request.iovecs();
    let (fd, array) = (file.as_fd().as_raw_fd(), iovecs.as_ptr());
    let count = iovecs.len() as libc::c_int; // at most 1024
    retry(|| {
        if write {
            // SAFETY: the array is borrowed from the request. The request owns the chain, which
            // keeps its memory mapped.
            unsafe { libc::pwritev(fd, array, count, offset) }
        } else {
            // SAFETY: as above. The segments of an In request are device-writable guest memory, to
            // which there are no Rust references.
            unsafe { libc::preadv(fd, array, count, offset) }
        }
    })
}

/// Like a loop of [`transfer`], but through a buffer that is aligned for direct I/O.
fn bounce_all(file: &File, request: &mut PendingRequest) -> io::Result<()> {
    let len = request.remaining().min(BOUNCE_LEN) as usize;
    let mut buffer = AlignedBuffer::new(len, 4096);
    while request.remaining() > 0 {
        let offset = request.offset();
        let want = request.remaining().min(len as u64) as usize;
        let Some(part) = buffer.bytes_mut().get_mut(..want) else {
            break;
        };
        if matches!(request.operation(), Operation::Out { .. }) {
            request.take_data(part);
            file.write_all_at(part, offset)?;
        } else {
            file.read_exact_at(part, offset)?;
            request.put_data(part);
        }
    }
    Ok(())
}

/// Frees the space of the range. Discard is only a hint, so a file that does not support it is not
/// an error.
fn discard(file: &File, range: &SectorRange) -> io::Result<()> {
    match fallocate(file, DISCARD_MODE, range) {
        Err(error) if is_unsupported(&error) => Ok(()),
        result => result,
    }
}

fn write_zeroes(file: &File, range: &SectorRange) -> io::Result<()> {
    for &mode in write_zeroes_modes(range.unmap) {
        match fallocate(file, mode, range) {
            Err(error) if is_unsupported(&error) => {}
            result => return result,
        }
    }
    write_zeros(file, range)
}

/// Writes zeros as data, which works on every file.
fn write_zeros(file: &File, range: &SectorRange) -> io::Result<()> {
    // Page aligned, for direct I/O.
    #[repr(align(4096))]
    struct Zeros([u8; 64 << 10]);
    static ZEROS: Zeros = Zeros([0; 64 << 10]);

    let end = range.offset() + range.len_bytes();
    let mut at = range.offset();
    while at < end {
        let len = (end - at).min(ZEROS.0.len() as u64);
        file.write_all_at(ZEROS.0.get(..len as usize).unwrap_or(&ZEROS.0), at)?;
        at += len;
    }
    Ok(())
}

fn fallocate(file: &File, mode: i32, range: &SectorRange) -> io::Result<()> {
    if range.sectors == 0 {
        return Ok(()); // fallocate(2) would fail with EINVAL
    }
    let (offset, len) = (to_off_t(range.offset())?, to_off_t(range.len_bytes())?);
    let fd = file.as_fd().as_raw_fd();
    // SAFETY: passes no memory, and the descriptor is open during the call (`file` is borrowed).
    retry(|| unsafe { libc::fallocate(fd, mode, offset, len) } as isize).map(drop)
}

pub(super) fn to_off_t(bytes: u64) -> io::Result<libc::off_t> {
    libc::off_t::try_from(bytes).map_err(|_| io::Error::from_raw_os_error(libc::EOVERFLOW))
}

/// Repeats the call while it is interrupted by a signal.
pub(super) fn retry(mut call: impl FnMut() -> isize) -> io::Result<usize> {
    loop {
        match usize::try_from(call()) {
            Ok(result) => return Ok(result),
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;

//! A request carried out on a file with calls that block: for a thread of its own, and for what a ring cannot
//! do.
#![expect(unsafe_code, reason = "preadv(2), pwritev(2) on guest memory and fallocate(2) are not in std")]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::FileExt;

use super::aligned_buffer::AlignedBuffer;
use super::file_image::{DirectAlignment, FileImage};
use crate::blk::device::{FinishedRequest, Operation, PendingRequest, SectorRange};

/// The fallocate(2) mode for a discard: give the space back, keep the size.
pub const DISCARD_MODE: i32 = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;

/// Zeros that the file system makes by itself, without giving the space back.
const ZERO_MODE: i32 = libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE;

/// Bytes copied at a time where the guest's buffers do not suit direct I/O.
const BOUNCE_LEN: u64 = 256 << 10;

/// The fallocate(2) modes to try for write zeroes, in order. Where none [is supported](is_unsupported), write
/// zeros.
pub fn write_zeroes_modes(unmap: bool) -> &'static [i32] {
    if unmap { &[DISCARD_MODE, ZERO_MODE] } else { &[ZERO_MODE] }
}

/// True if fallocate(2) failed because this file cannot do that, rather than because it went wrong. A block
/// device says EINVAL where the range is no multiple of its block.
pub fn is_unsupported(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::EINVAL | libc::ENODEV))
}

impl FileImage {
    /// Carries the request out. Blocks the calling thread for as long as the disk takes.
    pub fn execute(&self, mut request: PendingRequest) -> FinishedRequest {
        let result = match request.operation() {
            Operation::In { .. } => self.transfer_all(&mut request),
            &Operation::Out { durable, .. } => {
                self.transfer_all(&mut request).and_then(|()| self.sync_if(durable))
            }
            Operation::Flush => self.file().sync_data(),
            Operation::Discard(ranges) => ranges.iter().try_for_each(|range| discard(self.file(), range)),
            Operation::WriteZeroes { ranges, durable } => ranges
                .iter()
                .try_for_each(|range| write_zeroes(self.file(), range))
                .and_then(|()| self.sync_if(*durable)),
        };
        request.finish(result)
    }

    /// True if the rest of the request's data can be given to the kernel where it is. Only direct I/O asks
    /// for something; what does not suit it goes through [`FileImage::execute`], which copies.
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
        if durable { self.file().sync_data() } else { Ok(()) }
    }

    fn transfer_all(&self, request: &mut PendingRequest) -> io::Result<()> {
        if !self.suits(request) {
            return bounce_all(self.file(), request);
        }
        // Each round moves at least a byte of a bounded request.
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

/// One preadv(2) or pwritev(2) of the rest of an In or an Out. Returns how many bytes it moved, which may be
/// few.
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
            // SAFETY: the array is borrowed from the request, which owns the chain that keeps its memory
            // mapped.
            unsafe { libc::pwritev(fd, array, count, offset) }
        } else {
            // SAFETY: as above; the segments of an In are device-writable guest memory, to which Rust has no
            // reference.
            unsafe { libc::preadv(fd, array, count, offset) }
        }
    })
}

/// As a loop of [`transfer`], through a buffer that direct I/O takes.
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

/// Gives the range back to the file system. Discard is a hint: where that cannot be done, nothing needs to
/// be.
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

/// Writes zeros as data; what works on every file.
fn write_zeros(file: &File, range: &SectorRange) -> io::Result<()> {
    // In pages, as direct I/O asks for.
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
        return Ok(()); // fallocate(2): EINVAL
    }
    let (offset, len) = (to_off_t(range.offset())?, to_off_t(range.len_bytes())?);
    let fd = file.as_fd().as_raw_fd();
    // SAFETY: no memory is passed, and the fd is open for the call (`file` is borrowed).
    retry(|| unsafe { libc::fallocate(fd, mode, offset, len) } as isize).map(drop)
}

fn to_off_t(bytes: u64) -> io::Result<libc::off_t> {
    libc::off_t::try_from(bytes).map_err(|_| io::Error::from_raw_os_error(libc::EOVERFLOW))
}

/// Calls again for as long as a signal comes between.
fn retry(mut call: impl FnMut() -> isize) -> io::Result<usize> {
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

//! A RAM disk.

use std::collections::TryReserveError;
use std::io;
use std::ops::Range;

use crate::blk::device::{FinishedRequest, Operation, PendingRequest, SECTOR_SIZE, SectorRange};

/// A disk in this process's memory. Its content counts as stable at once, so flushes and durable
/// writes cost nothing extra. Discarded sectors read as zeros.
pub struct Memory {
    disk: Vec<u8>,
}

impl Memory {
    /// Creates a disk of zeros. All memory is allocated and touched here, so that no request pays
    /// for a page fault.
    pub fn new(capacity_sectors: u64) -> Result<Self, TryReserveError> {
        // If the size does not fit, use usize::MAX, for which the reservation fails.
        let len = capacity_sectors.checked_mul(SECTOR_SIZE).and_then(|len| usize::try_from(len).ok());
        let len = len.unwrap_or(usize::MAX);
        let mut disk = Vec::new();
        disk.try_reserve_exact(len)?;
        disk.resize(len, 0);
        Ok(Self { disk })
    }

    /// Returns the size of the disk in sectors.
    pub fn capacity_sectors(&self) -> u64 {
        self.disk.len() as u64 / SECTOR_SIZE
    }

    /// Returns the content of the disk.
    pub fn content(&self) -> &[u8] {
        &self.disk
    }

    /// Returns the content of the disk for writing, so that tests can set it up or corrupt it.
    pub fn content_mut(&mut self) -> &mut [u8] {
        &mut self.disk
    }

    /// Carries the request out. Does not block.
    pub fn execute(&mut self, mut request: PendingRequest) -> FinishedRequest {
        let result = match request.operation() {
            Operation::In { .. } => {
                let bytes = byte_range(request.offset(), request.remaining());
                // `finish` reports an error if less was transferred than requested.
                request.put_data(self.disk.get(bytes).unwrap_or_default());
                Ok(())
            }
            Operation::Out { .. } => {
                let bytes = byte_range(request.offset(), request.remaining());
                request.take_data(self.disk.get_mut(bytes).unwrap_or_default());
                Ok(())
            }
            Operation::Flush => Ok(()),
            Operation::Discard(ranges) | Operation::WriteZeroes { ranges, .. } => {
                ranges.iter().try_for_each(|range| self.zero(range))
            }
        };
        request.finish(result)
    }

    fn zero(&mut self, range: &SectorRange) -> io::Result<()> {
        let bytes = self.disk.get_mut(byte_range(range.offset(), range.len_bytes()));
        bytes.ok_or(io::ErrorKind::UnexpectedEof)?.fill(0);
        Ok(())
    }
}

/// Returns the byte range as indices, or an empty range past the end if they do not fit.
fn byte_range(offset: u64, len: u64) -> Range<usize> {
    let end = offset.checked_add(len).and_then(|end| usize::try_from(end).ok());
    match (usize::try_from(offset), end) {
        (Ok(start), Some(end)) => start..end,
        _ => usize::MAX..usize::MAX,
    }
}

impl std::fmt::Debug for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Memory").field("capacity_sectors", &self.capacity_sectors()).finish_non_exhaustive()
    }
}

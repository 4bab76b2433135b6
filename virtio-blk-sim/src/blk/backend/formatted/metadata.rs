//! Checks a qcow2 image before imago gets it (docs/interop/qcow2.txt of QEMU).
//!
//! imago 0.2 believes the reference counts. If those of the header are missing it allocates the
//! header to something else, and without a first block of counts it calls itself until the stack is
//! full, which would end the process. If one block of counts stands for many parts of the file, it
//! searches for a free cluster in it again and again. So the counts of a writable image are looked
//! at here: each block is used once and lies in the file, and the clusters of the header, of the
//! table of mappings and of the table of counts are in use.

use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::blk::backend::aligned_buffer::AlignedBuffer;
use crate::blk::backend::file_image::FileImage;
use crate::blk::backend::image_error::ImageError;

/// More than direct I/O requires.
const BLOCK: u64 = 4096;
/// Bytes of the header that are looked at: version 2 has 72, version 3 has 104.
const HEADER_LEN: usize = 104;
/// The largest table of reference counts that QEMU and imago take, in bytes.
const LARGEST_TABLE: u64 = 8 << 20;
/// The bits of an entry that are an offset.
const OFFSET: u64 = 0xffff_ffff_ffff_fe00;

/// Refuses an encrypted image, of which imago would not notice it, and a writable one whose
/// reference counts are damaged.
pub(super) fn check(file: &FileImage, path: &Path) -> Result<(), ImageError> {
    let fail = |error| ImageError::Header { path: path.into(), error };
    let bytes = read(file, 0, HEADER_LEN).map_err(fail)?;
    let header = Header { bytes: &bytes };
    if header.u32(32) != 0 {
        return Err(ImageError::Encrypted(path.into()));
    }
    if file.is_read_only() { Ok(()) } else { check_counts(file, &header).map_err(fail) }
}

/// The fields of a header, by their offset. What is missing is 0.
struct Header<'a> {
    bytes: &'a [u8],
}

impl Header<'_> {
    fn u32(&self, offset: usize) -> u32 {
        self.field(offset).map_or(0, u32::from_be_bytes)
    }

    fn u64(&self, offset: usize) -> u64 {
        self.field(offset).map_or(0, u64::from_be_bytes)
    }

    fn field<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.bytes.get(offset..)?.first_chunk().copied()
    }
}

/// Where the reference counts are.
struct Counts<'a> {
    file: &'a FileImage,
    /// The offsets of the blocks; 0 for one that does not exist.
    blocks: Vec<u64>,
    cluster_bits: u32,
    /// A count has 2^order bits.
    order: u32,
}

fn check_counts(file: &FileImage, header: &Header<'_>) -> io::Result<()> {
    let (version, cluster_bits) = (header.u32(4), header.u32(20));
    // imago reports these.
    if !matches!(version, 2 | 3) || !(9..=21).contains(&cluster_bits) {
        return Ok(());
    }
    let order = if version == 2 { 4 } else { header.u32(96) };
    if order > 6 {
        return Ok(());
    }
    let table = header.u64(48);
    let table_len = u64::from(header.u32(56)) << cluster_bits;
    if table_len == 0 || table_len > LARGEST_TABLE {
        return Err(damaged("the table of reference counts has an invalid size"));
    }
    let file_len = file.file().seek(SeekFrom::End(0))?;
    let entries = read(file, table, table_len as usize)?;
    let entries = entries.chunks_exact(8).filter_map(|entry| entry.first_chunk().copied());
    let blocks: Vec<u64> = entries.map(|entry| u64::from_be_bytes(entry) & OFFSET).collect();
    let mut used: Vec<u64> = blocks.iter().copied().filter(|offset| *offset != 0).collect();
    used.sort_unstable();
    let is_twice = |pair: &[u64]| matches!(pair, [first, second] if first == second);
    if used.windows(2).any(is_twice) {
        return Err(damaged("a block of reference counts is used twice"));
    }
    if used.last().is_some_and(|last| *last >= file_len) {
        return Err(damaged("a block of reference counts is behind the end of the file"));
    }
    let counts = Counts { file, blocks, cluster_bits, order };
    let mapping_len = u64::from(header.u32(36)).saturating_mul(8);
    counts.check_in_use(0, 1, "the header")?;
    counts.check_in_use(table, table_len, "the table of reference counts")?;
    counts.check_in_use(header.u64(40), mapping_len, "the table of mappings")
}

impl Counts<'_> {
    /// Fails if one of the clusters of these bytes counts as free.
    fn check_in_use(&self, offset: u64, len: u64, what: &str) -> io::Result<()> {
        if len == 0 {
            return Ok(());
        }
        let last = offset.checked_add(len - 1).ok_or_else(|| damaged("an offset is out of range"))?;
        if len > 4 * LARGEST_TABLE {
            return Err(damaged("a table is too large"));
        }
        for cluster in offset >> self.cluster_bits..=last >> self.cluster_bits {
            if !self.is_in_use(cluster)? {
                return Err(damaged(&format!("the reference count of {what} is 0")));
            }
        }
        Ok(())
    }

    fn is_in_use(&self, cluster: u64) -> io::Result<bool> {
        // Counts in a block, as a power of two.
        let block_bits = self.cluster_bits + 3 - self.order;
        let index = usize::try_from(cluster >> block_bits).unwrap_or(usize::MAX);
        let Some(block) = self.blocks.get(index).filter(|block| **block != 0) else { return Ok(false) };
        let bit = (cluster & ((1 << block_bits) - 1)) << self.order;
        let bytes = read(self.file, block + bit / 8, (1_usize << self.order).div_ceil(8))?;
        // Counts of less than a byte begin at the least significant bit.
        let mask = if self.order < 3 { ((1_u8 << (1 << self.order)) - 1) << (bit % 8) } else { 0xff };
        Ok(bytes.iter().any(|byte| byte & mask != 0))
    }
}

fn damaged(what: &str) -> io::Error {
    let why = format!("{what}; it can be opened for reading, or repaired with qemu-img check -r all");
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// Reads from a file that may be open for direct I/O. Bytes behind its end are zeros.
fn read(file: &FileImage, offset: u64, len: usize) -> io::Result<Vec<u8>> {
    let skip = offset % BLOCK;
    let blocks = (skip + len as u64).next_multiple_of(BLOCK) as usize;
    let mut buffer = AlignedBuffer::new(blocks, BLOCK as usize);
    let bytes = buffer.bytes_mut();
    let mut done = 0;
    while let Some(rest) = bytes.get_mut(done..).filter(|rest| !rest.is_empty()) {
        let at = (offset - skip).checked_add(done as u64).ok_or(io::ErrorKind::InvalidData)?;
        match file.file().read_at(rest, at) {
            // Direct I/O returns part of a block only at the end.
            Ok(count) if count > 0 && (count as u64).is_multiple_of(BLOCK) => done += count,
            Ok(_) => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(bytes.get(skip as usize..).and_then(|tail| tail.get(..len)).unwrap_or_default().to_vec())
}

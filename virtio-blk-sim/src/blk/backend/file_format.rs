//! Recognizes images that are not raw. Served as they are, such a file is a disk of nonsense to the
//! guest, and what the guest writes destroys it.

use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::FileExt;

use super::aligned_buffer::AlignedBuffer;
use super::file_image::FileImage;

/// Bytes read at each end, at a multiple of it: more than direct I/O requires.
const BLOCK: u64 = 4096;

/// What stands at an offset from the beginning, and in which format.
///
/// LUKS is not among them: a guest may encrypt the whole of its disk.
const HEADERS: &[(usize, &[u8], &str)] = &[
    (0, b"QFI\xfb", "qcow2"),
    (0, b"QED\0", "QED"),
    (0, b"KDMV", "VMDK"),
    (0, b"COWD", "VMDK"),
    (0, b"# Disk DescriptorFile", "VMDK"),
    (0, b"vhdxfile", "VHDX"),
    (0, b"conectix", "VHD"),
    (64, b"\x7f\x10\xda\xbe", "VDI"),
    (0, b"WithoutFreeSpace", "Parallels"),
    (0, b"WithouFreSpacExt", "Parallels"),
    (0, b"Bochs Virtual HD Image", "Bochs"),
    (0, b"#!/bin/sh\n#V2.0 Format\n", "cloop"),
];

/// What stands at the beginning of the last 512 bytes.
const FOOTERS: &[(&[u8], &str)] = &[(b"conectix", "VHD"), (b"koly", "DMG")];
const FOOTER_LEN: u64 = 512;

impl FileImage {
    /// Returns the name of the format, if the file has the header or the footer of an image that is
    /// not raw. A guest can write such a header to a raw disk, too.
    ///
    /// # Errors
    /// Errors of lseek(2) and pread(2).
    pub fn foreign_format(&self) -> io::Result<Option<&'static str>> {
        let mut buffer = AlignedBuffer::new(2 * BLOCK as usize, BLOCK as usize);
        let head = self.read_some(&mut buffer, 0)?;
        let is_at = |offset, magic: &[u8]| head.get(offset..).is_some_and(|tail| tail.starts_with(magic));
        if let Some((.., name)) = HEADERS.iter().find(|(offset, magic, _)| is_at(*offset, magic)) {
            return Ok(Some(name));
        }
        // Moving the file position is harmless: all I/O passes explicit offsets.
        let size = self.file().seek(SeekFrom::End(0))?;
        let footer = size.saturating_sub(FOOTER_LEN);
        let block = footer - footer % BLOCK;
        let tail = self.read_some(&mut buffer, block)?;
        let tail = tail.get((footer - block) as usize..).unwrap_or_default();
        Ok(FOOTERS.iter().find(|(magic, _)| tail.starts_with(magic)).map(|(_, name)| *name))
    }

    fn read_some<'a>(&self, buffer: &'a mut AlignedBuffer, offset: u64) -> io::Result<&'a [u8]> {
        let bytes = buffer.bytes_mut();
        let len = self.file().read_at(bytes, offset)?;
        Ok(bytes.get(..len).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests;

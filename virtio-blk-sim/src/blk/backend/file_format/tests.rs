use super::*;
use crate::blk::backend::tests::{TempFile, open_direct};

/// Returns the format of a file of 64 KiB with these bytes in it, opened with and without O_DIRECT.
fn format_of(at: usize, bytes: &[u8]) -> Option<&'static str> {
    let mut content = vec![0; 64 << 10];
    content[at..at + bytes.len()].copy_from_slice(bytes);
    let file = TempFile::with(&content);
    let found = FileImage::open(file.path(), true, false).unwrap().foreign_format().unwrap();
    if let Some(direct) = open_direct(&file) {
        assert_eq!(direct.foreign_format().unwrap(), found);
    }
    found
}

#[test]
fn formats_are_recognized() {
    for (at, magic, name) in HEADERS {
        assert_eq!(format_of(*at, magic), Some(*name));
        assert_eq!(format_of(at + 512, magic), None, "{name} in another sector");
        let mut other = magic.to_vec();
        *other.last_mut().unwrap() ^= 0xff;
        assert_eq!(format_of(*at, &other), None, "a part of the header of {name}");
    }
    for (magic, name) in FOOTERS {
        assert_eq!(format_of((64 << 10) - 512, magic), Some(*name));
    }
}

#[test]
fn raw_disks_are_raw() {
    assert_eq!(format_of(0, &[]), None);
    // A master boot record, a GPT, an ext4 superblock, LUKS.
    assert_eq!(format_of(510, &[0x55, 0xaa]), None);
    assert_eq!(format_of(512, b"EFI PART"), None);
    assert_eq!(format_of(1080, &[0x53, 0xef]), None);
    assert_eq!(format_of(0, b"LUKS\xba\xbe"), None);
    // Files with fewer bytes than the tables look at.
    for size in [512, 513, 600, 1024] {
        let file = TempFile::with(&vec![0; size]);
        assert_eq!(FileImage::open(file.path(), true, false).unwrap().foreign_format().unwrap(), None);
    }
}

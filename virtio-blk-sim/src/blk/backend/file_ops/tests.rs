use std::fs::OpenOptions;
use std::os::fd::FromRawFd;
use std::os::unix::fs::MetadataExt;

use virtio_bindings::virtio_blk as vb;

use super::*;
use crate::blk::backend::tests::{TempFile, open_direct};
use crate::blk::device::DeviceConfig;
use crate::blk::device::test_rig::{BACKGROUND, Posted, Rig, disk_content, range};

const BLOCK: u64 = 4096;

fn image(file: &TempFile) -> FileImage {
    FileImage::open(file.path(), false, false).unwrap()
}

fn write(sector: u64, data: &[u8]) -> Posted {
    Posted::request(vb::VIRTIO_BLK_T_OUT, sector).readable(data).status()
}

fn read(sector: u64, len: usize) -> Posted {
    Posted::request(vb::VIRTIO_BLK_T_IN, sector).writable(len).status()
}

fn sectors(sector: u64, sectors: u32, unmap: bool) -> SectorRange {
    SectorRange { sector, sectors, unmap }
}

/// A file in memory. It supports punching holes, but not zeroing a range (shmem_fallocate in
/// mm/shmem.c).
fn memfd(content: &[u8]) -> File {
    // SAFETY: the name is a C string.
    let fd = unsafe { libc::memfd_create(c"disk".as_ptr(), libc::MFD_CLOEXEC) };
    assert!(fd >= 0, "{}", io::Error::last_os_error());
    // SAFETY: the descriptor is new and has no other owner.
    let file = unsafe { File::from_raw_fd(fd) };
    file.write_all_at(content, 0).unwrap();
    file
}

fn content(file: &File, len: usize) -> Vec<u8> {
    let mut bytes = vec![0xee; len];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

#[test]
fn a_discard_gives_the_space_back() {
    let file = TempFile::with(&disk_content(64));
    let image = image(&file);
    let before = image.file().metadata().unwrap().blocks();
    let mut rig = Rig::new(image.device_config());
    let posted = Posted::request(vb::VIRTIO_BLK_T_DISCARD, 0).readable(&range(16, 32, 0)).status();
    assert_eq!(rig.run(&posted, |request| image.execute(request)).status(), Some(0));
    let metadata = image.file().metadata().unwrap();
    assert_eq!(metadata.len(), 64 * 512);
    if file.content()[16 * 512..48 * 512].iter().all(|&byte| byte == 0) {
        assert_eq!(metadata.blocks(), before - 32, "a hole uses no blocks");
    } else {
        eprintln!("skipped: the temporary directory's file system cannot punch holes");
    }
}

/// All ways of writing zeros must have the same result, also those that this file system would not
/// need.
#[test]
fn zeros_are_written_as_data_where_fallocate_cannot_zero() {
    let mut expected = disk_content(300);
    expected[512..200 * 512].fill(0);
    // Longer than one write, and not a multiple of it.
    let zeroed = sectors(1, 199, false);

    let plain = TempFile::with(&disk_content(300));
    write_zeros(image(&plain).file(), &zeroed).unwrap();
    assert!(plain.content() == expected);

    let file = memfd(&disk_content(300));
    assert_eq!(fallocate(&file, ZERO_MODE, &zeroed).unwrap_err().raw_os_error(), Some(libc::EOPNOTSUPP));
    write_zeroes(&file, &zeroed).unwrap();
    assert!(content(&file, 300 * 512) == expected);

    let file = memfd(&disk_content(300));
    let allocated = file.metadata().unwrap().blocks();
    write_zeroes(&file, &sectors(1, 199, true)).unwrap();
    assert!(content(&file, 300 * 512) == expected);
    assert!(file.metadata().unwrap().blocks() < allocated, "unmap punches a hole");
}

#[test]
fn ranges_of_no_sectors_do_nothing() {
    let file = memfd(&disk_content(8));
    // fallocate(2) itself would return EINVAL.
    fallocate(&file, DISCARD_MODE, &sectors(3, 0, false)).unwrap();
    discard(&file, &sectors(3, 0, false)).unwrap();
    write_zeroes(&file, &sectors(3, 0, true)).unwrap();
    write_zeroes(&file, &sectors(3, 0, false)).unwrap();
    assert!(content(&file, 4096) == disk_content(8));
}

/// `/dev/full` fails every write with ENOSPC and does not support fallocate(2).
#[test]
fn a_full_disk_is_an_io_error() {
    let full = || OpenOptions::new().read(true).write(true).open("/dev/full").unwrap();
    let image = FileImage::from_parts(full(), 64, None);
    let mut rig = Rig::new(DeviceConfig::new(64));
    let zero = Posted::request(vb::VIRTIO_BLK_T_WRITE_ZEROES, 0).readable(&range(0, 8, 0)).status();
    for posted in [write(0, &[1; 512]), zero] {
        let answer = rig.run(&posted, |request| image.execute(request));
        assert_eq!((answer.status(), answer.written, answer.error), (Some(1), 1, None));
    }
    let error = write_zeroes(&full(), &sectors(0, 8, false)).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
    // Discard is a hint, so being unable to follow it is not an error.
    let hint = Posted::request(vb::VIRTIO_BLK_T_DISCARD, 0).readable(&range(0, 8, 0)).status();
    assert_eq!(rig.run(&hint, |request| image.execute(request)).status(), Some(0));
}

/// The image was truncated while it was open.
#[test]
fn requests_beyond_the_end_of_a_truncated_image_fail() {
    let file = TempFile::with(&disk_content(64));
    let image = image(&file);
    let mut rig = Rig::new(image.device_config());
    image.file().set_len(10 * 512 + 100).unwrap();
    let answer = rig.run(&read(20, 512), |request| image.execute(request));
    assert_eq!((answer.status(), answer.written), (Some(1), 1));
    assert_eq!(answer.data(), [BACKGROUND; 512]);
    // Across the new end: a short transfer, then no data.
    let answer = rig.run(&read(9, 1024), |request| image.execute(request));
    assert_eq!((answer.status(), answer.written), (Some(1), 512 + 100 + 1));
    assert_eq!(answer.data()[..612], disk_content(64)[9 * 512..10 * 512 + 100]);
    assert_eq!(answer.data()[612..], [BACKGROUND; 412]);
}

#[test]
fn errors_of_the_file_become_a_status() {
    let file = TempFile::with(&disk_content(64));
    // The file is opened read-only, but the device does not know.
    let image = FileImage::from_parts(File::open(file.path()).unwrap(), 64, None);
    let mut rig = Rig::new(DeviceConfig::new(64));
    let posted = write(0, &[1; 512]);
    assert_eq!(rig.run(&posted, |request| image.execute(request)).status(), Some(1));
    assert!(file.content() == disk_content(64));
}

#[test]
fn durable_writes_and_flushes_reach_the_file() {
    let file = TempFile::with(&disk_content(64));
    let image = image(&file);
    let mut rig = Rig::new(image.device_config());
    rig.device.write_config(32, &[0]);
    let zero = Posted::request(vb::VIRTIO_BLK_T_WRITE_ZEROES, 0).readable(&range(8, 8, 1)).status();
    for posted in [write(3, &[9; 1024]), zero, Posted::request(vb::VIRTIO_BLK_T_FLUSH, 0).status()] {
        assert_eq!(rig.run(&posted, |request| image.execute(request)).status(), Some(0));
    }
    let mut expected = disk_content(64);
    expected[3 * 512..5 * 512].fill(9);
    expected[8 * 512..16 * 512].fill(0);
    assert!(file.content() == expected);
}

/// `/dev/zero` accepts writes but not fdatasync(2) (EINVAL), so a durable write must fail.
#[test]
fn a_sync_that_fails_fails_the_write() {
    let device = OpenOptions::new().read(true).write(true).open("/dev/zero").unwrap();
    let image = FileImage::from_parts(device, 64, None);
    let mut rig = Rig::new(DeviceConfig::new(64));
    for write_through in [false, true] {
        rig.device.write_config(32, &[u8::from(!write_through)]);
        let zero = Posted::request(vb::VIRTIO_BLK_T_WRITE_ZEROES, 0).readable(&range(0, 8, 0)).status();
        for posted in [write(0, &[1; 512]), zero] {
            let answer = rig.run(&posted, |request| image.execute(request));
            assert_eq!(answer.status(), Some(u8::from(write_through)));
        }
    }
}

#[test]
fn direct_io_takes_aligned_buffers_as_they_are_and_copies_others() {
    let file = TempFile::with(&disk_content(1024));
    let Some(image) = open_direct(&file) else { return };
    let mut rig = Rig::new(image.device_config());
    rig.align_buffers(BLOCK);
    // Longer than one bounce buffer.
    let data: Vec<u8> = (0..300 * 1024).map(|at| (at % 199) as u8).collect();
    let mut suited = Vec::new();
    let mut execute = |mut request: PendingRequest| {
        suited.push(image.suits(&mut request));
        image.execute(request)
    };
    let two =
        Posted::request(vb::VIRTIO_BLK_T_OUT, 8).readable(&data[..8192]).readable(&data[8192..]).status();
    // The first part is aligned; the second ends at an unaligned position.
    let three = Posted::request(vb::VIRTIO_BLK_T_OUT, 8)
        .readable(&data[..8192])
        .readable(&data[8192..9192])
        .readable(&data[9192..])
        .status();
    for posted in [write(8, &data), two, three] {
        assert_eq!(rig.run(&posted, &mut execute).status(), Some(0));
        assert!(file.content()[8 * 512..8 * 512 + data.len()] == data);
        let answer = rig.run(&read(8, data.len()), &mut execute);
        assert_eq!((answer.status(), answer.written as usize), (Some(0), data.len() + 1));
        assert!(answer.data() == data);
    }
    assert_eq!(suited, [true, true, true, true, false, true]);

    // Write zeroes and discard need no guest buffer.
    for kind in [vb::VIRTIO_BLK_T_WRITE_ZEROES, vb::VIRTIO_BLK_T_DISCARD] {
        let posted = Posted::request(kind, 0).readable(&range(8, 8, 0)).status();
        assert_eq!(rig.run(&posted, |request| image.execute(request)).status(), Some(0));
    }
    write_zeros(image.file(), &sectors(16, 8, false)).unwrap();
    assert!(file.content()[8 * 512..24 * 512] == [0; 16 * 512]);
}

#[test]
fn buffered_io_takes_any_buffer() {
    let file = TempFile::with(&disk_content(64));
    let image = image(&file);
    let mut rig = Rig::new(image.device_config());
    let answer = rig.run(&read(1, 1024), |mut request| {
        assert!(image.suits(&mut request));
        image.execute(request)
    });
    assert!(answer.data() == &disk_content(64)[512..1536]);
}

#[test]
fn aligned_buffers_are_aligned() {
    for align in [1, 8, 512, 4096] {
        for len in [0, 1, 4096, 10000] {
            let mut buffer = AlignedBuffer::new(len, align);
            assert_eq!((buffer.bytes_mut().len(), buffer.bytes_mut().as_ptr().addr() % align), (len, 0));
        }
    }
}

use std::os::unix::net::UnixListener;

use super::*;
use crate::blk::backend::tests::{TempFile, open_direct};
use crate::blk::device::BlockDevice;

fn open(path: impl AsRef<Path>) -> Result<FileImage, OpenError> {
    FileImage::open(path, false, false)
}

/// Returns the error message, with the path replaced by IMAGE.
fn sentence(error: &OpenError, file: &TempFile) -> String {
    error.to_string().replace(&*file.path().to_string_lossy(), "IMAGE")
}

#[test]
fn an_image_is_as_large_as_its_file() {
    let file = TempFile::with(&[1; 4096]);
    let image = open(file.path()).unwrap();
    assert_eq!((image.capacity_sectors(), image.dropped_bytes(), image.direct()), (8, 0, None));
    let config = image.device_config();
    assert_eq!((config.capacity_sectors, config.read_only, config.request_alignment), (8, false, 512));
    BlockDevice::new(config).unwrap();
    assert!(FileImage::open(file.path(), true, false).unwrap().device_config().read_only);
}

#[test]
fn bytes_after_the_last_sector_are_reported() {
    for (size, sectors, dropped) in [(513, 1, 1), (1023, 1, 511), (1024, 2, 0), (5000, 9, 392)] {
        let image = open(TempFile::with(&vec![1; size]).path()).unwrap();
        assert_eq!((image.capacity_sectors(), image.dropped_bytes()), (sectors, dropped), "{size} bytes");
    }
}

#[test]
fn an_image_grows_and_is_never_cut() {
    let file = TempFile::with(&[1; 1000]);
    let image = open(file.path()).unwrap();
    image.grow(4).unwrap();
    assert_eq!(image.current_sectors().unwrap(), 4);
    let content = std::fs::read(file.path()).unwrap();
    assert_eq!(content, [vec![1; 1000], vec![0; 1048]].concat());
    // The size that it has is no change.
    image.grow(4).unwrap();
    for sectors in [3, u64::MAX, 1 << 54] {
        assert_eq!(image.grow(sectors).unwrap_err().kind(), io::ErrorKind::InvalidInput, "{sectors}");
        assert_eq!(image.current_sectors().unwrap(), 4);
    }
    let image = FileImage::open(file.path(), true, false).unwrap();
    assert_eq!(image.grow(8).unwrap_err().kind(), io::ErrorKind::Unsupported);
}

#[test]
fn a_file_without_a_sector_is_refused() {
    for size in [0, 1, 511] {
        let file = TempFile::with(&vec![1; size]);
        let error = open(file.path()).unwrap_err();
        assert_eq!(
            sentence(&error, &file),
            format!("IMAGE: {size} bytes are less than one block of 512; make it larger")
        );
    }
}

#[test]
fn a_missing_file_is_named() {
    let file = TempFile::new();
    let error = open(file.path()).unwrap_err();
    assert!(matches!(error, OpenError::NotFound(_)));
    assert_eq!(sentence(&error, &file), "IMAGE: no such file; create it, for example with `truncate -s 1G`");
    assert!(!file.path().exists(), "opening must not create the file");
}

#[test]
fn files_that_are_not_disks_are_refused() {
    for read_only in [false, true] {
        for direct in [false, true] {
            let open = |path: &str| FileImage::open(path, read_only, direct);
            assert!(matches!(open("/"), Err(OpenError::Directory(_))));
            assert!(matches!(open("/dev/null"), Err(OpenError::NotADisk(_))));
        }
    }
    let socket = TempFile::new();
    let _listener = UnixListener::bind(socket.path()).unwrap();
    assert!(matches!(open(socket.path()), Err(OpenError::NotADisk(_))));
}

/// Opening a FIFO would block until its other end is opened.
#[test]
fn a_fifo_is_refused_without_waiting() {
    let fifo = TempFile::new();
    let name = std::ffi::CString::new(fifo.path().as_os_str().as_encoded_bytes()).unwrap();
    // SAFETY: `name` is a C string.
    assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
    assert!(matches!(FileImage::open(fifo.path(), true, false), Err(OpenError::NotADisk(_))));
}

/// Tests the error classification directly, because root ignores permissions.
#[test]
fn errors_of_open_are_classified_by_errno() {
    let classify = |errno, read_only, direct| {
        super::classify(Path::new("disk"), read_only, direct, io::Error::from_raw_os_error(errno))
    };
    for errno in [libc::EACCES, libc::EPERM, libc::EROFS, libc::ETXTBSY] {
        let error = classify(errno, false, false);
        assert!(matches!(error, OpenError::NotWritable { .. }));
        assert!(error.to_string().ends_with("open it read-only or change its permissions"));
        assert!(matches!(classify(errno, true, false), OpenError::Io { .. }));
    }
    assert!(matches!(classify(libc::EINVAL, false, true), OpenError::NoDirect(_)));
    assert!(matches!(classify(libc::EINVAL, false, false), OpenError::Io { .. }));
    assert_eq!(
        classify(libc::ELOOP, false, true).to_string(),
        "disk: Too many levels of symbolic links (os error 40)"
    );
}

/// The running test program is a file that nobody can write, not even root (ETXTBSY).
#[test]
fn a_running_program_can_be_read_but_not_written() {
    let program = std::env::current_exe().unwrap();
    assert!(matches!(open(&program), Err(OpenError::NotWritable { .. })));
    assert!(FileImage::open(&program, true, false).unwrap().capacity_sectors() > 0);
}

#[test]
fn direct_images_report_their_alignment() {
    let file = TempFile::with(&vec![1; 8192 + 512]);
    let Some(image) = open_direct(&file) else { return };
    let needs = image.direct().unwrap();
    assert!(needs.memory.is_power_of_two() && needs.offset.is_power_of_two() && needs.offset <= 4096);
    let unit = needs.offset.max(512);
    assert_eq!(image.dropped_bytes(), (8192 + 512) % u64::from(unit));
    assert_eq!(image.capacity_sectors() * 512 + image.dropped_bytes(), 8192 + 512);
    let config = image.device_config();
    assert_eq!((config.logical_block_size, config.request_alignment), (unit, unit));
    BlockDevice::new(config).unwrap();
}

//! The status byte: the last byte of a request, which holds its result.

use std::io;

use virtio_bindings::virtio_blk;

/// The value that the device writes to the status byte (virtio 1.2 section 5.2.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// The request succeeded.
    Ok = virtio_blk::VIRTIO_BLK_S_OK as u8,
    /// The request failed because of an error of the device or of the driver.
    IoErr = virtio_blk::VIRTIO_BLK_S_IOERR as u8,
    /// The device does not support this request.
    Unsupp = virtio_blk::VIRTIO_BLK_S_UNSUPP as u8,
}

impl Status {
    /// The status for an error of the backend.
    ///
    /// "Not supported" has its own status, because a driver then stops sending such requests (Linux
    /// disables discard or write zeroes for the disk). All other errors are I/O errors; for
    /// example, virtio-blk has no status for a full file system.
    pub fn from_error(error: &io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::EOPNOTSUPP | libc::ENOSYS) => Self::Unsupp,
            _ => Self::IoErr,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_map_to_a_status() {
        for (errno, status) in [
            (libc::EIO, Status::IoErr),
            (libc::ENOSPC, Status::IoErr),
            (libc::EDQUOT, Status::IoErr),
            (libc::EFBIG, Status::IoErr),
            (libc::EINVAL, Status::IoErr),
            (libc::EBADF, Status::IoErr),
            (libc::ECANCELED, Status::IoErr),
            (libc::EOPNOTSUPP, Status::Unsupp),
            (libc::ENOSYS, Status::Unsupp),
        ] {
            assert_eq!(Status::from_error(&io::Error::from_raw_os_error(errno)), status, "errno {errno}");
        }
        assert_eq!(Status::from_error(&io::ErrorKind::UnexpectedEof.into()), Status::IoErr);
    }
}

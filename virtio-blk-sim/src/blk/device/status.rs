//! The last byte of a request: how it went.

use std::io;

use virtio_bindings::virtio_blk;

/// What the device writes into the status byte (virtio 1.2 section 5.2.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// Done.
    Ok = virtio_blk::VIRTIO_BLK_S_OK as u8,
    /// Failed, by the device or by the driver.
    IoErr = virtio_blk::VIRTIO_BLK_S_IOERR as u8,
    /// Not something this device does.
    Unsupp = virtio_blk::VIRTIO_BLK_S_UNSUPP as u8,
}

impl Status {
    /// What the guest is told when the backend fails.
    ///
    /// "Cannot do that" is told apart, because a driver then stops asking (Linux turns discard or
    /// write zeroes off for the disk). All else is an I/O error: virtio-blk has no code for a full
    /// file system.
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

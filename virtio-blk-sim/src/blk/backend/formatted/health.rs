//! Whether an image may still be used.

use std::io;
use std::sync::atomic::{AtomicU8, Ordering};

use crate::log;

const SOUND: u8 = 0;
const LOST: u8 = 1;
const BROKEN: u8 = 2;

/// What has happened to an image. Shared by its files; only gets worse.
#[derive(Debug, Default)]
pub(super) struct Health(AtomicU8);

impl Health {
    /// A flush has failed, so earlier writes may be lost, as
    /// [`FileImage`](crate::blk::backend::FileImage) explains.
    pub(super) fn lost(&self, error: &io::Error) {
        if self.0.fetch_max(LOST, Ordering::Relaxed) == SOUND {
            log::line(format_args!(
                "disk image: a flush failed ({error}), so what was written before may be lost: from now on \
                 every write and flush fails, until the image is opened again"
            ));
        }
    }

    /// The code of the format has panicked, so its idea of the image may be wrong.
    pub(super) fn broken(&self) {
        if self.0.fetch_max(BROKEN, Ordering::Relaxed) != BROKEN {
            log::line(format_args!(
                "disk image: its format driver panicked, so nothing more is written to it and every request \
                 fails; other disks go on. Check the image (qemu-img check)"
            ));
        }
    }

    /// Fails if the content may not be changed.
    pub(super) fn check_change(&self) -> io::Result<()> {
        if self.0.load(Ordering::Relaxed) == SOUND { Ok(()) } else { Err(failed()) }
    }

    /// Fails if the content may not be read.
    pub(super) fn check_read(&self) -> io::Result<()> {
        if self.0.load(Ordering::Relaxed) == BROKEN { Err(failed()) } else { Ok(()) }
    }
}

fn failed() -> io::Error {
    io::Error::from_raw_os_error(libc::EIO)
}

//! The file of the file backends: written once, then opened through the page cache and with
//! O_DIRECT. It has no name (O_TMPFILE; on a file system without that, it is unlinked before it is
//! written), so nothing is left of it however the run ends.

use crate::error::{Error, reason};
use std::env;
use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use virtio_blk_sim::blk::backend::{FileImage, OpenError};

/// Small enough to stay in the page cache, large enough that few requests have the same place.
const BYTES: usize = 64 << 20;

/// The file, opened in both ways.
#[derive(Debug)]
pub(super) struct Scratch {
    directory: PathBuf,
    cached: Arc<FileImage>,
    direct: Result<Arc<FileImage>, String>,
}

impl Scratch {
    /// Writes the file into `directory`. A usage error reports why that is not possible.
    pub(super) fn new(directory: Option<&Path>) -> Result<Self, Error> {
        let directory = directory.map_or_else(env::temp_dir, Path::to_owned);
        let refuse = |why: &str| Error::Usage(format!("--dir {}: {why}", directory.display()));
        let mut file = tempfile::tempfile_in(&directory)
            .map_err(|error| refuse(&format!("cannot make a file there: {}", reason(&error))))?;
        // Not zeros, which a file system might not store.
        let block: Vec<u8> = (0..1 << 20).map(|at: u32| (at % 251) as u8).collect();
        let written = (0..BYTES / block.len()).try_for_each(|_| file.write_all(&block));
        written.and_then(|()| file.sync_all()).map_err(|error| refuse(&reason(&error)))?;
        let cached = open(&file, false).map_err(|why| refuse(&why))?;
        let direct = open(&file, true);
        Ok(Self { directory, cached, direct })
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Through the page cache, which holds all of it: it was just written.
    pub(super) fn cached(&self) -> Arc<FileImage> {
        Arc::clone(&self.cached)
    }

    /// With O_DIRECT, or the reason why the file system does not support it.
    pub(super) fn direct(&self) -> Result<Arc<FileImage>, String> {
        self.direct.clone().map_err(|why| format!("{why} (choose another --dir)"))
    }
}

/// Opens a file that has no name once more, read-only.
fn open(file: &File, direct: bool) -> Result<Arc<FileImage>, String> {
    let link = format!("/proc/self/fd/{}", file.as_raw_fd());
    FileImage::open(link, true, direct).map(Arc::new).map_err(|error| match error {
        OpenError::NoDirect(_) => "direct I/O does not work there".to_owned(),
        OpenError::NotFound(_) => "/proc is not mounted".to_owned(),
        error => reason(&error),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_no_name() {
        let directory = tempfile::tempdir().unwrap();
        let scratch = Scratch::new(Some(directory.path())).unwrap();
        assert_eq!(scratch.cached().capacity_sectors(), BYTES as u64 / 512);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
        let error = Scratch::new(Some("/nonexistent".as_ref())).unwrap_err();
        assert!(error.exit_code() == 2 && error.to_string().contains("cannot make a file there"), "{error}");
    }
}

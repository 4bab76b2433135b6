//! The file of the file backends: written once, opened through the page cache and with O_DIRECT,
//! and then unlinked, so nothing is left of it however the run ends.

use crate::error::{Error, reason};
use std::env;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::Arc;
use virtio_blk_sim::blk::backend::FileImage;

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
        let path = directory.join(format!(".bench-one-percent-{}", process::id()));
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(|error| refuse(&format!("cannot make a file there: {}", reason(&error))))?;
        // Not zeros, which a file system might not store.
        let block: Vec<u8> = (0..1 << 20).map(|at: u32| (at % 251) as u8).collect();
        let written = (0..BYTES / block.len()).try_for_each(|_| file.write_all(&block));
        let written = written.and_then(|()| file.sync_all());
        let cached = written
            .map_err(|error| reason(&error))
            .and_then(|()| FileImage::open(&path, true, false).map_err(|error| error.to_string()));
        let direct = FileImage::open(&path, true, true).map(Arc::new).map_err(|error| error.to_string());
        // The open files stay valid.
        let _ = fs::remove_file(&path);
        let cached = Arc::new(cached.map_err(|why| refuse(&why))?);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_leaves_no_name_behind() {
        let directory = tempfile::tempdir().unwrap();
        let scratch = Scratch::new(Some(directory.path())).unwrap();
        assert_eq!(scratch.cached().capacity_sectors(), BYTES as u64 / 512);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
        let error = Scratch::new(Some("/nonexistent".as_ref())).unwrap_err();
        assert!(error.exit_code() == 2 && error.to_string().contains("cannot make a file there"), "{error}");
    }
}

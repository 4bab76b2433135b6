//! Files that are written whole or not at all.

use crate::error::{Error, reason};
use std::fs::{self, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use tempfile::{Builder, NamedTempFile};

/// A file that appears under its name only when it is complete: written beside it, then renamed
/// (rename(2) replaces the target atomically). Created before a run begins, so that a place that
/// cannot be written to is reported at once. If it is dropped without [`WholeFile::commit`],
/// nothing is left.
#[derive(Debug)]
pub(crate) struct WholeFile {
    file: NamedTempFile,
    target: PathBuf,
}

impl WholeFile {
    /// Prepares to write `path`, the value of `option`. An [`Error::Usage`] reports why that is not
    /// possible.
    pub(crate) fn create(option: &str, path: &Path) -> Result<Self, Error> {
        let refuse = |why: &str| Error::Usage(format!("{option} {}: {why}", path.display()));
        // Renaming over a device node, a pipe or a symlink would replace it. Follow the symlink.
        let target = match fs::canonicalize(path) {
            Ok(existing) if existing.is_dir() => return Err(refuse("this is a directory; name a file")),
            Ok(existing) if !existing.is_file() => return Err(refuse("this is not a regular file")),
            Ok(existing) => existing,
            Err(error) if error.kind() == io::ErrorKind::NotFound => path.to_owned(),
            Err(error) => return Err(refuse(&reason(&error))),
        };
        if target.file_name().is_none() {
            return Err(refuse("this does not name a file"));
        }
        let directory = match target.parent() {
            Some(parent) if parent != Path::new("") => parent,
            _ => Path::new("."),
        };
        // The permissions of any new file: the umask applies.
        let file = Builder::new().permissions(Permissions::from_mode(0o666)).tempfile_in(directory);
        let file = file.map_err(|error| {
            // tempfile adds its own path to the error; remove it.
            let error = error.raw_os_error().map_or(error, io::Error::from_raw_os_error);
            refuse(&format!("cannot write there: {}", reason(&error)))
        })?;
        Ok(Self { file, target })
    }

    /// Writes `text` and gives the file its name.
    pub(crate) fn commit(mut self, text: &str) -> io::Result<()> {
        self.file.write_all(text.as_bytes())?;
        // Without this a crash soon after the rename could leave an empty file under the name.
        self.file.as_file().sync_all()?;
        self.file.persist(self.target)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    fn entries(directory: &TempDir) -> Vec<String> {
        let entries = fs::read_dir(directory).unwrap();
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn a_committed_file_replaces_the_old_one_and_leaves_nothing_else() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("out.json");
        fs::write(&path, "old").unwrap();
        let file = WholeFile::create("--json", &path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        file.commit("new").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(entries(&directory), ["out.json"]);
    }

    #[test]
    fn a_dropped_file_leaves_nothing() {
        let directory = TempDir::new().unwrap();
        drop(WholeFile::create("--json", &directory.path().join("out.json")).unwrap());
        assert!(entries(&directory).is_empty());
    }

    #[test]
    fn a_symlink_is_followed_and_kept() {
        let directory = TempDir::new().unwrap();
        let (path, link) = (directory.path().join("out.json"), directory.path().join("link"));
        fs::write(&path, "old").unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        WholeFile::create("--json", &link).unwrap().commit("new").unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
    }

    #[test]
    fn places_that_cannot_be_written_are_refused_with_a_reason() {
        let directory = TempDir::new().unwrap();
        let refused = |path: &Path| WholeFile::create("--json", path).unwrap_err().to_string();
        assert!(refused(directory.path()).ends_with("this is a directory; name a file"));
        assert!(refused("/dev/null".as_ref()).ends_with("this is not a regular file"));
        let missing = refused(&directory.path().join("missing/out.json"));
        assert!(missing.ends_with("cannot write there: No such file or directory"), "{missing}");
        assert!(refused("".as_ref()).contains("does not name a file"));
    }
}

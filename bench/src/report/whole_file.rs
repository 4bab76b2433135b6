//! Files that are written whole or not at all.

use crate::error::{Error, reason};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use tempfile::{Builder, NamedTempFile};

/// A file that appears under its name only when it is complete: written beside it, then renamed
/// (rename(2) replaces the target atomically). A place that cannot be written to is reported before
/// the run. No file exists during the run, so none is left if a signal kills the process.
#[derive(Debug)]
pub(crate) struct WholeFile {
    /// The option and its value, for errors.
    name: String,
    directory: PathBuf,
    target: PathBuf,
}

impl WholeFile {
    /// Prepares to write `path`, the value of `option`. An [`Error::Usage`] reports why that is not
    /// possible.
    pub(crate) fn create(option: &str, path: &Path) -> Result<Self, Error> {
        let full_name = format!("{option} {}", path.display());
        let refuse = |why: &str| Error::Usage(format!("{full_name}: {why}"));
        // Renaming over a device node, a pipe or a symlink would replace it. Follow the symlink.
        let target = match fs::canonicalize(path) {
            Ok(existing) if existing.is_dir() => return Err(refuse("this is a directory; name a file")),
            Ok(existing) if !existing.is_file() => {
                return Err(refuse("this is not a regular file; write - for stdout"));
            }
            // The text would go to the replaced file, which has no name any more.
            Ok(existing) if is_stdout(&existing) => {
                return Err(refuse("stdout goes to this file; write - for stdout"));
            }
            Ok(existing) => existing,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if path.is_symlink() {
                    return Err(refuse("this is a symlink to a file that does not exist"));
                }
                path.to_owned()
            }
            Err(error) => return Err(refuse(&reason(&error))),
        };
        let Some(name) = target.file_name() else {
            return Err(refuse("this does not name a file"));
        };
        let directory = match target.parent() {
            Some(parent) if parent != Path::new("") => parent,
            _ => Path::new("."),
        };
        let unwritable = |error: io::Error| refuse(&format!("cannot write there: {}", reason(&error)));
        // An absolute path without symlinks, so that a file has one name whatever it was called.
        let directory = fs::canonicalize(directory).map_err(unwritable)?;
        drop(temporary(&directory).map_err(unwritable)?);
        let target = directory.join(name);
        Ok(Self { name: full_name, directory, target })
    }

    /// The file's absolute path, without symlinks.
    pub(crate) fn target(&self) -> &Path {
        &self.target
    }

    /// Writes `text` and gives the file its name.
    pub(crate) fn commit(self, text: &str) -> Result<(), Error> {
        self.replace(text).map_err(|error| Error::failed(&format!("{}: cannot write", self.name), &error))
    }

    fn replace(&self, text: &str) -> io::Result<()> {
        let mut file = temporary(&self.directory)?;
        file.as_file_mut().write_all(text.as_bytes())?;
        // Without this a crash soon after the rename could leave an empty file under the name.
        file.as_file().sync_all()?;
        file.persist(&self.target)?;
        Ok(())
    }
}

/// Creates a file with a name of its own, which is removed when it is dropped. It has the
/// permissions of any new file: the umask applies.
fn temporary(directory: &Path) -> io::Result<NamedTempFile> {
    // Builder::tempfile_in would add the path to the error.
    Builder::new().make_in(directory, |path| OpenOptions::new().write(true).create_new(true).open(path))
}

/// Returns true if this process's stdout is the file at `path`.
fn is_stdout(path: &Path) -> bool {
    let stdout = io::stdout().as_fd().try_clone_to_owned().and_then(|fd| File::from(fd).metadata());
    let (Ok(stdout), Ok(file)) = (stdout, fs::metadata(path)) else { return false };
    (stdout.dev(), stdout.ino()) == (file.dev(), file.ino())
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
    fn nothing_exists_before_the_commit() {
        let directory = TempDir::new().unwrap();
        let file = WholeFile::create("--json", &directory.path().join("out.json")).unwrap();
        assert!(entries(&directory).is_empty());
        drop(file);
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
    fn a_symlink_to_nothing_is_refused_and_kept() {
        let directory = TempDir::new().unwrap();
        let link = directory.path().join("link");
        std::os::unix::fs::symlink("missing", &link).unwrap();
        let error = WholeFile::create("--json", &link).unwrap_err().to_string();
        assert!(error.ends_with("this is a symlink to a file that does not exist"), "{error}");
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    }

    #[test]
    fn a_file_has_one_target_whatever_it_is_called() {
        let directory = TempDir::new().unwrap();
        fs::create_dir(directory.path().join("sub")).unwrap();
        std::os::unix::fs::symlink("sub", directory.path().join("link")).unwrap();
        let target = |name: &str| {
            WholeFile::create("--json", &directory.path().join(name)).unwrap().target().to_owned()
        };
        assert_eq!(target("out"), target("sub/../out"));
        assert_ne!(target("out"), target("sub/out"));
        assert_eq!(target("link/out"), target("sub/out"));
    }

    #[test]
    fn places_that_cannot_be_written_are_refused_with_a_reason() {
        let directory = TempDir::new().unwrap();
        let refused = |path: &Path| WholeFile::create("--json", path).unwrap_err().to_string();
        assert!(refused(directory.path()).ends_with("this is a directory; name a file"));
        assert!(refused("/dev/null".as_ref()).ends_with("this is not a regular file; write - for stdout"));
        let missing = refused(&directory.path().join("missing/out.json"));
        assert!(missing.ends_with("cannot write there: No such file or directory"), "{missing}");
        let not_there = refused("/proc/out.json".as_ref());
        assert!(not_there.ends_with("cannot write there: No such file or directory"), "{not_there}");
        assert!(refused("".as_ref()).contains("does not name a file"));
    }
}

//! The pid file: the process id as text, for programs that send signals to the server.
//!
//! It is locked while the process lives, so it tells more than a number does, which another process
//! may have by now. A file that nobody has locked is stale. The lock is one of the open file
//! description (F_OFD_SETLK), which the kernel releases when the process ends, however it ends.
#![expect(unsafe_code, reason = "fcntl(2): F_OFD_SETLK")]

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// A pid file that is locked by this process. Dropping it removes the file. If the directory does
/// not allow that any more, the file is left empty.
#[derive(Debug)]
pub(crate) struct PidFile {
    path: PathBuf,
    file: File,
}

impl PidFile {
    /// Takes the file, which is empty afterwards. The error is one sentence.
    ///
    /// It is refused if another process has it, and if it is something other than a pid file, so
    /// that a wrong path destroys nothing.
    pub(crate) fn claim(path: &Path) -> Result<Self, String> {
        let shown = path.display();
        let wrong = |error: io::Error| format!("pid file {shown}: {error}");
        loop {
            let mut file = open(path).map_err(wrong)?;
            let metadata = file.metadata().map_err(wrong)?;
            let mut content = String::new();
            let read = (&mut file).take(64).read_to_string(&mut content);
            let is_pid = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
            if !metadata.is_file() || read.is_err() || !is_pid(content.trim_end()) {
                return Err(format!(
                    "pid file {shown}: there is something else; remove it or use another path"
                ));
            }
            if !lock(&file).map_err(wrong)? {
                let of = content.trim_end();
                return Err(format!("pid file {shown}: process {of} has it and is alive"));
            }
            // The process that had it may have removed its name after it was opened here.
            let named = std::fs::symlink_metadata(path).ok();
            if named.is_some_and(|named| (named.dev(), named.ino()) == (metadata.dev(), metadata.ino())) {
                file.set_len(0).map_err(wrong)?;
                // A relative path, if the process changes its directory.
                let path = std::path::absolute(path).map_err(wrong)?;
                return Ok(Self { path, file });
            }
        }
    }

    /// Writes the process id.
    pub(crate) fn write(&self) -> Result<(), String> {
        let line = format!("{}\n", std::process::id());
        let written = self.file.set_len(0).and_then(|()| {
            use std::os::unix::fs::FileExt;
            self.file.write_all_at(line.as_bytes(), 0)?;
            (&self.file).flush()
        });
        written.map_err(|error| format!("pid file {}: {error}", self.path.display()))
    }

    fn is_still_there(&self) -> bool {
        let ours = self.file.metadata().ok();
        let named = std::fs::symlink_metadata(&self.path).ok();
        let id = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
        named.is_some() && named.map(id) == ours.map(id)
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        if self.is_still_there() && std::fs::remove_file(&self.path).is_err() {
            // Nothing can be done if this fails. The file is stale then.
            let _ = self.file.set_len(0);
        }
    }
}

/// Opens the file, or creates it. Does not follow a link, and does not wait for a reader of a FIFO.
fn open(path: &Path) -> io::Result<File> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
    let opened =
        OpenOptions::new().read(true).write(true).create(true).mode(0o644).custom_flags(flags).open(path);
    opened.map_err(|error| match error.raw_os_error() {
        Some(libc::ELOOP) => io::Error::new(ErrorKind::InvalidInput, "this is a symbolic link"),
        _ => error,
    })
}

/// Locks the file for its description. Returns false if another one has it locked.
fn lock(file: &File) -> io::Result<bool> {
    let lock = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    // SAFETY: `lock` is read during the call.
    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) } == 0 {
        return Ok(true);
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::EACCES) => Ok(false),
        _ => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("vhost-user-blk-{}-{name}.pid", std::process::id()));
        let _ = std::fs::remove_file(&path);
        path
    }

    #[test]
    fn a_pid_file_has_one_owner_and_goes_with_it() {
        let path = scratch("owner");
        let ours = PidFile::claim(&path).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "");
        ours.write().unwrap();
        let id = std::process::id();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{id}\n"));
        let error = PidFile::claim(&path).unwrap_err();
        assert!(error.ends_with(&format!("process {id} has it and is alive")), "{error}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{id}\n"));
        drop(ours);
        assert!(!path.exists());
    }

    #[test]
    fn a_stale_file_is_replaced_and_any_other_is_left_alone() {
        let path = scratch("stale");
        for stale in ["", "1\n", "999999\n"] {
            std::fs::write(&path, stale).unwrap();
            PidFile::claim(&path).unwrap();
        }
        for other in ["a letter\n", "12\nx", "1 2\n", &"1".repeat(9) as &str, "\u{e9}"] {
            std::fs::write(&path, other).unwrap();
            let outcome = PidFile::claim(&path);
            if other.trim_end().bytes().all(|byte| byte.is_ascii_digit()) {
                assert!(outcome.is_ok());
                continue;
            }
            assert!(outcome.unwrap_err().contains("there is something else"), "{other:?}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), other);
        }
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
        assert!(PidFile::claim(&path).unwrap_err().contains("symbolic link"));
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_file_that_took_its_place_is_kept() {
        let path = scratch("place");
        let ours = PidFile::claim(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "7\n").unwrap();
        drop(ours);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "7\n");
        std::fs::remove_file(&path).unwrap();
    }
}

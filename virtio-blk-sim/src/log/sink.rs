//! Where lines are written: stderr, or a file that can be rotated. The only place of this crate
//! that writes to stderr.
#![expect(unsafe_code, reason = "poll(2), to write only what does not block")]

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The longest line, with its line feed. poll(2) reports a pipe as writable if this much fits, and
/// a write of this size is not mixed with others (PIPE_BUF of pipe(7)).
pub(super) const LONGEST: usize = 4096;

static SINK: Mutex<Sink> = Mutex::new(Sink { file: None, lost: 0, is_torn: false });

/// What all threads write to. The lock is held while a line is written.
#[derive(Debug)]
struct Sink {
    /// The file that replaces stderr, and its name.
    file: Option<(PathBuf, File)>,
    /// Lines that were not written since the last one that was.
    lost: u64,
    /// The last line was written in part: the file system is full, for example.
    is_torn: bool,
}

/// The form of the note about lost lines.
#[derive(Debug, Clone, Copy)]
pub(super) enum Note {
    Text,
    /// Made by a function of the number of lost lines and the text.
    #[cfg(feature = "cli")]
    By(fn(u64, &str) -> String),
}

/// Writes the lines of the log to a file instead of stderr, at its end. It is created if it does
/// not exist (mode 0640). The file may be renamed at any time; [`reopen`](super::reopen) then makes
/// a new one.
/// Does not wait, except for the file system.
///
/// # Errors
/// Those of open(2). Then the log goes where it went before.
pub fn to_file(path: &Path) -> io::Result<()> {
    let file = open(path)?;
    sink().file = Some((path.to_owned(), file));
    Ok(())
}

/// The name of the [file](to_file) of the log; `None` if the log goes to stderr.
pub fn file() -> Option<PathBuf> {
    sink().file.as_ref().map(|(path, _)| path.clone())
}

/// Opens the file of the log again, by its name. On error the old one stays in use.
pub(super) fn reopen() -> Result<(), (PathBuf, io::Error)> {
    let Some(path) = file() else { return Ok(()) };
    let new = match open(&path) {
        Ok(new) => new,
        Err(error) => return Err((path, error)),
    };
    let old = sink().file.replace((path, new));
    drop(old);
    Ok(())
}

/// O_NONBLOCK: the name may be that of a FIFO, which must not stop the program.
fn open(path: &Path) -> io::Result<File> {
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    OpenOptions::new().append(true).create(true).mode(0o640).custom_flags(flags).open(path)
}

/// Writes a line, without its line feed, after a note about those that were lost before.
pub(super) fn write(line: String, note: Note) {
    let line = finished(line);
    let mut sink = sink();
    if sink.lost > 0 {
        let lost = sink.lost;
        let who = if sink.file.is_some() { "the file" } else { "stderr" };
        let text = format!("({lost} lines of the log were lost: {who} did not take them)");
        let note = match note {
            Note::Text => text,
            #[cfg(feature = "cli")]
            Note::By(make) => make(lost, &text),
        };
        if !sink.put(finished(note).as_bytes()) {
            sink.lost += 1;
            return;
        }
        sink.lost = 0;
    }
    if !sink.put(line.as_bytes()) {
        sink.lost += 1;
    }
}

/// Whether lines go to a file, where nobody else adds the time.
#[cfg(feature = "cli")]
pub(super) fn is_file() -> bool {
    sink().file.is_some()
}

fn sink() -> MutexGuard<'static, Sink> {
    SINK.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One line: whole characters, at most [`LONGEST`] bytes with the line feed, and no other control
/// characters than tabs. What a guest or a peer has named cannot begin a line of its own.
fn finished(line: String) -> String {
    let is_plain = |character: char| !character.is_control() || character == '\t';
    let mut line = match line.chars().all(is_plain) {
        true => line,
        false => {
            let mut plain = String::with_capacity(line.len());
            for character in line.chars() {
                if is_plain(character) {
                    plain.push(character);
                } else {
                    plain.extend(character.escape_default());
                }
            }
            plain
        }
    };
    truncate(&mut line, LONGEST - 1);
    line.push('\n');
    line
}

/// Cuts whole characters off, down to at most so many bytes.
pub(super) fn truncate(text: &mut String, most: usize) {
    let end = (0..=most.min(text.len())).rev().find(|&end| text.is_char_boundary(end));
    text.truncate(end.unwrap_or(0));
}

impl Sink {
    /// Writes a line if that does not wait. Returns true if all of it was written.
    fn put(&mut self, line: &[u8]) -> bool {
        if std::mem::take(&mut self.is_torn) && !self.put_bytes(b"\n") {
            self.is_torn = true;
            return false;
        }
        self.put_bytes(line)
    }

    fn put_bytes(&mut self, bytes: &[u8]) -> bool {
        let written = match &self.file {
            Some((_, file)) => is_ready(file.as_fd()).then(|| write_to(&mut &*file, bytes)),
            None => {
                let stderr = io::stderr();
                is_ready(stderr.as_fd()).then(|| write_to(&mut stderr.lock(), bytes))
            }
        };
        match written {
            Some((_, true)) => true,
            Some((some, false)) => {
                self.is_torn |= some;
                false
            }
            None => false,
        }
    }
}

/// Returns whether something was written, and whether everything was.
fn write_to(file: &mut impl Write, mut bytes: &[u8]) -> (bool, bool) {
    let mut some = false;
    while !bytes.is_empty() {
        match file.write(bytes) {
            Ok(0) => return (some, false),
            Ok(n) => {
                some = true;
                bytes = bytes.get(n..).unwrap_or_default();
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return (some, false),
        }
    }
    (some, true)
}

fn is_ready(fd: BorrowedFd<'_>) -> bool {
    let mut entry = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLOUT, revents: 0 };
    // SAFETY: one live and writable pollfd.
    let ready = unsafe { libc::poll(&raw mut entry, 1, 0) };
    // A pipe without a reader is writable and returns EPIPE; the Rust runtime ignores SIGPIPE.
    ready == 1 && entry.revents & libc::POLLOUT != 0
}

//! The text in a file, for the textfile collector of node_exporter.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use aio::{AioContext, JoinHandle};

use super::exporter::Exporter;
use crate::log::Line;

/// A file that is written again and again. Dropping it ends that and leaves the file.
#[must_use = "dropping it ends the writing"]
#[derive(Debug)]
pub struct Written {
    task: JoinHandle<()>,
}

impl Exporter {
    /// Writes the text to a file now and then every `period`. The file is replaced by rename(2), so
    /// a reader sees a whole text. The text is first written to a file beside it, whose name has
    /// `.tmp` at its end; the textfile collector reads files whose name ends with `.prom`. The work
    /// is done on a worker thread. What fails is logged once, until it works again.
    pub fn write_to(self: &Rc<Self>, context: &AioContext, path: PathBuf, period: Duration) -> Written {
        let (exporter, context) = (Rc::clone(self), context.local_handle());
        let spawner = context.clone();
        let work = async move {
            let mut is_failing = false;
            loop {
                let outcome = match exporter.text().await {
                    Ok(text) => {
                        let path = path.clone();
                        let work = move || replace(&path, text.as_bytes());
                        context.blocking(work).await.map_err(io::Error::other).and_then(|done| done)
                    }
                    Err(error) => Err(error),
                };
                match outcome {
                    Ok(()) => is_failing = false,
                    Err(error) if !is_failing => {
                        is_failing = true;
                        let line = format_args!("cannot write {}: {error}", path.display());
                        Line::error(line).device("metrics").caused_by(&error).write();
                    }
                    Err(_) => {}
                }
                context.sleep(period).await;
            }
        };
        Written { task: spawner.spawn(work) }
    }
}

impl Drop for Written {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Puts a file of this content in the place of another one.
fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".tmp");
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o644).custom_flags(libc::O_NOFOLLOW);
    let written = options.open(&temporary).and_then(|mut file: File| file.write_all(content));
    let replaced = written.and_then(|()| std::fs::rename(&temporary, path));
    if replaced.is_err() {
        // A full file system has no use for half a text.
        let _ = std::fs::remove_file(&temporary);
    }
    replaced
}

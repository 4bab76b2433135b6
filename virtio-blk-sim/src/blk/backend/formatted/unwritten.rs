//! Metadata that is changed in memory and not yet in the file.
//!
//! A frontend that reconnects goes on after its server was killed. Its guest believes in every
//! write that was answered, and the next flush must not succeed without them. So the metadata that
//! a write has changed is written to the file (not to the disk: that is what a flush is for) before
//! the write is answered. A write to clusters that have their place already changes none.
//!
//! Writes that wait for this share the work: one pass of imago's cache covers all changes that were
//! made before it.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Mutex;

use super::layers::Layer;

/// The changes of one image. All orderings are sequentially consistent: the fields are read
/// together.
#[derive(Debug, Default)]
pub(super) struct Unwritten {
    /// Tasks that are changing metadata.
    changing: AtomicU64,
    /// Changes that were made.
    made: AtomicU64,
    /// How many of them are in the file.
    written: AtomicU64,
    /// Passes that have begun.
    begun: AtomicU64,
    /// The number of the last pass that succeeded. Locked during a pass.
    succeeded: Mutex<u64>,
}

/// A change of metadata that is being made. Dropped when it is.
pub(super) struct Change<'a>(&'a Unwritten);

impl Drop for Change<'_> {
    fn drop(&mut self) {
        // In this order: whoever finds no task changing finds the change counted.
        self.0.made.fetch_add(1, Ordering::SeqCst);
        self.0.changing.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Unwritten {
    /// To be called before a change that others may see before this task goes on.
    pub(super) fn change(&self) -> Change<'_> {
        self.changing.fetch_add(1, Ordering::SeqCst);
        Change(self)
    }

    /// Writes all changes that this task has made, or may have seen.
    pub(super) async fn write(&self, image: &Layer) -> io::Result<()> {
        let is_written = self.changing.load(Ordering::SeqCst) == 0
            && self.written.load(Ordering::SeqCst) >= self.made.load(Ordering::SeqCst);
        if is_written {
            return Ok(());
        }
        let before = self.begun.load(Ordering::SeqCst);
        let mut succeeded = self.succeeded.lock().await;
        if *succeeded > before {
            return Ok(()); // it began after the changes
        }
        let number = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
        let made = self.made.load(Ordering::SeqCst);
        image.flush().await?;
        self.written.fetch_max(made, Ordering::SeqCst);
        *succeeded = number;
        Ok(())
    }
}

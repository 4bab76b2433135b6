//! What other threads want of something that belongs to the home thread: the last of their
//! requests.
//!
//! A request is one word. A new one replaces one that was not carried out yet, and each is carried
//! out at most once, so a thread that makes many costs the home thread no more than one.

use crate::sync::{AtomicU64, Ordering};
use std::fmt;

/// Nothing is wanted.
const NONE: u64 = u64::MAX;
/// The timer is to be cancelled.
const CANCEL: u64 = u64::MAX - 1;
/// The latest deadline, 584 years after the start of a clock.
const LATEST_NS: u64 = u64::MAX - 2;

/// Identity of an object in a table of the home thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) slot: usize,
    pub(crate) version: u64,
}

/// What is wanted of a timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    Armed { at_ns: u64 },
    Cancelled,
}

/// The requests to one timer. Any thread.
pub(crate) struct Request {
    pub(crate) target: Target,
    word: AtomicU64,
}

impl Request {
    pub(crate) fn new(target: Target) -> Self {
        Self { target, word: AtomicU64::new(NONE) }
    }

    /// Replaces what was wanted before. The home thread has to be informed after this.
    pub(crate) fn make(&self, wanted: Wanted) {
        let word = match wanted {
            Wanted::Armed { at_ns } => at_ns.min(LATEST_NS),
            Wanted::Cancelled => CANCEL,
        };
        // The earlier writes of this thread are released to whoever takes this request. Whoever
        // takes a later one of another thread gets them, too.
        self.word.swap(word, Ordering::AcqRel);
    }

    /// Called by the home thread. Takes the last request, if it was not taken before.
    pub(crate) fn take(&self) -> Option<Wanted> {
        // Usually there is none, and a load is cheaper.
        if self.word.load(Ordering::Relaxed) == NONE {
            return None;
        }
        match self.word.swap(NONE, Ordering::AcqRel) {
            NONE => None,
            CANCEL => Some(Wanted::Cancelled),
            at_ns => Some(Wanted::Armed { at_ns }),
        }
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request").field("target", &self.target).finish_non_exhaustive()
    }
}

//! One scenario, tried with one way of resetting: what was expected, what was delivered, and the
//! verdict.

use crate::os::{EFD_AUTORESET, EventFd, PATIENCE, until_asleep};
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::Scope;
use std::time::Instant;

/// Who resets the counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum By {
    /// The consumer, with read(2), as on every kernel.
    Read,
    /// The kernel: EFD_AUTORESET.
    Flag,
}

/// What became of the events of a scenario.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Each was delivered once.
    Delivered,
    /// At least one was lost.
    Lost,
    /// All were delivered, and one once too often.
    Spurious,
    /// eventfd(2) rejected the flags.
    Refused,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Delivered => "delivered",
            Self::Lost => "LOST",
            Self::Spurious => "spurious",
            Self::Refused => "refused",
        })
    }
}

#[derive(Debug)]
pub(crate) struct Trial {
    by: By,
    /// The first thing that was wrong of each kind.
    lost: Option<String>,
    spurious: Option<String>,
}

impl Trial {
    /// Runs a scenario; the verdict, and what was wrong.
    pub(crate) fn of(by: By, scenario: fn(&mut Self) -> io::Result<()>) -> (Verdict, String) {
        let mut trial = Self { by, lost: None, spurious: None };
        match (scenario(&mut trial), trial.lost, trial.spurious) {
            (Err(e), ..) if e.raw_os_error() == Some(libc::EINVAL) => (Verdict::Refused, e.to_string()),
            (Err(e), ..) => panic!("{e}"),
            (Ok(()), Some(what), _) => (Verdict::Lost, what),
            (Ok(()), None, Some(what)) => (Verdict::Spurious, what),
            (Ok(()), None, None) => (Verdict::Delivered, String::new()),
        }
    }

    /// A non-blocking doorbell.
    pub(crate) fn bell(&self) -> io::Result<Bell> {
        self.bell_with(libc::EFD_NONBLOCK)
    }

    /// A doorbell with these flags, to which the way of resetting is added.
    pub(crate) fn bell_with(&self, flags: i32) -> io::Result<Bell> {
        let flag = if self.by == By::Flag { EFD_AUTORESET } else { 0 };
        Ok(Bell { by: self.by, fd: EventFd::new(flags | flag)? })
    }

    /// A write was to be delivered, and was or was not. The consumer then does its part.
    pub(crate) fn rings(&mut self, what: &str, bell: &Bell, delivered: bool) {
        if delivered {
            bell.heard();
        } else {
            self.lost.get_or_insert_with(|| what.to_owned());
        }
    }

    /// There was nothing to deliver; was something delivered?
    pub(crate) fn silent(&mut self, what: &str, delivered: bool) {
        if delivered {
            self.spurious.get_or_insert_with(|| what.to_owned());
        }
    }

    /// Everything was delivered: nothing is left that would ring again.
    pub(crate) fn reset(&mut self, bell: &Bell) {
        self.silent("the counter is not reset", bell.fd.count() != 0);
    }

    /// Something that does not depend on who resets went wrong.
    pub(crate) fn lose(&mut self, what: &str) {
        self.lost.get_or_insert_with(|| what.to_owned());
    }

    pub(crate) fn by(&self) -> By {
        self.by
    }
}

/// An eventfd between a producer and a consumer.
#[derive(Debug)]
pub(crate) struct Bell {
    by: By,
    pub(crate) fd: EventFd,
}

impl Bell {
    pub(crate) fn ring(&self) {
        self.fd.write(1).expect("a write to an eventfd with room");
    }

    /// The consumer's part after a delivery: read(2), if nobody else resets.
    pub(crate) fn heard(&self) {
        if self.by == By::Read {
            // Empty if another consumer was faster.
            let _ = self.fd.read();
        }
    }
}

/// A thread that writes to an eventfd and sleeps until there is room.
#[derive(Debug)]
pub(crate) struct BlockedWriter<'scope> {
    done: &'scope AtomicBool,
    pub(crate) tid: i32,
}

impl<'scope> BlockedWriter<'scope> {
    /// Returns when the writer sleeps. Its descriptor must be a blocking one without room for `n`.
    pub(crate) fn start<'env>(
        scope: &'scope Scope<'scope, 'env>,
        fd: &'env EventFd,
        n: u64,
        done: &'scope AtomicBool,
    ) -> Self {
        let (tell, tid) = std::sync::mpsc::channel();
        scope.spawn(move || {
            let _ = tell.send(crate::os::thread_id());
            // Interrupted by a test's signal: done as well.
            let _ = fd.write(n);
            done.store(true, Ordering::SeqCst);
        });
        let tid = tid.recv().expect("the writer says its number first");
        until_asleep(tid);
        Self { done, tid }
    }

    /// Waits until the write is done; returns false if that does not happen.
    pub(crate) fn goes_on(&self) -> bool {
        let begin = Instant::now();
        while !self.done.load(Ordering::SeqCst) {
            if begin.elapsed() > PATIENCE {
                return false;
            }
            std::thread::yield_now();
        }
        true
    }

    /// Whether the write has been done by now.
    pub(crate) fn is_done(&self) -> bool {
        self.done.load(Ordering::SeqCst)
    }
}

//! What a cell watches: one hook that panics once, and values whose drops are counted.

use crate::os;
use std::io::{PipeReader, PipeWriter};
use std::os::fd::{AsFd, BorrowedFd};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// User code that the loop runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hook {
    /// A callback.
    Call,
    /// `BusyPolled::process`.
    Process,
    /// `BusyPolled::is_ready`.
    IsReady,
    /// `BusyPolled::begin`.
    Begin,
    /// `BusyPolled::end`.
    End,
    /// Drop of what a callback captured; for a device, of the device itself.
    Capture,
    /// Drop of what an operation holds.
    Held,
}

impl Hook {
    pub(crate) const ALL: [Self; 7] =
        [Self::Call, Self::Process, Self::IsReady, Self::Begin, Self::End, Self::Capture, Self::Held];
}

/// The payload of the panic.
struct Blown;

/// Panics once, at one hook, after it has been armed.
#[derive(Clone, Debug)]
pub(crate) struct Fuse {
    at: Hook,
    armed: Arc<AtomicBool>,
    blown: Arc<AtomicBool>,
}

impl Fuse {
    pub(crate) fn new(at: Hook) -> Self {
        Self { at, armed: Arc::default(), blown: Arc::default() }
    }

    pub(crate) fn at(&self) -> Hook {
        self.at
    }

    pub(crate) fn arm(&self) {
        self.armed.store(true, Ordering::SeqCst);
    }

    pub(crate) fn disarm(&self) {
        self.armed.store(false, Ordering::SeqCst);
    }

    pub(crate) fn is_armed(&self) -> bool {
        self.armed.load(Ordering::SeqCst)
    }

    pub(crate) fn is_blown(&self) -> bool {
        self.blown.load(Ordering::SeqCst)
    }

    /// Called by every hook. Never panics while the thread unwinds already, which would abort.
    pub(crate) fn reach(&self, hook: Hook) {
        if hook == self.at && !std::thread::panicking() && self.armed.swap(false, Ordering::SeqCst) {
            self.blown.store(true, Ordering::SeqCst);
            // Without the panic hook, whose message would only be noise.
            resume_unwind(Box::new(Blown));
        }
    }
}

/// How a piece of work ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    Returned,
    /// With the panic of the fuse.
    Blown,
    /// With another panic.
    Panicked(String),
}

pub(crate) fn ended(work: impl FnOnce()) -> Ended {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(()) => Ended::Returned,
        Err(payload) if payload.is::<Blown>() => Ended::Blown,
        Err(payload) => {
            let text = payload.downcast_ref::<String>().cloned();
            let text = text.or_else(|| payload.downcast_ref::<&str>().map(|s| (*s).to_owned()));
            Ended::Panicked(text.unwrap_or_else(|| "with a payload that is no text".to_owned()))
        }
    }
}

/// A value whose drop is counted, and may be the hook that panics.
#[derive(Debug)]
pub(crate) struct Value {
    fuse: Fuse,
    hook: Hook,
    drops: Arc<AtomicU32>,
}

impl Drop for Value {
    fn drop(&mut self) {
        self.drops.fetch_add(1, Ordering::SeqCst);
        self.fuse.reach(self.hook);
    }
}

/// A value's name, and how often it was dropped.
type Named = (&'static str, Arc<AtomicU32>);

/// Every value that a cell has made.
#[derive(Clone, Debug)]
pub(crate) struct Ledger {
    fuse: Fuse,
    values: Arc<Mutex<Vec<Named>>>,
    /// Buffers that were dropped while the kernel still held the file of their operation.
    in_flight: Arc<AtomicU32>,
}

impl Ledger {
    pub(crate) fn new(fuse: &Fuse) -> Self {
        Self { fuse: fuse.clone(), values: Arc::default(), in_flight: Arc::default() }
    }

    /// `hook`: whether this is a capture or held by an operation.
    pub(crate) fn value(&self, name: &'static str, hook: Hook) -> Value {
        self.counted(name, hook, &self.fuse)
    }

    /// A value that never panics.
    pub(crate) fn witness(&self, name: &'static str) -> Value {
        self.counted(name, Hook::Held, &Fuse::new(Hook::Held))
    }

    fn counted(&self, name: &'static str, hook: Hook, fuse: &Fuse) -> Value {
        let drops = Arc::new(AtomicU32::new(0));
        self.values.lock().unwrap_or_else(PoisonError::into_inner).push((name, Arc::clone(&drops)));
        Value { fuse: fuse.clone(), hook, drops }
    }

    /// What is wrong with the values of a cell that is over.
    pub(crate) fn complaints(&self) -> Vec<String> {
        let mut complaints = Vec::new();
        for (name, drops) in &*self.values.lock().unwrap_or_else(PoisonError::into_inner) {
            let drops = drops.load(Ordering::SeqCst);
            if drops != 1 {
                complaints.push(format!("{name} was dropped {drops} times"));
            }
        }
        let in_flight = self.in_flight.load(Ordering::SeqCst);
        if in_flight != 0 {
            complaints.push(format!("{in_flight} buffers were freed while the kernel held their operation"));
        }
        complaints
    }
}

/// One end of a pipe that an operation owns. When it is dropped it looks whether the kernel has let
/// go of the operation: a request in flight holds the file open, so the other end does not hang up.
///
/// It is dropped together with the buffer, just before it.
#[derive(Debug)]
pub(crate) struct Owned<Mine: AsFd, Other: AsFd> {
    /// `None` only in `drop`.
    mine: Option<Mine>,
    other: Arc<Other>,
    in_flight: Arc<AtomicU32>,
    value: Option<Value>,
}

pub(crate) type OwnedReader = Owned<PipeReader, PipeWriter>;
pub(crate) type OwnedWriter = Owned<PipeWriter, PipeReader>;

impl<Mine: AsFd, Other: AsFd> Owned<Mine, Other> {
    pub(crate) fn new(ledger: &Ledger, mine: Mine, other: &Arc<Other>, value: Value) -> Self {
        let in_flight = Arc::clone(&ledger.in_flight);
        Self { mine: Some(mine), other: Arc::clone(other), in_flight, value: Some(value) }
    }
}

impl<Mine: AsFd, Other: AsFd> AsFd for Owned<Mine, Other> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.mine.as_ref().expect("taken only by drop").as_fd()
    }
}

impl<Mine: AsFd, Other: AsFd> Drop for Owned<Mine, Other> {
    fn drop(&mut self) {
        drop(self.mine.take());
        // The last reference of a request that has ended goes by a task of the kernel's own.
        let deadline = Instant::now() + Duration::from_millis(20);
        while !os::has_hung_up(&*self.other) {
            if Instant::now() > deadline {
                self.in_flight.fetch_add(1, Ordering::SeqCst);
                break;
            }
            std::thread::yield_now();
        }
        // Last, because it may panic.
        drop(self.value.take());
    }
}

//! The part of a context that any thread may touch.

use super::panics::Panics;
use crate::bottom_half::{List, Work};
use crate::notifier::EventNotifier;
use crate::sys::process::Process;
use crate::timer::Wake;
use crate::trace;
use crate::wake_gate::WakeGate;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};

/// How often a write to the loop's eventfd is tried that fails.
const WAKE_TRIES: usize = 3;

/// `S` is a closure that another thread schedules.
pub(super) struct Shared<S> {
    pub(super) gate: WakeGate,
    pub(super) bottom_halves: List<Work<S>>,
    /// An outer loop sleeps in place of the home thread, or is about to, and was not interrupted
    /// yet. Used by the home thread only.
    outer_sleep: AtomicBool,
    notifier: EventNotifier,
    /// Writes to the notifier.
    pub(super) wakes: AtomicU64,
    stop: AtomicBool,
    /// The context was dropped: nobody will take from the list any more.
    closed: AtomicBool,
    /// The process that has the loop.
    process: Process,
}

impl<S> fmt::Debug for Shared<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("gate", &self.gate).field("wakes", &self.wakes).finish_non_exhaustive()
    }
}

impl<S: Send> Wake for Shared<S> {
    fn wake(&self) {
        self.notify();
    }

    fn wake_at_home(&self) {
        self.interrupt_outer_sleep();
    }
}

impl<S> Shared<S> {
    pub(super) fn new(notifier: EventNotifier) -> Self {
        Self {
            gate: WakeGate::new(),
            bottom_halves: List::new(),
            outer_sleep: AtomicBool::new(false),
            notifier,
            wakes: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            process: Process::current(),
        }
    }

    /// Makes the home thread look at what the caller published. At most one write(2), and only if
    /// the home thread sleeps or is about to, and nobody has written since it last looked.
    pub(super) fn notify(&self) {
        if !self.process.is_current() {
            return;
        }
        self.gate.notify(|| self.write());
    }

    fn write(&self) -> bool {
        trace::aio_notify();
        // The eventfd is ours and lives as long as `self`, so an error of the write is over when it
        // is tried again. If it is not, the next producer tries; the loop looks at its next turn,
        // because `notified` is set.
        (0..WAKE_TRIES).any(|_| {
            self.wakes.fetch_add(1, Ordering::Relaxed);
            self.notifier.notify().is_ok()
        })
    }

    /// Returns true if an outer loop would sleep over what is added now. Home thread.
    #[inline]
    pub(super) fn is_outer_sleep(&self) -> bool {
        self.outer_sleep.load(Ordering::Relaxed)
    }

    pub(super) fn set_outer_sleep(&self, sleeps: bool) {
        self.outer_sleep.store(sleeps, Ordering::Relaxed);
    }

    /// Ends the sleep of an outer loop, which is interrupted once. Home thread.
    pub(super) fn interrupt_outer_sleep(&self) {
        if self.is_outer_sleep() && self.process.is_current() {
            self.set_outer_sleep(false);
            self.write();
        }
    }

    pub(super) fn request_stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.notify();
    }

    /// Returns true if there is a loop: the context was not dropped, and this is its process.
    pub(super) fn is_alive(&self) -> bool {
        !self.closed.load(Ordering::SeqCst) && self.process.is_current()
    }

    /// Takes a stop request.
    pub(super) fn take_stop(&self) -> bool {
        self.stop.load(Ordering::Acquire) && self.stop.swap(false, Ordering::AcqRel)
    }

    /// Home thread, as its context is dropped: drops what is scheduled, now and later. Whoever
    /// waits for a closure to run, as [`IoThread::run`](crate::IoThread::run) does, learns that it
    /// will not.
    pub(super) fn close(&self, panics: &mut Panics) {
        self.closed.store(true, Ordering::SeqCst);
        panics.drop_each(self.take_scheduled());
    }

    /// After scheduling. Either this fence comes before the one in `close`, which then finds on the
    /// list what the caller has pushed, or the caller finds `closed` set.
    pub(super) fn drop_if_closed(&self) {
        fence(Ordering::SeqCst);
        if !self.is_alive() {
            drop(self.take_scheduled());
        }
    }

    fn take_scheduled(&self) -> Vec<S> {
        fence(Ordering::SeqCst);
        let mut scheduled = Vec::new();
        // Any thread may take now: each gets what it takes for itself.
        self.bottom_halves.take(|node| scheduled.extend(node.value.take_sent()));
        scheduled
    }
}

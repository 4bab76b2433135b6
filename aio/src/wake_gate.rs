//! When may a producer skip the write to the loop's eventfd?
//!
//! The handshake is QEMU's aio_notify / notify_me / notified (research: its model is
//! docs/spin/aio_notify.promela). Two flags, four sequentially consistent accesses, one Dekker
//! pair:
//!
//! ```text
//!   producer (any thread)                     consumer (home thread)
//!     publish the work                          notify_me += 1            (1)
//!     notified = true             (3)           if notified: do not sleep (2)
//!     if notify_me != 0: write    (4)           sleep
//!                                               notify_me -= 1
//!                                               notified = false          (5)
//!                                               look for work
//! ```
//!
//! Either (4) sees the consumer's (1) and writes, or (2) sees the producer's (3) and does not
//! sleep: with both loads missing, the single order of all four would be a cycle. (5) comes before
//! the look for work, so work published after the look leaves `notified` set for the next turn.
//! `notified` may be set for nothing; it is never missing. Skipping the write because `notified` is
//! *already* set would leave the wake-up to the producer that set it, which may be preempted
//! between (3) and (4) for any time; and if that were found by a load in place of the swap, the
//! work would not be released to (5) and the wake-up would be lost. `loom_tests` has both, and the
//! other mistakes near by.

use crate::sync::{AtomicBool, AtomicU32, Ordering, loom_fence};
use std::cell::Cell;

/// The two flags. Producers are any threads; there is one consumer.
#[derive(Debug)]
pub(crate) struct WakeGate {
    /// One while a wait is between prepare and finish, or the home thread leaves it so
    /// ([`Sleeper`]), which alone writes it.
    notify_me: AtomicU32,
    notified: AtomicBool,
}

impl WakeGate {
    pub(crate) fn new() -> Self {
        Self { notify_me: AtomicU32::new(0), notified: AtomicBool::new(false) }
    }

    /// Producer, after it has published its work. True: the caller must write the eventfd.
    #[must_use]
    pub(crate) fn notify(&self) -> bool {
        // (3) A read-modify-write, so that it also releases the work to the swap in `accept`.
        self.notified.swap(true, Ordering::SeqCst);
        loom_fence();
        // (4)
        self.notify_me.load(Ordering::SeqCst) != 0
    }

    /// Consumer, before it sleeps. True: a producer was here already, do not sleep.
    #[must_use]
    pub(crate) fn prepare(&self) -> bool {
        // (1)
        self.notify_me.fetch_add(1, Ordering::SeqCst);
        loom_fence();
        // (2)
        self.notified.load(Ordering::SeqCst)
    }

    /// Consumer, after it slept.
    pub(crate) fn finish(&self) {
        // One writer, so load and store are enough. A producer that still sees the old value writes
        // for nothing.
        self.notify_me.store(self.notify_me.load(Ordering::Relaxed) - 1, Ordering::Release);
    }

    /// Consumer, before it looks for work. False if no producer came, which costs a load and no
    /// locked operation.
    pub(crate) fn accept(&self) -> bool {
        // (5) A flag that is set after this load stays set for the next turn.
        self.notified.load(Ordering::Acquire) && self.notified.swap(false, Ordering::SeqCst)
    }

    /// Consumer: has a producer been here since the last `accept`? For busy polling; one load.
    pub(crate) fn is_notified(&self) -> bool {
        self.notified.load(Ordering::Acquire)
    }
}

/// The consumer's side of a gate, of the home thread alone: leaves `notify_me` up while nobody
/// notifies.
///
/// Raising it costs a locked operation before each sleep, to let producers skip their write(2)
/// while the loop is awake. Where no producer has been for a while there is nothing to skip. As
/// long as it stays up each producer writes, and the eventfd itself ends the sleep. Only a read(2)
/// of it, made for an older ring after the look for work, may have taken the write away: then the
/// read has seen what came before that write, so a plain load finds `notified` set (`loom_tests`
/// lost a wake-up without that load). A producer that did not see it up yet comes before (1) in the
/// order of all accesses, so (2) of the `prepare` that raised it has found it.
#[derive(Debug, Default)]
pub(crate) struct Sleeper {
    /// Sleeps since a producer was seen.
    quiet: Cell<u32>,
    /// `notify_me` has been left up by the last `finish`.
    up: Cell<bool>,
}

impl Sleeper {
    /// So many sleeps without a producer, and the gate is left alone. The first producer after that
    /// pays one write(2) that it might have saved, and precision is back.
    const QUIET: u32 = if cfg!(loom) { 0 } else { 32 };

    /// As [`WakeGate::prepare`].
    #[inline]
    #[must_use]
    pub(crate) fn prepare(&self, gate: &WakeGate) -> bool {
        if self.up.get() { gate.is_notified() } else { gate.prepare() }
    }

    /// As [`WakeGate::finish`].
    #[inline]
    pub(crate) fn finish(&self, gate: &WakeGate) {
        if self.up.get() {
            return;
        }
        if self.quiet.get() < Self::QUIET {
            self.quiet.set(self.quiet.get() + 1);
            gate.finish();
        } else {
            self.up.set(true);
        }
    }

    /// As [`WakeGate::accept`].
    #[inline]
    pub(crate) fn accept(&self, gate: &WakeGate) {
        if gate.accept() {
            self.quiet.set(0);
            if self.up.replace(false) {
                gate.finish();
            }
        }
    }
}

#[cfg(all(test, loom))]
mod loom_tests;

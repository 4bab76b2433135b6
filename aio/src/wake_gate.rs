//! Decides when a producer may skip the write to the loop's eventfd.
//!
//! The handshake is QEMU's aio_notify / notify_me / notified (QEMU models it in
//! docs/spin/aio_notify.promela), and a mark for a write that was made. There are two flags and
//! four sequentially consistent accesses, which form one Dekker pair:
//!
//! ```text
//!   producer (any thread)                     consumer (home thread)
//!     publish the work                          notify_me += 1                  (1)
//!     set `notified`              (3)           if `notified`: do not sleep     (2)
//!     if it was `written`: done                 sleep
//!     if notify_me != 0: write    (4)           notify_me -= 1
//!                 set `written`   (6)           clear `notified` and `written`  (5)
//!                                               look for work
//! ```
//!
//! Either (4) sees the consumer's (1) and writes, or (2) sees the producer's (3) and does not
//! sleep: if both loads missed the other side's store, the total order of the four accesses would
//! contain a cycle. (5) comes before the look for work, so work published after the look leaves
//! `notified` set for the next turn. `notified` may be set although there is no work, but it is
//! never clear when there is unseen work.
//!
//! A producer must not skip the write because `notified` is *already* set: the wake-up would then
//! depend on the producer that set it, which may be preempted between (3) and (4) for any length of
//! time. It may skip the write if another producer has made one, and (6) says so: until (5) that
//! write ends any sleep, or `notified` prevents it. So a sleeping loop is written to about once,
//! however often it is notified until it wakes. (6) must not mark a write for a consumer that has
//! passed (5) since (3): each (5) begins a new round, and (6) only changes the round of its (3).
//!
//! If the producer checked with a load instead of the exchange of (3), its work would not be
//! released to (5), and the wake-up would be lost. `loom_tests` checks all this, and other
//! incorrect variants.

use crate::sync::{AtomicU32, Ordering, loom_fence};
use std::cell::Cell;

/// A producer has notified since the last `accept`.
const NOTIFIED: u32 = 1;
/// A producer has written since the last `accept`. Implies NOTIFIED.
const WRITTEN: u32 = 2;
/// The bits above count the calls of `accept` that found something. They may wrap: a producer would
/// have to be preempted in `notify` for 2^30 of these calls, exactly, to do harm.
const ROUND: u32 = 4;

/// The two flags. Any thread may be a producer; there is one consumer.
#[derive(Debug)]
pub(crate) struct WakeGate {
    /// One while a wait is between prepare and finish, or while the home thread leaves it raised
    /// ([`Sleeper`]). Only the home thread writes it.
    notify_me: AtomicU32,
    notified: AtomicU32,
}

impl WakeGate {
    pub(crate) fn new() -> Self {
        Self { notify_me: AtomicU32::new(0), notified: AtomicU32::new(0) }
    }

    /// Called by a producer after it has published its work. `write` is called if the eventfd must
    /// be written, and returns whether it was.
    #[inline]
    pub(crate) fn notify(&self, write: impl FnOnce() -> bool) {
        // (3) A read-modify-write, so that it also releases the work to the swap in `accept`.
        let before = self.notified.fetch_or(NOTIFIED, Ordering::SeqCst);
        if before & WRITTEN != 0 {
            return;
        }
        loom_fence();
        // (4)
        if self.notify_me.load(Ordering::SeqCst) != 0 && write() {
            self.mark_written(before | NOTIFIED);
        }
    }

    /// (6) Fails if the consumer has begun another round, or another producer has written.
    fn mark_written(&self, notified: u32) {
        let marked = notified | WRITTEN;
        let _ = self.notified.compare_exchange(notified, marked, Ordering::Release, Ordering::Relaxed);
    }

    /// Called by the consumer before it sleeps. Returns true if a producer has already notified;
    /// then the consumer must not sleep.
    #[must_use]
    pub(crate) fn prepare(&self) -> bool {
        // (1)
        self.notify_me.fetch_add(1, Ordering::SeqCst);
        loom_fence();
        // (2)
        self.notified.load(Ordering::SeqCst) & NOTIFIED != 0
    }

    /// Called by the consumer after it slept.
    pub(crate) fn finish(&self) {
        // There is one writer, so a load and a store are enough. A producer that still sees the old
        // value makes a needless write, which is harmless.
        self.notify_me.store(self.notify_me.load(Ordering::Relaxed) - 1, Ordering::Release);
    }

    /// Called by the consumer before it looks for work. Returns false if no producer has notified;
    /// this costs a load and no locked operation.
    pub(crate) fn accept(&self) -> bool {
        // (5) A flag that is set after this load stays set for the next turn, or is taken by the
        // swap: producers change nothing but the flags.
        let notified = self.notified.load(Ordering::Acquire);
        if notified & NOTIFIED == 0 {
            return false;
        }
        let next_round = (notified & !(NOTIFIED | WRITTEN)).wrapping_add(ROUND);
        self.notified.swap(next_round, Ordering::SeqCst);
        true
    }

    /// Called by the consumer while busy polling. Returns true if a producer has notified since the
    /// last `accept`. Costs one load.
    pub(crate) fn is_notified(&self) -> bool {
        self.notified.load(Ordering::Acquire) & NOTIFIED != 0
    }
}

/// The consumer's side of a gate, used only by the home thread. It leaves `notify_me` raised while
/// no producer notifies.
///
/// Raising it costs a locked operation before each sleep, so that producers can skip their write(2)
/// while the loop is awake. If no producer has notified for a while, this saves nothing. As long as
/// it stays raised, each producer writes the eventfd, and that ends the sleep. The one exception is
/// a read(2) of the eventfd for an older ring, made after the look for work, which may have
/// consumed the write. That read has also seen everything before the write, so a plain load then
/// finds `notified` set (without this load, `loom_tests` finds a lost wake-up). A producer that did
/// not yet see it raised comes before (1) in the order of all accesses, so (2) of the `prepare`
/// that raised it has found its `notified`.
#[derive(Debug, Default)]
pub(crate) struct Sleeper {
    /// Number of sleeps since a producer last notified.
    quiet: Cell<u32>,
    /// Whether the last `finish` left `notify_me` raised.
    up: Cell<bool>,
}

impl Sleeper {
    /// After this many sleeps without a producer, `notify_me` stays raised. The first producer
    /// after that makes one write(2) that might have been unnecessary; then the gate is lowered
    /// after each sleep again.
    const QUIET: u32 = if cfg!(loom) { 0 } else { 32 };

    /// Like [`WakeGate::prepare`].
    #[inline]
    #[must_use]
    pub(crate) fn prepare(&self, gate: &WakeGate) -> bool {
        if self.up.get() { gate.is_notified() } else { gate.prepare() }
    }

    /// Like [`WakeGate::finish`].
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

    /// Like [`WakeGate::accept`].
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

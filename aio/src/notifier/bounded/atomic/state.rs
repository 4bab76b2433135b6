//! The count, its maximum, and the registered waiters: 64 bytes that any number of threads and
//! processes share.
//!
//! The count and the maximum are the two halves of one 64-bit word. Each change is one
//! compare-and-swap that sees both, so the bound is exact even while the maximum changes. A thread
//! that has to wait first registers, then checks the word again, and only then sleeps. A thread
//! that changes the word checks for registered waiters afterwards. This is the Dekker pattern (each
//! side writes, then reads what the other wrote), used twice:
//!
//! ```text
//!   producer without room                      consumer
//!     writers.waiting += 1       (1)             word: count = 0, or - 1     (3)
//!     word: is there room now?   (2)             writers.waiting? then wake  (4)
//!     sleep
//!
//!   consumer without a count                   producer
//!     armed = 1, or readers.waiting += 1         word: count += n
//!     word: is there a count now?                armed, readers.waiting? then ring, wake
//!     sleep
//! ```
//!
//! All accesses are sequentially consistent: if (2) does not see (3), then (4) sees (1). Threads
//! sleep in futex(2) on a sequence number. It is read before the check (2) and incremented before
//! each wake, so a wake between the check and the sleep is not missed. `loom_tests` checks both
//! pairs, and some incorrect variants of them.

use super::futex::Futex;
use crate::sync::{AtomicU32, AtomicU64, Ordering::SeqCst, loom_fence};
use std::io;

/// The value of the first 32-bit word: identifies the layout and its version.
pub(super) const MAGIC: u32 = u32::from_be_bytes(*b"bnd1");

/// Stands for "no maximum". Zero is free for this because it is not a legal maximum.
const UNLIMITED: u32 = 0;

/// The two halves of the word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Level {
    count: u32,
    maximum: u32,
}

impl Level {
    fn unpack(word: u64) -> Self {
        Self { count: word as u32, maximum: (word >> 32) as u32 }
    }

    fn pack(self) -> u64 {
        u64::from(self.maximum) << 32 | u64::from(self.count)
    }

    /// The overflow level; the count always stays below it.
    fn limit(self) -> u64 {
        if self.maximum == UNLIMITED { 1 << 32 } else { self.maximum.into() }
    }

    /// The inequality that the kernel applies to write(2) of `n`. Returns false if a peer has
    /// written an invalid state.
    fn admits(self, n: u64) -> bool {
        let (limit, count) = (self.limit(), self.count.into());
        limit > count && limit - count > n
    }
}

/// Threads that sleep until the word changes.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Sleepers {
    /// Incremented before each wake.
    sequence: Futex,
    /// Number of registered threads; they may be asleep.
    pub(super) waiting: AtomicU32,
}

impl Sleepers {
    fn new() -> Self {
        Self { sequence: Futex::new(), waiting: AtomicU32::new(0) }
    }

    /// Registers, and sleeps until `look` returns a value. `slept` is called before each sleep.
    pub(super) fn sleep_until<R>(
        &self,
        mut look: impl FnMut() -> Option<R>,
        mut slept: impl FnMut(),
    ) -> io::Result<R> {
        let _registered = Registered::at(&self.waiting);
        loop {
            let sequence = self.sequence.load();
            if let Some(result) = look() {
                return Ok(result);
            }
            slept();
            self.sequence.wait(sequence)?;
        }
    }

    /// Wakes up to `n` threads.
    pub(super) fn wake(&self, n: u32) {
        self.sequence.bump();
        self.sequence.wake(n);
    }
}

/// Adds one to a count of waiters; dropping it subtracts one.
#[derive(Debug)]
pub(super) struct Registered<'a>(&'a AtomicU32);

impl<'a> Registered<'a> {
    pub(super) fn at(count: &'a AtomicU32) -> Self {
        // (1)
        count.fetch_add(1, SeqCst);
        loom_fence();
        Self(count)
    }
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

/// Whom a producer has to wake after adding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Arrived {
    /// Ring the doorbell: a loop sleeps on it.
    pub(super) ring: bool,
    /// Wake this many of `readers`.
    pub(super) wake: u32,
}

/// What a consumer took, and whom it has to wake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Taken {
    pub(super) count: u32,
    /// Ring the room doorbell: a loop waits for room.
    pub(super) ring_room: bool,
    /// Wake this many of `writers`.
    pub(super) wake: u32,
}

/// The shared state; see the module. It fills one cache line. A notify or take that nobody waits
/// for writes only `word`.
#[derive(Debug)]
#[repr(C, align(64))]
pub(super) struct State {
    pub(super) magic: AtomicU32,
    /// Nonzero if each take takes one unit, as with EFD_SEMAPHORE.
    semaphore: AtomicU32,
    /// [`Level`], packed.
    word: AtomicU64,
    /// Nonzero while a loop sleeps, or is about to sleep, on the doorbell. The producer that clears
    /// it rings the doorbell.
    armed: AtomicU32,
    /// Nonzero once stopped; never reset.
    stopped: AtomicU32,
    pub(super) readers: Sleepers,
    pub(super) writers: Sleepers,
    /// How many of `writers` want to add more than one. They register here before they register in
    /// `writers`.
    pub(super) large: AtomicU32,
    /// Number of loops that wait for the room doorbell.
    pub(super) wanting: AtomicU32,
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<State>() == 64, "one cache line, and the same layout in every process");

/// Encodes a maximum as stored in the word. Returns `None` if it is zero or does not fit.
pub(super) fn encode(maximum: u64) -> Option<u32> {
    match maximum {
        u64::MAX => Some(UNLIMITED),
        0 => None,
        _ => u32::try_from(maximum).ok(),
    }
}

impl State {
    /// `maximum` must come from [`encode`].
    pub(super) fn new(maximum: u32, semaphore: bool) -> Self {
        Self {
            magic: AtomicU32::new(MAGIC),
            semaphore: AtomicU32::new(semaphore.into()),
            word: AtomicU64::new(Level { count: 0, maximum }.pack()),
            armed: AtomicU32::new(0),
            stopped: AtomicU32::new(0),
            readers: Sleepers::new(),
            writers: Sleepers::new(),
            large: AtomicU32::new(0),
            wanting: AtomicU32::new(0),
        }
    }

    fn level(&self) -> Level {
        Level::unpack(self.word.load(SeqCst))
    }

    pub(super) fn count(&self) -> u64 {
        self.level().count.into()
    }

    pub(super) fn maximum(&self) -> u64 {
        match self.level().maximum {
            UNLIMITED => u64::MAX,
            maximum => maximum.into(),
        }
    }

    pub(super) fn admits(&self, n: u64) -> bool {
        self.level().admits(n)
    }

    pub(super) fn is_semaphore(&self) -> bool {
        self.semaphore.load(SeqCst) != 0
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.load(SeqCst) != 0
    }

    /// Ends every sleep, now and later.
    pub(super) fn stop(&self) {
        self.stopped.store(1, SeqCst);
        loom_fence();
        self.readers.wake(u32::MAX);
        self.writers.wake(u32::MAX);
    }

    /// Adds `n` if the bound admits it. The caller must then ring and wake as the result says.
    /// Returns `None` if there is no room.
    #[inline]
    pub(super) fn try_add(&self, n: u64) -> Option<Arrived> {
        let mut word = self.word.load(SeqCst);
        loop {
            let level = Level::unpack(word);
            if !level.admits(n) {
                return None;
            }
            // `n` was admitted, so the sum is below the limit, which is at most 2^32.
            let sum = Level { count: level.count + n as u32, ..level };
            match self.word.compare_exchange_weak(word, sum.pack(), SeqCst, SeqCst) {
                Ok(_) => break,
                Err(now) => word = now,
            }
        }
        loom_fence();
        Some(self.arrived(n as u32))
    }

    #[inline]
    fn arrived(&self, n: u32) -> Arrived {
        // A write(2) of zero to an eventfd wakes its pollers, who find nothing to read. Here adding
        // zero wakes nobody.
        if n == 0 {
            return Arrived { ring: false, wake: 0 };
        }
        let ring = self.armed.load(SeqCst) != 0 && self.armed.swap(0, SeqCst) != 0;
        let wake = match self.readers.waiting.load(SeqCst) {
            0 => 0,
            _ if self.is_semaphore() => n,
            // One take takes the whole count.
            _ => 1,
        };
        Arrived { ring, wake }
    }

    /// Takes the whole count, or one unit of a semaphore. The caller must then ring and wake as the
    /// result says. Returns `None` if the count is zero.
    #[inline]
    pub(super) fn try_take(&self) -> Option<Taken> {
        let mut word = self.word.load(SeqCst);
        let count = loop {
            let level = Level::unpack(word);
            if level.count == 0 {
                return None;
            }
            let count = if self.is_semaphore() { 1 } else { level.count };
            let rest = Level { count: level.count - count, ..level };
            // (3)
            match self.word.compare_exchange_weak(word, rest.pack(), SeqCst, SeqCst) {
                Ok(_) => break count,
                Err(now) => word = now,
            }
        };
        loom_fence();
        Some(Taken { count, ring_room: self.wanting.load(SeqCst) != 0, wake: self.writers_to_wake(count) })
    }

    /// Step (4): how many writers to wake when `room` units have been freed. If every writer wants
    /// one unit, waking `room` of them is enough. A writer that wants more might be woken without
    /// having enough room, while another could have used the wake-up; so if there is such a writer,
    /// all are woken.
    fn writers_to_wake(&self, room: u32) -> u32 {
        match self.writers.waiting.load(SeqCst) {
            0 => 0,
            _ if self.large.load(SeqCst) != 0 => u32::MAX,
            _ => room,
        }
    }

    /// Sets the maximum. The caller must then wake writers and ring the room doorbell as the result
    /// says. Returns `None` if the count has already reached the new maximum.
    pub(super) fn set_maximum(&self, maximum: u32) -> Option<Taken> {
        let mut word = self.word.load(SeqCst);
        loop {
            let level = Level { maximum, ..Level::unpack(word) };
            if u64::from(level.count) >= level.limit() {
                return None;
            }
            match self.word.compare_exchange_weak(word, level.pack(), SeqCst, SeqCst) {
                Ok(_) => break,
                Err(now) => word = now,
            }
        }
        loom_fence();
        let wake = if self.writers.waiting.load(SeqCst) == 0 { 0 } else { u32::MAX };
        Some(Taken { count: 0, ring_room: self.wanting.load(SeqCst) != 0, wake })
    }

    /// Unregisters a loop from the room doorbell. Returns true if other loops are still registered.
    pub(super) fn wants_no_more(&self) -> bool {
        self.wanting.fetch_sub(1, SeqCst) != 1
    }

    /// Announces that a loop is about to sleep on the doorbell. Returns false if there is a count
    /// already; then the loop must not sleep.
    pub(super) fn arm(&self) -> bool {
        self.armed.store(1, SeqCst);
        loom_fence();
        if self.level().count == 0 {
            return true;
        }
        // A producer may have cleared it just before, and then rings the doorbell needlessly. That
        // is harmless.
        self.armed.store(0, SeqCst);
        false
    }
}

#[cfg(all(test, loom))]
#[path = "loom_tests.rs"]
mod loom_tests;

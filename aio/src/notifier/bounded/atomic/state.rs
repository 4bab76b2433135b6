//! The count, its maximum and who waits: 64 bytes of memory that any number of threads and
//! processes share.
//!
//! Count and maximum are the two halves of one word, so each change of either is one
//! compare-and-swap and sees both as they are: the bound is exact, also while it changes. Whoever
//! finds nothing to do registers, looks once more, and only then sleeps; whoever changes the word
//! looks afterwards who is registered. Twice the same Dekker pair:
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
//! All accesses are sequentially consistent: if (2) misses (3) then (4) sees (1). A sleep is
//! futex(2) on a sequence number that was read before the look (2) and is raised before each wake,
//! so a wake between look and sleep is not missed either. `loom_tests` has both pairs, and the
//! mistakes near by.

use super::futex::Futex;
use crate::sync::{AtomicU32, AtomicU64, Ordering::SeqCst, loom_fence};
use std::io;

/// What the first word of the memory must hold: the layout and its version.
pub(super) const MAGIC: u32 = u32::from_be_bytes(*b"bnd1");

/// No maximum, as the half word holds it: zero is no legal one.
const UNLIMITED: u32 = 0;

/// The halves of the word.
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

    /// The overflow level: the count stays below it.
    fn limit(self) -> u64 {
        if self.maximum == UNLIMITED { 1 << 32 } else { self.maximum.into() }
    }

    /// The kernel's inequality for write(2) of `n`. Memory that a peer has spoilt admits nothing.
    fn admits(self, n: u64) -> bool {
        let (limit, count) = (self.limit(), self.count.into());
        limit > count && limit - count > n
    }
}

/// Threads that sleep until the word changes.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Sleepers {
    /// Raised before each wake.
    sequence: Futex,
    /// Registered, and perhaps asleep.
    pub(super) waiting: AtomicU32,
}

impl Sleepers {
    fn new() -> Self {
        Self { sequence: Futex::new(), waiting: AtomicU32::new(0) }
    }

    /// Registers, and sleeps until a look gives something. `slept` is called before each sleep.
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

    /// Wakes up to `n` of them.
    pub(super) fn wake(&self, n: u32) {
        self.sequence.bump();
        self.sequence.wake(n);
    }
}

/// One more in a count of those who wait, until dropped.
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

/// Whom a producer has to wake.
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

/// See the module. One cache line, of which a fast notify and a fast take write only the word.
#[derive(Debug)]
#[repr(C, align(64))]
pub(super) struct State {
    pub(super) magic: AtomicU32,
    /// Each take takes one, as with EFD_SEMAPHORE.
    semaphore: AtomicU32,
    /// [`Level`], packed.
    word: AtomicU64,
    /// A loop sleeps, or is about to, until the doorbell rings; the producer that clears it rings.
    armed: AtomicU32,
    /// For good.
    stopped: AtomicU32,
    pub(super) readers: Sleepers,
    pub(super) writers: Sleepers,
    /// Those among `writers` that want more than one: registered here first.
    pub(super) large: AtomicU32,
    /// Loops that wait for the room doorbell.
    pub(super) wanting: AtomicU32,
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<State>() == 64, "one cache line, and the same layout in every process");

/// The half word for a maximum; `None` if it does not fit.
pub(super) fn encode(maximum: u64) -> Option<u32> {
    match maximum {
        u64::MAX => Some(UNLIMITED),
        0 => None,
        _ => u32::try_from(maximum).ok(),
    }
}

impl State {
    /// `maximum` as [`encode`] gives it.
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

    /// Adds `n` if the bound admits it; then the caller rings and wakes. `None`: no room.
    #[inline]
    pub(super) fn try_add(&self, n: u64) -> Option<Arrived> {
        let mut word = self.word.load(SeqCst);
        loop {
            let level = Level::unpack(word);
            if !level.admits(n) {
                return None;
            }
            // Admitted, so the sum is below the limit, which is 2^32 at most.
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
        // A write(2) of zero wakes a poller of an eventfd, who then finds nothing; here nobody is
        // troubled.
        if n == 0 {
            return Arrived { ring: false, wake: 0 };
        }
        let ring = self.armed.load(SeqCst) != 0 && self.armed.swap(0, SeqCst) != 0;
        let wake = match self.readers.waiting.load(SeqCst) {
            0 => 0,
            _ if self.is_semaphore() => n,
            // One take is all.
            _ => 1,
        };
        Arrived { ring, wake }
    }

    /// Takes the count, or one of it; then the caller wakes. `None`: there is none.
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

    /// (4) How many writers to wake for `room` that has come. Those that want one each need no more
    ///     than the room; one that wants more may not be able to use a wake that another could, so
    ///     then all are woken.
    fn writers_to_wake(&self, room: u32) -> u32 {
        match self.writers.waiting.load(SeqCst) {
            0 => 0,
            _ if self.large.load(SeqCst) != 0 => u32::MAX,
            _ => room,
        }
    }

    /// Sets the maximum unless the count has reached it; then the caller wakes writers and rings
    /// the room doorbell.
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

    /// A loop wants the room doorbell no longer. True if others do.
    pub(super) fn wants_no_more(&self) -> bool {
        self.wanting.fetch_sub(1, SeqCst) != 1
    }

    /// A loop is about to sleep on the doorbell. False: there is a count already, do not sleep.
    pub(super) fn arm(&self) -> bool {
        self.armed.store(1, SeqCst);
        loom_fence();
        if self.level().count == 0 {
            return true;
        }
        // Whether or not a producer has just cleared it, and rings for nothing.
        self.armed.store(0, SeqCst);
        false
    }
}

#[cfg(all(test, loom))]
#[path = "loom_tests.rs"]
mod loom_tests;

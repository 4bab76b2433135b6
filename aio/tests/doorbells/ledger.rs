//! Who rang, what the loop has seen, and who still waits.
//!
//! Each ringing thread counts upwards: it publishes a number and then rings. The handler reports
//! the number that it finds. Rings may coalesce, so the number of calls says nothing. But once a
//! thread waits, its last number must be seen without any further ring: if that ring is lost, the
//! thread waits forever, and the watchdog reports it.

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::Thread;

/// The threads that ring.
pub(crate) const THREADS: usize = 4;

/// One ringing thread. Each line has a cache line of its own, as the rings of devices have.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Line {
    /// The last number that was published. Only the ringing thread writes it.
    published: AtomicU64,
    /// The last number that the handler saw. Only the loop writes it.
    seen: AtomicU64,
    /// Rings that were really made. A thread leaves out those that a device did not ask for.
    rung: AtomicU64,
    checkpoints: AtomicU64,
    waiting: AtomicBool,
    thread: OnceLock<Thread>,
}

/// The ledger of one run.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    lines: [Line; THREADS],
    /// Threads that have rung for the last time and were seen.
    finished: AtomicU64,
    calls: AtomicU64,
    turns: AtomicU64,
}

/// The sums of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sums {
    pub(crate) published: u64,
    pub(crate) seen: u64,
    pub(crate) rung: u64,
    pub(crate) checkpoints: u64,
    pub(crate) calls: u64,
    pub(crate) turns: u64,
}

impl Ledger {
    /// Publishes the next number of thread `i`, before it rings.
    pub(crate) fn publish(&self, i: usize) -> u64 {
        let line = &self.lines[i];
        let number = line.published.load(Ordering::Relaxed) + 1;
        // Sequentially consistent, for a thread that decides afterwards whether to ring.
        line.published.store(number, Ordering::SeqCst);
        number
    }

    pub(crate) fn rang(&self, i: usize) {
        self.lines[i].rung.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns true if thread `i` has published what the loop has not seen.
    pub(crate) fn is_unseen(&self, i: usize) -> bool {
        let line = &self.lines[i];
        line.published.load(Ordering::SeqCst) != line.seen.load(Ordering::Relaxed)
    }

    /// Called by the handler: everything that thread `i` has published is seen.
    pub(crate) fn see(&self, i: usize) {
        let line = &self.lines[i];
        let number = line.published.load(Ordering::SeqCst);
        if number == line.seen.load(Ordering::Relaxed) {
            return;
        }
        line.seen.store(number, Ordering::SeqCst);
        if line.waiting.load(Ordering::SeqCst)
            && let Some(thread) = line.thread.get()
        {
            thread.unpark();
        }
    }

    pub(crate) fn count_call(&self) {
        self.calls.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_turn(&self) {
        self.turns.fetch_add(1, Ordering::Relaxed);
    }

    /// Waits in thread `i` until the loop has seen `number`, without ringing again.
    pub(crate) fn wait(&self, i: usize, number: u64) {
        let line = &self.lines[i];
        line.thread.get_or_init(std::thread::current);
        line.checkpoints.fetch_add(1, Ordering::Relaxed);
        line.waiting.store(true, Ordering::SeqCst);
        while line.seen.load(Ordering::SeqCst) < number {
            std::thread::park();
        }
        line.waiting.store(false, Ordering::SeqCst);
    }

    pub(crate) fn finish(&self) {
        self.finished.fetch_add(1, Ordering::SeqCst);
    }

    pub(crate) fn all_finished(&self) -> bool {
        self.finished.load(Ordering::SeqCst) == THREADS as u64
    }

    pub(crate) fn sums(&self) -> Sums {
        let sum = |of: fn(&Line) -> &AtomicU64| self.lines.iter().map(|l| of(l).load(Ordering::SeqCst)).sum();
        Sums {
            published: sum(|line| &line.published),
            seen: sum(|line| &line.seen),
            rung: sum(|line| &line.rung),
            checkpoints: sum(|line| &line.checkpoints),
            calls: self.calls.load(Ordering::Relaxed),
            turns: self.turns.load(Ordering::Relaxed),
        }
    }
}

/// Names who waits for what.
impl fmt::Display for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, line) in self.lines.iter().enumerate() {
            let (published, seen) = (line.published.load(Ordering::SeqCst), line.seen.load(Ordering::SeqCst));
            let what = match line.waiting.load(Ordering::SeqCst) {
                true if seen < published => "waits for the loop to see it: its ring is lost",
                true => "was seen, and has not woken up yet",
                false => "does not wait; if all is seen, it has finished",
            };
            writeln!(f, "    thread {i} published {published}, the loop saw {seen}; the thread {what}")?;
        }
        let (turns, calls) = (self.turns.load(Ordering::Relaxed), self.calls.load(Ordering::Relaxed));
        write!(f, "    the loop has made {turns} turns and {calls} calls of handlers")
    }
}

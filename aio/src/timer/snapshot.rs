//! Two words that change together: any thread reads them without a lock.
//!
//! A sequence lock, as the kernel's seqcount (include/linux/seqlock.h): the number is odd while the
//! words change, and a reader whose two looks at it differ reads again. What a reader computes from
//! the words belongs to the read. So a reading of the host's clock in [`Snapshot::read`] comes
//! before those in the [`Snapshot::change`] that ends what was read.

use crate::sync::{AtomicU32, AtomicU64, Mutex, MutexGuard, Ordering, fence};
use std::sync::PoisonError;

pub(super) type Words = [u64; 2];

#[derive(Debug)]
pub(super) struct Snapshot {
    /// Odd while the words change.
    sequence: AtomicU32,
    words: [AtomicU64; 2],
    /// Held by the thread that changes the words.
    writer: Mutex<()>,
}

impl Snapshot {
    pub(super) fn new(words: Words) -> Self {
        Self { sequence: AtomicU32::new(0), words: words.map(AtomicU64::new), writer: Mutex::new(()) }
    }

    /// Returns what `look` makes of the words. Waits only for a thread that is in
    /// [`change`](Self::change); `look` may run more than once.
    #[inline]
    pub(super) fn read<R>(&self, look: impl Fn(Words) -> R) -> R {
        loop {
            let before = self.sequence.load(Ordering::Acquire);
            if before & 1 == 0 {
                let found = look(self.words.each_ref().map(|word| word.load(Ordering::Relaxed)));
                // Pairs with the fence in `change`: if a word was new, the number is new, too.
                fence(Ordering::Acquire);
                if self.sequence.load(Ordering::Relaxed) == before {
                    return found;
                }
            }
            self.wait_for_writer();
        }
    }

    /// Replaces the words by what `next` returns. Nothing changes if it returns `None`. Returns
    /// whether they were replaced.
    pub(super) fn change(&self, next: impl FnOnce(Words) -> Option<Words>) -> bool {
        let _alone = self.lock();
        let sequence = self.sequence.load(Ordering::Relaxed);
        self.sequence.store(sequence.wrapping_add(1), Ordering::Relaxed);
        // The number is odd before anything is read or written.
        fence(Ordering::SeqCst);
        let words = next(self.words.each_ref().map(|word| word.load(Ordering::Relaxed)));
        for (word, value) in self.words.iter().zip(words.into_iter().flatten()) {
            word.store(value, Ordering::Relaxed);
        }
        self.sequence.store(sequence.wrapping_add(2), Ordering::Release);
        words.is_some()
    }

    #[cold]
    fn wait_for_writer(&self) {
        drop(self.lock());
    }

    fn lock(&self) -> MutexGuard<'_, ()> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// ```text
/// RUSTFLAGS="--cfg loom" cargo test -p aio-context --release --lib loom
/// ```
#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use loom::sync::Arc;
    use loom::thread;

    #[test]
    fn a_reader_sees_the_words_of_one_change() {
        loom::model(|| {
            let snapshot = Arc::new(Snapshot::new([0, 0]));
            let writers = [1, 10].map(|by| {
                let snapshot = Arc::clone(&snapshot);
                thread::spawn(move || snapshot.change(|[a, b]| Some([a + by, b + by])))
            });
            let (first, second) = (snapshot.read(|words| words), snapshot.read(|words| words));
            assert!(first[0] == first[1] && second[0] == second[1], "{first:?}, {second:?}");
            assert!(first[0] <= second[0], "{first:?} before {second:?}");
            writers.into_iter().for_each(|t| drop(t.join().unwrap()));
            assert_eq!(snapshot.read(|words| words), [11, 11]);
        });
    }
}

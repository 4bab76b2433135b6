//! A futex word: the kernel's futex, or a model of it under loom.

use crate::sync::{AtomicU32, Ordering::SeqCst};
#[cfg(not(loom))]
use crate::sys::futex;
use std::io;

/// A word to sleep on. It occupies four bytes in shared memory.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Futex {
    word: AtomicU32,
    #[cfg(loom)]
    queue: loom::sync::Mutex<()>,
    #[cfg(loom)]
    woken: loom::sync::Condvar,
}

impl Futex {
    pub(super) fn new() -> Self {
        Self {
            word: AtomicU32::new(0),
            #[cfg(loom)]
            queue: loom::sync::Mutex::new(()),
            #[cfg(loom)]
            woken: loom::sync::Condvar::new(),
        }
    }

    pub(super) fn load(&self) -> u32 {
        self.word.load(SeqCst)
    }

    pub(super) fn bump(&self) {
        self.word.fetch_add(1, SeqCst);
    }

    /// Sleeps while the word holds `expected`. May return spuriously.
    #[cfg(not(loom))]
    pub(super) fn wait(&self, expected: u32) -> io::Result<()> {
        futex::wait(&self.word, expected)
    }

    /// Wakes up to `n` sleepers.
    #[cfg(not(loom))]
    pub(super) fn wake(&self, n: u32) {
        // The address is mapped and aligned, so this cannot fail; and the caller could not handle a
        // failure.
        let woken = futex::wake(&self.word, n);
        debug_assert!(woken.is_ok(), "{woken:?}");
    }

    /// As in the kernel, comparing and queueing happen under one lock.
    #[cfg(loom)]
    pub(super) fn wait(&self, expected: u32) -> io::Result<()> {
        let queue = self.queue.lock().unwrap();
        if self.word.load(SeqCst) == expected {
            drop(self.woken.wait(queue).unwrap());
        }
        Ok(())
    }

    #[cfg(loom)]
    pub(super) fn wake(&self, n: u32) {
        let _queue = self.queue.lock().unwrap();
        match n {
            0 => {}
            1 => self.woken.notify_one(),
            _ => self.woken.notify_all(),
        }
    }
}

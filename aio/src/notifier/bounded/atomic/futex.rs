//! A futex word: the kernel's, or under loom a model of it.

use crate::sync::{AtomicU32, Ordering::SeqCst};
#[cfg(not(loom))]
use crate::sys::futex;
use std::io;

/// A word to sleep on. In shared memory it is four bytes.
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

    /// Sleeps while the word holds `expected`; perhaps returns for nothing.
    #[cfg(not(loom))]
    pub(super) fn wait(&self, expected: u32) -> io::Result<()> {
        futex::wait(&self.word, expected)
    }

    /// Wakes up to `n` sleepers.
    #[cfg(not(loom))]
    pub(super) fn wake(&self, n: u32) {
        // The address is mapped and aligned, so there is no error; a wake that failed could not be
        // made up for either.
        let woken = futex::wake(&self.word, n);
        debug_assert!(woken.is_ok(), "{woken:?}");
    }

    /// The kernel compares and queues under one lock.
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

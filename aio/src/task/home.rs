//! Which thread is the home thread, and values that only it may touch although other threads have
//! references to what they are in.
#![expect(unsafe_code, reason = "shares a value with threads that cannot get at it")]

use std::cell::{Cell, RefCell};
use std::mem::ManuallyDrop;
use std::sync::atomic::{AtomicU64, Ordering};

#[cfg(not(loom))]
thread_local! {
    /// The thread's number; 0 until it asks for one.
    static NUMBER: Cell<u64> = const { Cell::new(0) };
}
#[cfg(loom)]
loom::thread_local! {
    static NUMBER: Cell<u64> = Cell::new(0);
}

/// A thread. Its number is given once, unlike the ids that the system gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Thread(u64);

impl Thread {
    pub(crate) fn current() -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        NUMBER.with(|number| {
            if number.get() == 0 {
                number.set(LAST.fetch_add(1, Ordering::Relaxed) + 1);
            }
            Self(number.get())
        })
    }

    /// One load and one comparison.
    #[inline]
    pub(crate) fn is_current(self) -> bool {
        NUMBER.with(Cell::get) == self.0
    }
}

/// A value of the thread that made it. Others find nothing.
#[derive(Debug)]
pub(crate) struct HomeCell<T> {
    thread: Thread,
    value: ManuallyDrop<RefCell<T>>,
}

// SAFETY: the value is reached only through `get`, and dropped only by `drop`, and both ask first
// whether this is the thread that made it.
unsafe impl<T> Send for HomeCell<T> {}
// SAFETY: as above. A `&RefCell` cannot be passed on to another thread.
unsafe impl<T> Sync for HomeCell<T> {}

impl<T> HomeCell<T> {
    pub(crate) fn new(value: T) -> Self {
        Self { thread: Thread::current(), value: ManuallyDrop::new(RefCell::new(value)) }
    }

    /// The value; `None` in another thread.
    #[inline]
    pub(crate) fn get(&self) -> Option<&RefCell<T>> {
        self.thread.is_current().then_some(&*self.value)
    }
}

impl<T> Drop for HomeCell<T> {
    /// In another thread the value is leaked. Its owner empties it first, so it is small.
    fn drop(&mut self) {
        if self.thread.is_current() {
            // SAFETY: this is the thread that made it, and nobody uses it after this.
            unsafe { ManuallyDrop::drop(&mut self.value) };
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::rc::Rc;

    #[test]
    fn only_its_thread_has_the_value() {
        let value = Rc::new(());
        let cell = HomeCell::new(Rc::clone(&value));
        let cell = std::thread::scope(|scope| {
            let other = scope.spawn(move || {
                assert!(cell.get().is_none());
                assert_ne!(Thread::current(), cell.thread);
                cell
            });
            other.join().unwrap()
        });
        assert!(cell.get().is_some());
        drop(cell);
        assert_eq!(Rc::strong_count(&value), 1);
    }

    #[test]
    fn a_value_dropped_elsewhere_stays_where_it_is() {
        let value = Rc::new(());
        let cell = HomeCell::new(Rc::clone(&value));
        std::thread::spawn(move || drop(cell)).join().unwrap();
        assert_eq!(Rc::strong_count(&value), 2, "leaked, not dropped by the wrong thread");
    }
}

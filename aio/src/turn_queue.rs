//! A queue that a turn works through up to a mark.
//!
//! A turn runs what was queued when it began. Whatever a callback queues belongs to the next turn,
//! so a turn ends whatever its callbacks do. A nested turn takes items from the same queue, which
//! counts what was taken: the outer turn still stops at its own mark and runs nothing twice.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

/// First in, first out.
#[derive(Debug)]
pub(crate) struct TurnQueue<T> {
    items: RefCell<VecDeque<T>>,
    /// How many items were ever taken. Wraps around.
    taken: Cell<usize>,
}

/// A place in a [`TurnQueue`]: behind the last item that belongs to a turn.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark(usize);

impl<T> Default for TurnQueue<T> {
    fn default() -> Self {
        Self { items: RefCell::default(), taken: Cell::new(0) }
    }
}

impl<T> TurnQueue<T> {
    pub(crate) fn push(&self, item: T) {
        self.items.borrow_mut().push_back(item);
    }

    /// Queues several items; `fill` must not use this queue.
    pub(crate) fn append(&self, fill: impl FnOnce(&mut VecDeque<T>)) {
        fill(&mut self.items.borrow_mut());
    }

    /// The mark behind the items that are queued now, `most` of them at most.
    pub(crate) fn mark(&self, most: usize) -> Mark {
        Mark(self.taken.get().wrapping_add(self.items.borrow().len().min(most)))
    }

    /// Takes the first item if it is in front of the mark.
    #[inline]
    pub(crate) fn pop(&self, mark: Mark) -> Option<T> {
        // A nested turn may have taken items behind the mark.
        if mark.0.wrapping_sub(self.taken.get()) as isize <= 0 {
            return None;
        }
        let item = self.items.borrow_mut().pop_front()?;
        self.taken.set(self.taken.get().wrapping_add(1));
        Some(item)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.items.borrow().is_empty()
    }

    /// Looks at the queued items in order until `look` returns something.
    pub(crate) fn find_map<R>(&self, look: impl FnMut(&T) -> Option<R>) -> Option<R> {
        self.items.borrow().iter().find_map(look)
    }

    /// Takes everything out.
    pub(crate) fn take_all(&self) -> VecDeque<T> {
        self.items.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_takes_what_was_there_when_it_began() {
        let queue = TurnQueue::default();
        (0..3).for_each(|n| queue.push(n));
        let mark = queue.mark(usize::MAX);
        let mut seen = Vec::new();
        while let Some(n) = queue.pop(mark) {
            seen.push(n);
            queue.push(n + 10);
        }
        assert_eq!(seen, [0, 1, 2]);
        assert_eq!(queue.take_all(), [10, 11, 12]);
    }

    #[test]
    fn a_nested_turn_takes_from_the_same_queue() {
        let queue = TurnQueue::default();
        (0..3).for_each(|n| queue.push(n));
        let outer = queue.mark(usize::MAX);
        assert_eq!(queue.pop(outer), Some(0));
        queue.push(3);
        let nested = queue.mark(usize::MAX);
        assert_eq!([(); 3].map(|()| queue.pop(nested)), [Some(1), Some(2), Some(3)]);
        assert_eq!(queue.pop(nested), None);
        queue.push(4);
        assert_eq!(queue.pop(outer), None, "queued after the outer turn began");
    }

    #[test]
    fn a_mark_may_leave_items_for_the_next_turn() {
        let queue = TurnQueue::default();
        (0..3).for_each(|n| queue.push(n));
        let mark = queue.mark(2);
        assert_eq!([(); 3].map(|()| queue.pop(mark)), [Some(0), Some(1), None]);
        assert!(!queue.is_empty());
    }
}

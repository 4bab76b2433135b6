//! SQEs that found the submission queue full. They wait here, in order, for the next enter.
#![expect(unsafe_code, reason = "pushes SQEs whose pointers were vouched for when they were queued")]

use crate::sys::uring::Ring;
use io_uring::squeue;
use std::collections::VecDeque;

#[derive(Debug, Default)]
pub(super) struct Backlog(VecDeque<Waiting>);

#[derive(Debug)]
struct Waiting {
    entry: squeue::Entry,
    /// The next one must be in the same enter: they are linked.
    is_followed: bool,
}

impl Backlog {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds entries that the kernel must get with one enter. There may be at most as many as the
    /// queue has entries.
    ///
    /// # Safety
    /// What they point to must stay valid until their last completions were reaped.
    pub(super) unsafe fn add(&mut self, unit: &[squeue::Entry]) {
        let last = unit.len().saturating_sub(1);
        let waiting = |(index, entry): (usize, &squeue::Entry)| Waiting {
            entry: entry.clone(),
            is_followed: index != last,
        };
        self.0.extend(unit.iter().enumerate().map(waiting));
    }

    /// Moves to the queue what it has room for, units as a whole.
    pub(super) fn flush(&mut self, ring: &mut Ring) {
        while let Some(last) = self.0.iter().position(|waiting| !waiting.is_followed)
            && last < ring.room()
        {
            for Waiting { entry, .. } in self.0.drain(..=last) {
                // SAFETY: whoever added the entry promised that what it points to stays valid.
                // There is room.
                let pushed = unsafe { ring.push(&entry) };
                debug_assert!(pushed.is_ok());
            }
        }
    }
}

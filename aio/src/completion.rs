//! The operations of a ring that are in flight, and what they hold until their last completion.
//!
//! Generic over what an operation holds: usually its buffers and a callback. The ring's owner keeps
//! this table, because the kernel may use what is held until the last completion was reaped.

use crate::agenda::{Agenda, Item};
use crate::stats::Counters;
use crate::token::{Kind, Token};
use crate::turn_queue::{Mark, TurnQueue};
use io_uring::cqueue;
use slab::Slab;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::rc::Rc;

struct Operation<T> {
    token: Token,
    held: T,
    /// The last completion was reaped. Its callback may not have run.
    finished: bool,
    /// It has many completions, and nobody knows when the next one comes.
    multishot: bool,
}

/// A completion that was reaped.
#[derive(Clone, Copy, Debug)]
struct Reaped {
    token: Token,
    result: i32,
    flags: u32,
}

/// A completion to act on.
pub(crate) struct Completed<T> {
    /// What the operation holds; a clone unless this is the last completion.
    pub(crate) held: T,
    /// Bytes or `-errno`, as in the CQE.
    pub(crate) result: i32,
    /// The flags of the CQE. The last completion has no `F_MORE`.
    pub(crate) flags: u32,
}

/// The operations of one ring, in flight or waiting for their callback.
pub(crate) struct Completions<T> {
    operations: RefCell<Slab<Operation<T>>>,
    versions: Cell<u32>,
    /// Operations with one completion that the kernel still has.
    awaited: Cell<usize>,
    /// The ring is being shut down: nobody would wait for another operation.
    closed: Cell<bool>,
    /// Reaped, in order, for the next dispatch (perhaps of a nested turn).
    ready: TurnQueue<Reaped>,
    /// The highest number of slots: a token has 28 bits for one.
    max_slots: usize,
    agenda: Rc<Agenda>,
}

impl<T> fmt::Debug for Completions<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Completions")
            .field("operations", &self.operations.borrow().len())
            .finish_non_exhaustive()
    }
}

impl<T> Completions<T> {
    pub(crate) fn new(agenda: &Rc<Agenda>) -> Self {
        Self {
            operations: RefCell::default(),
            versions: Cell::new(0),
            awaited: Cell::new(0),
            closed: Cell::new(false),
            ready: TurnQueue::default(),
            max_slots: Token::MAX_SLOTS,
            agenda: Rc::clone(agenda),
        }
    }

    /// Reports why so many operations cannot be added now.
    ///
    /// # Errors
    /// `NotConnected` once the ring is shut down; ENOSPC if all slots are taken, because two
    /// operations must not share a token.
    pub(crate) fn check_room(&self, operations: usize) -> io::Result<()> {
        if self.closed.get() {
            return Err(io::Error::new(io::ErrorKind::NotConnected, "this event loop was dropped"));
        }
        if self.operations.borrow().len().saturating_add(operations) > self.max_slots {
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        Ok(())
    }

    /// Adds an operation; `check_room` found room for it.
    pub(crate) fn insert(&self, held: T, multishot: bool) -> Token {
        let version = self.versions.get().wrapping_add(1);
        self.versions.set(version);
        let mut operations = self.operations.borrow_mut();
        let entry = operations.vacant_entry();
        let token = Token::new(Kind::Operation, entry.key(), version);
        entry.insert(Operation { token, held, finished: false, multishot });
        self.awaited.set(self.awaited.get() + usize::from(!multishot));
        token
    }

    /// Queues a reaped completion for the next dispatch. Returns false, and counts it as stale, if
    /// its operation does not exist.
    #[inline(never)]
    pub(crate) fn complete(&self, token: Token, result: i32, flags: u32, stats: &Counters) -> bool {
        let mut operations = self.operations.borrow_mut();
        let Some(operation) = operations.get_mut(token.slot()).filter(|o| o.token == token) else {
            stats.stale.bump();
            return false;
        };
        operation.finished = !cqueue::more(flags);
        if operation.finished && !operation.multishot {
            self.awaited.set(self.awaited.get().saturating_sub(1));
        }
        self.ready.push(Reaped { token, result, flags });
        self.agenda.set(Item::Completions, true);
        true
    }

    /// Returns true while the kernel works on something that it will wake the loop for.
    pub(crate) fn any_awaited(&self) -> bool {
        self.awaited.get() > 0
    }

    /// Where a dispatch that begins now has to end.
    pub(crate) fn mark(&self) -> Mark {
        self.ready.mark(usize::MAX)
    }

    /// The next completion in front of `mark`.
    pub(crate) fn next(&self, mark: Mark) -> Option<Completed<T>>
    where
        T: Clone,
    {
        while let Some(Reaped { token, result, flags }) = self.ready.pop(mark) {
            let mut operations = self.operations.borrow_mut();
            let Some(operation) = operations.get(token.slot()).filter(|o| o.token == token) else {
                continue;
            };
            let held = match cqueue::more(flags) {
                true => operation.held.clone(),
                false => operations.remove(token.slot()).held,
            };
            return Some(Completed { held, result, flags });
        }
        self.agenda.set(Item::Completions, !self.ready.is_empty());
        None
    }

    /// Refuses operations from now on.
    pub(crate) fn close(&self) {
        self.closed.set(true);
    }

    /// What the kernel still has.
    pub(crate) fn in_flight(&self) -> Vec<Token> {
        self.operations.borrow().iter().filter(|(_, o)| !o.finished).map(|(_, o)| o.token).collect()
    }

    pub(crate) fn is_in_flight(&self, token: Token) -> bool {
        self.operations.borrow().get(token.slot()).is_some_and(|o| o.token == token && !o.finished)
    }

    /// Takes out the completions that were not dispatched, in order, and what the other operations
    /// hold, and drops nothing. The kernel must be done with all of it.
    pub(crate) fn take_all(&self) -> (Vec<Completed<T>>, Vec<T>)
    where
        T: Clone,
    {
        let mark = self.mark();
        let reaped = std::iter::from_fn(|| self.next(mark)).collect();
        let others = self.operations.borrow_mut().drain().map(|operation| operation.held).collect();
        (reaped, others)
    }

    /// Leaks what the kernel does not give back: its memory must never be used again.
    pub(crate) fn leak(&self) {
        std::mem::forget(self.operations.take());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operation_holds_its_value_until_the_last_completion_is_dispatched() {
        let (completions, stats) = (Completions::new(&Rc::default()), Counters::default());
        let value = Rc::new(());
        let more = 2; // IORING_CQE_F_MORE
        let token = completions.insert(Rc::clone(&value), true);
        assert!(completions.complete(token, 1, more, &stats));
        assert!(completions.complete(token, 2, 0, &stats));
        assert!(!completions.is_in_flight(token), "finished, and not dispatched");
        let mark = completions.mark();
        let first = completions.next(mark).unwrap();
        assert_eq!((first.result, Rc::strong_count(&value)), (1, 3));
        drop(first);
        let last = completions.next(mark).unwrap();
        assert_eq!((last.result, Rc::strong_count(&value)), (2, 2), "moved out of the table");
        drop(last);
        assert!(completions.next(mark).is_none());
        assert!(!completions.complete(token, 3, 0, &stats), "stale");
        assert_eq!(stats.stale.get(), 1);
    }

    #[test]
    fn a_token_is_never_given_twice() {
        let completions = Completions::new(&Rc::default());
        let (first, second) = (completions.insert((), false), completions.insert((), false));
        assert_ne!(first, second);
        completions.take_all();
        assert_ne!(completions.insert((), false), first, "the slot is the same, its version is not");
        let mut completions = completions;
        completions.max_slots = 2;
        completions.insert((), false);
        assert_eq!(completions.check_room(1).unwrap_err().raw_os_error(), Some(libc::ENOSPC));
        completions.close();
        assert_eq!(completions.check_room(1).unwrap_err().kind(), io::ErrorKind::NotConnected);
    }
}

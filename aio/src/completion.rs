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
    completes: Completes,
    /// It is finished, and waits to be started again.
    parked: bool,
    cancelled: bool,
}

/// How often an operation completes, and what its last completion means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Completes {
    Once,
    /// Nobody knows when the next completion comes.
    #[cfg_attr(not(any(test, feature = "raw-sqe")), expect(dead_code, reason = "for raw operations"))]
    Often,
    /// As `Often`. After a last completion the operation stays in the table, with the same token,
    /// until its owner starts it again or removes it.
    UntilRemoved,
}

/// Set in the flags of a last completion after which the operation stays in the table. The kernel
/// uses the lowest flags, and the upper half for the number of a buffer.
const STAYS: u32 = 1 << 14;

/// What [`Completions::cancel`] has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cancel {
    /// The operation is over, or does not exist.
    Over,
    /// The kernel has it, and is to be asked.
    InKernel,
    /// The kernel does not have it. Its owner is going to see that it was cancelled.
    Noted,
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
    pub(crate) fn insert(&self, held: T, completes: Completes) -> Token {
        let version = self.versions.get().wrapping_add(1);
        self.versions.set(version);
        let mut operations = self.operations.borrow_mut();
        let entry = operations.vacant_entry();
        let token = Token::new(Kind::Operation, entry.key(), version);
        let operation =
            Operation { token, held, finished: false, completes, parked: false, cancelled: false };
        entry.insert(operation);
        self.awaited.set(self.awaited.get() + usize::from(completes == Completes::Once));
        token
    }

    /// Queues a reaped completion for the next dispatch. Returns false, and counts it as stale, if
    /// its operation does not exist.
    #[inline(never)]
    pub(crate) fn complete(&self, token: Token, result: i32, mut flags: u32, stats: &Counters) -> bool {
        let mut operations = self.operations.borrow_mut();
        let Some(operation) = operations.get_mut(token.slot()).filter(|o| o.token == token) else {
            stats.stale.bump();
            return false;
        };
        operation.finished = !cqueue::more(flags);
        if operation.finished {
            match operation.completes {
                Completes::Once => self.awaited.set(self.awaited.get().saturating_sub(1)),
                Completes::Often => {}
                Completes::UntilRemoved => flags |= STAYS,
            }
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
            let held = match cqueue::more(flags) || flags & STAYS != 0 {
                true => operation.held.clone(),
                false => operations.remove(token.slot()).held,
            };
            return Some(Completed { held, result, flags });
        }
        self.agenda.set(Item::Completions, !self.ready.is_empty());
        None
    }

    /// Makes a finished operation wait to be started again, or takes it out of that wait to start
    /// it. Returns false, and changes nothing, if it was cancelled or does not exist.
    fn set_parked(&self, token: Token, parked: bool) -> bool {
        let mut operations = self.operations.borrow_mut();
        let operation = operations.get_mut(token.slot());
        let Some(operation) = operation.filter(|o| o.token == token && o.finished && !o.cancelled) else {
            return false;
        };
        operation.parked = parked;
        operation.finished = parked;
        true
    }

    /// A finished operation waits to be started again. Returns false if it was cancelled.
    pub(crate) fn park(&self, token: Token) -> bool {
        self.set_parked(token, true)
    }

    /// A finished operation is in flight again: the caller queues its entry, with the same token.
    /// Returns false if it must not, because the operation was cancelled or the ring is shut down.
    pub(crate) fn resume(&self, token: Token) -> bool {
        !self.closed.get() && self.set_parked(token, false)
    }

    /// Removes an operation that [stays](Completes::UntilRemoved), after its last completion.
    /// Returns what it holds, and whether it was cancelled.
    pub(crate) fn remove(&self, token: Token) -> Option<(T, bool)> {
        let mut operations = self.operations.borrow_mut();
        operations.get(token.slot()).filter(|o| o.token == token && o.finished)?;
        let Operation { held, cancelled, .. } = operations.remove(token.slot());
        Some((held, cancelled))
    }

    /// Notes that an operation is to be cancelled. One that waits to be started again completes
    /// with -ECANCELED in the next dispatch.
    pub(crate) fn cancel(&self, token: Token) -> Cancel {
        let mut operations = self.operations.borrow_mut();
        let Some(operation) = operations.get_mut(token.slot()).filter(|o| o.token == token) else {
            return Cancel::Over;
        };
        if !operation.finished {
            operation.cancelled = true;
            return Cancel::InKernel;
        }
        if operation.completes != Completes::UntilRemoved {
            return Cancel::Over;
        }
        operation.cancelled = true;
        if std::mem::take(&mut operation.parked) {
            self.ready.push(Reaped { token, result: -libc::ECANCELED, flags: STAYS });
            self.agenda.set(Item::Completions, true);
            self.agenda.nudge();
        }
        Cancel::Noted
    }

    /// Refuses operations from now on.
    pub(crate) fn close(&self) {
        self.closed.set(true);
    }

    /// What the kernel still has.
    pub(crate) fn in_flight(&self) -> Vec<Token> {
        self.operations.borrow().iter().filter(|(_, o)| !o.finished).map(|(_, o)| o.token).collect()
    }

    /// All operations: whether one has many completions, and whether it goes on: the kernel has it,
    /// or it waits to be started again.
    pub(crate) fn each(&self, mut visit: impl FnMut(Token, bool, bool)) {
        let operations = self.operations.borrow();
        let goes_on = |o: &Operation<T>| !o.finished || o.parked;
        operations.iter().for_each(|(_, o)| visit(o.token, o.completes != Completes::Once, goes_on(o)));
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
        let token = completions.insert(Rc::clone(&value), Completes::Often);
        assert!(completions.complete(token, 1, more, &stats));
        assert!(completions.complete(token, 2, 0, &stats));
        assert_eq!(completions.cancel(token), Cancel::Over, "finished, and not dispatched");
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
    fn an_operation_that_stays_is_started_again_with_its_token() {
        let (completions, stats) = (Completions::new(&Rc::default()), Counters::default());
        let next = |result| {
            let mark = completions.mark();
            assert_eq!(completions.next(mark).map(|completed| completed.result), Some(result));
        };
        let token = completions.insert((), Completes::UntilRemoved);
        assert!(!completions.resume(token), "in flight");
        completions.complete(token, 1, 0, &stats);
        next(1);
        assert!(completions.in_flight().is_empty());
        assert!(completions.park(token) && completions.resume(token));
        assert_eq!(completions.in_flight(), [token]);
        completions.complete(token, 2, 0, &stats);
        next(2);
        assert!(completions.park(token));
        assert_eq!((completions.cancel(token), completions.cancel(token)), (Cancel::Noted, Cancel::Noted));
        next(-libc::ECANCELED);
        assert!(completions.next(completions.mark()).is_none(), "once");
        assert!(!completions.resume(token) && !completions.park(token));
        assert_eq!(completions.remove(token), Some(((), true)));
        assert_eq!((completions.remove(token), completions.cancel(token)), (None, Cancel::Over));
    }

    #[test]
    fn a_token_is_never_given_twice() {
        let insert = |completions: &Completions<()>| completions.insert((), Completes::Once);
        let completions = Completions::new(&Rc::default());
        let (first, second) = (insert(&completions), insert(&completions));
        assert_ne!(first, second);
        completions.take_all();
        assert_ne!(insert(&completions), first, "the slot is the same, its version is not");
        let mut completions = completions;
        completions.max_slots = 2;
        insert(&completions);
        assert_eq!(completions.check_room(1).unwrap_err().raw_os_error(), Some(libc::ENOSPC));
        completions.close();
        assert_eq!(completions.check_room(1).unwrap_err().kind(), io::ErrorKind::NotConnected);
    }
}

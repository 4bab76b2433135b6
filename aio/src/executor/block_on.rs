//! Turning the loop until a future is done.

use crate::context::AioContext;
use crate::task::{Outcome, Run, Tasks, Ticket};
use std::cell::Cell;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// Stands in the table of tasks for a future on the stack. Its turn comes as that of any task, and
/// then the future is to be polled.
struct Awaited(Cell<bool>);

impl Run for Awaited {
    fn run(&self, _: &Waker) -> Outcome {
        self.0.set(true);
        Outcome::Pending
    }

    fn cancel(&self) {}
}

/// Takes it out of the table, also if the future panics.
struct Entry<'a>(&'a Tasks, Ticket);

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        drop(self.0.remove(self.1));
    }
}

impl AioContext {
    /// Turns the loop until `future` is done, and returns its result. Sleeps while nothing is due.
    ///
    /// The future may borrow from the caller. May be called from any callback and from any task, as
    /// QEMU's AIO_WAIT_WHILE: everything else on the loop goes on meanwhile, except for the callers
    /// further up the stack, so the future must not depend on these.
    ///
    /// # Errors
    /// As for [`poll`](Self::poll). The future is dropped then.
    pub fn block_on<F: Future>(&self, future: F) -> io::Result<F::Output> {
        let (tasks, awaited) = (Rc::clone(self.tasks()), Rc::new(Awaited(Cell::new(true))));
        // The first turn returns the error that there is if the table takes no more tasks.
        let entry = tasks.insert(Rc::clone(&awaited) as _).map(|ticket| Entry(&tasks, ticket));
        let waker = entry.as_ref().and_then(|entry| tasks.waker(entry.1));
        let mut context = Context::from_waker(waker.as_ref().unwrap_or(Waker::noop()));
        let mut future = pin!(future);
        loop {
            if awaited.0.replace(false)
                && let Poll::Ready(output) = future.as_mut().poll(&mut context)
            {
                return Ok(output);
            }
            self.poll(true)?;
        }
    }
}

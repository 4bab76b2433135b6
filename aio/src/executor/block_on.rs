//! Turning the loop until a future is done.

use crate::context::AioContext;
use crate::task::{Outcome, Run, Standing, Tasks, Ticket};
use std::cell::Cell;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// Stands in the table of tasks for a future on the stack. Its turn comes as that of any task, and
/// then the future is to be polled.
struct Awaited {
    is_ready: Cell<bool>,
    waker: Cell<Option<Waker>>,
}

impl Run for Awaited {
    fn run(&self) -> Outcome {
        self.is_ready.set(true);
        Outcome::Pending
    }

    fn cancel(&self) {}

    fn standing(&self) -> Option<Standing> {
        None
    }

    fn take_waker(&self) -> Option<Waker> {
        self.waker.take()
    }
}

/// Takes it out of the table, also if the future panics.
struct Entry<'a>(&'a Tasks, Ticket);

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        drop(self.0.remove(self.1));
    }
}

/// How many polls of tasks are made before the loop looks at everything else: as many as in a turn.
const POLLS: usize = 64;

impl AioContext {
    /// Turns the loop until `future` is done, and returns its result. Sleeps while nothing is due.
    /// Home thread; no `Send` is needed.
    ///
    /// The future may borrow from the caller. May be called from any callback and from any task, as
    /// QEMU's AIO_WAIT_WHILE: everything else on the loop goes on meanwhile, except for the callers
    /// further up the stack, so the future must not depend on these.
    ///
    /// While the future and tasks only wait for each other, they are polled without turns between,
    /// up to 64 polls.
    ///
    /// The polls of `future` itself are no callbacks: neither the
    /// [profile](Self::set_profiling) nor the hook for slow callbacks counts them.
    ///
    /// # Errors
    /// As for [`poll`](Self::poll). The future is dropped then.
    pub fn block_on<F: Future>(&self, future: F) -> io::Result<F::Output> {
        let mut future = pin!(future);
        let tasks = Rc::clone(self.tasks());
        let Some((ticket, waker)) = tasks.reserve() else {
            self.poll(false)?;
            return Err(io::ErrorKind::NotConnected.into());
        };
        let spare = Cell::new(Some(waker.clone()));
        let awaited = Rc::new(Awaited { is_ready: Cell::new(true), waker: spare });
        tasks.put(ticket, Rc::clone(&awaited) as _);
        let _entry = Entry(&tasks, ticket);
        // Dropped before the entry, so that the place in the table can be used again.
        let waker = waker;
        let mut left = POLLS;
        loop {
            if awaited.is_ready.replace(false)
                && let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker))
            {
                self.flush_rings();
                return Ok(output);
            }
            left = self.poll_ready_tasks(left);
            let is_ready = awaited.is_ready.get();
            if !is_ready || left == 0 {
                // The future is not in any queue when it is ready, so the loop may not sleep.
                self.poll(!is_ready)?;
                left = POLLS;
            }
        }
    }
}

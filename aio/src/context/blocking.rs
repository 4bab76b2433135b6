//! Blocking work in other threads, and the callback for its result.

use super::parts::Parts;
use super::turn::AioContext;
use crate::refused::Refused;
use crate::trace;
use crate::worker_pool::JobId;
use std::any::Any;
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::{Rc, Weak};
use std::sync::{Arc, Mutex, PoisonError};

/// Work that was given to the worker threads by [`AioContext::spawn_blocking`]. Dropping it cancels
/// nothing; clones are the same work. Home thread.
#[derive(Clone)]
pub struct Blocking {
    context: Weak<Parts<AioContext>>,
    job: JobId,
}

impl Blocking {
    /// Cancels the work if it has not begun. Then it is dropped here, and its callback runs in the
    /// next turn, with an error that [is cancelled](BlockingError::is_cancelled). Returns false if
    /// the work has begun or has ended, or if the context was dropped; work that has begun cannot
    /// be stopped. Waits for nothing.
    pub fn cancel(&self) -> bool {
        let Some(context) = self.context.upgrade().filter(|context| context.is_current()) else {
            return false;
        };
        let Some(work) = context.workers.cancel(self.job) else {
            return false;
        };
        trace::thread_pool_cancel_aio(self.job);
        // First, because the captures of the work may panic when they are dropped.
        let job = self.job;
        context.bottom_halves.defer(Box::new(move |ctx: &AioContext| ctx.end_blocking(job)));
        drop(work);
        true
    }

    /// Returns true from the moment when the callback begins, or when its context was dropped.
    pub fn is_finished(&self) -> bool {
        !self.context.upgrade().is_some_and(|context| context.workers.is_pending(self.job))
    }
}

impl fmt::Debug for Blocking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Blocking").field("finished", &self.is_finished()).finish_non_exhaustive()
    }
}

/// Why blocking work has no result. For the callback of [`AioContext::spawn_blocking`], and from
/// the future of [`AioContext::blocking`]. Converts to an [`io::Error`].
pub struct BlockingError(Cause);

enum Cause {
    Cancelled,
    Refused(io::Error),
    /// The mutex makes it `Sync`, as errors have to be.
    Panicked(Mutex<Box<dyn Any + Send>>),
}

impl BlockingError {
    pub(crate) fn refused(error: io::Error) -> Self {
        Self(Cause::Refused(error))
    }

    /// Returns true if the work was [cancelled](Blocking::cancel) before it began.
    pub fn is_cancelled(&self) -> bool {
        matches!(self.0, Cause::Cancelled)
    }

    /// Returns true if the work could not be submitted, which only
    /// [`AioContext::blocking`] reports in this way. Convert the error to an [`io::Error`] for the
    /// reason.
    pub fn is_refused(&self) -> bool {
        matches!(self.0, Cause::Refused(_))
    }

    /// Returns true if the work panicked.
    pub fn is_panic(&self) -> bool {
        matches!(self.0, Cause::Panicked(_))
    }

    /// The payload of the panic, for [`std::panic::resume_unwind`]; `None` if there was none.
    pub fn into_panic(self) -> Option<Box<dyn Any + Send>> {
        match self.0 {
            Cause::Cancelled | Cause::Refused(_) => None,
            Cause::Panicked(payload) => Some(payload.into_inner().unwrap_or_else(PoisonError::into_inner)),
        }
    }
}

impl fmt::Debug for BlockingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BlockingError({self})")
    }
}

impl fmt::Display for BlockingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let payload = match &self.0 {
            Cause::Cancelled => return f.write_str("the work was cancelled before it began"),
            Cause::Refused(error) => return write!(f, "the work was not submitted: {error}"),
            Cause::Panicked(payload) => payload,
        };
        let payload = payload.lock().unwrap_or_else(PoisonError::into_inner);
        let text = payload.downcast_ref::<&str>().copied();
        match text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)) {
            Some(text) => write!(f, "the work panicked: {text}"),
            None => f.write_str("the work panicked"),
        }
    }
}

impl std::error::Error for BlockingError {}

impl From<BlockingError> for io::Error {
    /// ECANCELED, why the work was refused, or `Other` with the panic.
    fn from(error: BlockingError) -> Self {
        match error.0 {
            Cause::Cancelled => Self::from_raw_os_error(libc::ECANCELED),
            Cause::Refused(error) => error,
            Cause::Panicked(_) => Self::other(error),
        }
    }
}

impl AioContext {
    /// Runs `work` in a worker thread, for calls that may block: a file system, name resolution,
    /// compression. `done` gets its result in the home thread, in a later turn, which ends a
    /// blocking [`poll`](Self::poll); it need not be `Send`.
    ///
    /// Work begins in the order in which it was submitted. If all
    /// [threads](crate::Builder::worker_threads) are busy and no more are allowed, it waits. A
    /// thread is started here if none is idle, which blocks the loop for some ten microseconds; it
    /// is called `aio-worker` and inherits the signal mask, the CPU affinity, and the priority of
    /// the home thread. A panic of the work is a result, too.
    ///
    /// The callback may turn the loop. Dropping what this returns cancels nothing. When the work
    /// ends, its thread wakes the loop: one write(2) if that sleeps.
    ///
    /// When the context is dropped, work that has not begun is dropped, and work that has begun is
    /// waited for. `done` is then dropped without being called, and so is the result, in the home
    /// thread.
    ///
    /// ```
    /// # use aio::AioContext;
    /// # use std::{cell::Cell, rc::Rc};
    /// # fn main() -> std::io::Result<()> {
    /// let ctx = AioContext::new()?;
    /// let sum = Rc::new(Cell::new(None));
    /// let result = Rc::clone(&sum);
    /// ctx.spawn_blocking(|| (1..=100u64).sum::<u64>(), move |_, r| result.set(r.ok()))?;
    /// while sum.get().is_none() {
    ///     ctx.poll(true)?;
    /// }
    /// assert_eq!(sum.get(), Some(5050));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// What pthread_create(3) returns, if there is no thread and none can be started.
    /// `NotConnected` once the context was dropped, `Unsupported` in a forked child. Both closures
    /// come back.
    pub fn spawn_blocking<T, W, D>(&self, work: W, done: D) -> Result<Blocking, Refused<(W, D)>>
    where
        T: Send + 'static,
        W: FnOnce() -> T + Send + 'static,
        D: FnOnce(&AioContext, Result<T, BlockingError>) + 'static,
    {
        let place = match self.parts.check_process().and_then(|()| self.parts.workers.reserve()) {
            Ok(place) => place,
            Err(error) => return Err(Refused { error, value: (work, done) }),
        };
        let returned = Arc::new(Mutex::new(None));
        let result = Arc::clone(&returned);
        let handle = self.handle();
        let then = move |ctx: &Self| {
            let result = result.lock().unwrap_or_else(PoisonError::into_inner).take();
            done(ctx, result.unwrap_or(Err(BlockingError(Cause::Cancelled))));
        };
        let job = place.submit(Box::new(then), |job| {
            Box::new(move || {
                let result = catch_unwind(AssertUnwindSafe(work))
                    .map_err(|payload| BlockingError(Cause::Panicked(Mutex::new(payload))));
                *returned.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
                // So that the home thread drops the result, whatever happens to the callback.
                drop(returned);
                handle.schedule(move |ctx| ctx.end_blocking(job));
            })
        });
        trace::thread_pool_submit_aio(job);
        Ok(Blocking { context: Rc::downgrade(&self.parts), job })
    }

    /// Calls back for work that has ended or was cancelled.
    fn end_blocking(&self, job: JobId) {
        // A statement of its own: the callback may submit, so nothing may be borrowed while it
        // runs.
        let done = self.parts.workers.take_done(job);
        if let Some(done) = done {
            trace::thread_pool_complete_aio(job);
            done(self);
        }
    }
}

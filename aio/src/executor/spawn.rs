//! Spawning a task, and waiting for its result.

use crate::context::AioContext;
use crate::task::{Join, JoinError, Run, Spawned, Tasks, Ticket};
use std::borrow::Cow;
use std::fmt;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// A task that was spawned. A future of its result; dropping it leaves the task running.
///
/// The result is `Err` if the task was [aborted](Self::abort), if it panicked, or if its context
/// was dropped. Home thread; may be awaited anywhere there, also outside of the loop.
///
/// A panic of a task is kept for its handle. If the handle was dropped before, the panic unwinds
/// out of [`AioContext::poll`], as that of a callback does. If the handle is dropped after the
/// panic, without having been awaited, only the panic hook has reported it.
#[must_use = "a task runs without its handle, but its result is lost: use `drop` to say so"]
pub struct JoinHandle<T> {
    task: Rc<dyn Join<T>>,
    /// `None` if the task was not accepted.
    place: Option<(Rc<Tasks>, Ticket)>,
}

impl<T> JoinHandle<T> {
    /// Names the task, for [`AioContext::dump`] and [`SlowCallback`](crate::SlowCallback). It takes
    /// the place of an earlier name. No effect on a task that is over. No system call; allocates.
    ///
    /// ```
    /// # use aio::{AioContext, TaskState};
    /// # fn main() -> std::io::Result<()> {
    /// let ctx = AioContext::new()?;
    /// let flush = ctx.spawn(std::future::pending::<()>()).named("flush");
    /// ctx.poll(false)?;
    /// let dump = ctx.dump();
    /// let task = dump.tasks().next().unwrap();
    /// assert_eq!((task.name(), task.state), (Some("flush"), TaskState::Waiting));
    /// # drop(flush);
    /// # Ok(())
    /// # }
    /// ```
    pub fn named(self, name: impl Into<Cow<'static, str>>) -> Self {
        let name = name.into();
        if let Some((tasks, ticket)) = &self.place
            && !self.task.is_finished()
        {
            tasks.set_name(*ticket, name);
        }
        self
    }

    /// Asks the task to end. In the next turn, or in this one if tasks are still to be polled, its
    /// future is dropped and the handle returns an error, unless the task has finished by then.
    ///
    /// Runs no code of the user. A task may abort itself: its future is then dropped as soon as it
    /// returns `Pending`.
    pub fn abort(&self) {
        if let Some((tasks, ticket)) = &self.place
            && !self.task.is_finished()
        {
            self.task.request_abort();
            tasks.wake(*ticket);
        }
    }

    /// Returns true if the result is there, or was taken.
    pub fn is_finished(&self) -> bool {
        self.task.is_finished()
    }
}

impl<T> Future for JoinHandle<T> {
    type Output = Result<T, JoinError>;

    /// # Panics
    /// If it is polled after it returned the result.
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.task.poll_join(cx.waker())
    }
}

impl<T> Drop for JoinHandle<T> {
    fn drop(&mut self) {
        self.task.detach();
    }
}

impl<T> fmt::Debug for JoinHandle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinHandle").field("is_finished", &self.is_finished()).finish_non_exhaustive()
    }
}

impl AioContext {
    /// Runs a future as a task of the loop. It is first polled in the next turn, or in this one if
    /// tasks are still to be polled in it; never inside this call. Home thread; no system call.
    ///
    /// The future stays in the home thread, so it need not be `Send`. Its wakers can be sent to
    /// other threads. Waking it costs no system call in the home thread, and in another thread one
    /// write(2) if the loop sleeps. A future that needs the context owns a
    /// [`LocalHandle`](crate::LocalHandle).
    ///
    /// A future may turn the loop. It is not polled again from there, however often it is woken,
    /// but other tasks are.
    ///
    /// One allocation, and a second one the first time that so many tasks exist, or if a waker of
    /// a task that ended is still held somewhere. When the context is dropped, so is the future. If
    /// it was dropped already, the future is dropped in this call, and the handle returns an error.
    pub fn spawn<F>(&self, future: F) -> JoinHandle<F::Output>
    where
        F: Future + 'static,
    {
        let tasks = self.tasks();
        let Some((ticket, waker)) = tasks.reserve() else {
            let task = Spawned::new(future, Waker::noop().clone());
            task.cancel();
            return JoinHandle { task, place: None };
        };
        let task = Spawned::new(future, waker);
        tasks.put(ticket, Rc::clone(&task) as _);
        tasks.wake(ticket);
        JoinHandle { task, place: Some((Rc::clone(tasks), ticket)) }
    }
}

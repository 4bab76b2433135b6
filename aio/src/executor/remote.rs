//! Spawning a task on another loop, and awaiting its result on this one.

use crate::context::{AioContext, Handle};
use crate::task::JoinError;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

/// A task that was spawned on another loop by [`Handle::spawn`]. A future of its result, for any
/// executor in any thread. Dropping it leaves the task running.
#[must_use = "a task runs without its handle, but its result is lost: use `drop` to say so"]
pub struct RemoteJoinHandle<T>(Arc<Mutex<Place<T>>>);

/// Where the result goes from loop to loop.
enum Place<T> {
    /// With the waker of whoever awaits the result.
    Empty(Option<Waker>),
    Full(Result<T, JoinError>),
    Taken,
}

/// The end of the place in the task's loop. Dropped without an answer if that loop ended.
struct Answer<T>(Option<Arc<Mutex<Place<T>>>>);

fn replace<T>(place: &Mutex<Place<T>>, new: Place<T>) -> Place<T> {
    std::mem::replace(&mut *place.lock().unwrap_or_else(PoisonError::into_inner), new)
}

impl<T> Answer<T> {
    fn give(&mut self, result: Result<T, JoinError>) {
        let Some(place) = self.0.take() else { return };
        // Outside of the lock: a waker may do anything.
        if let Place::Empty(Some(waker)) = replace(&place, Place::Full(result)) {
            waker.wake();
        }
    }
}

impl<T> Drop for Answer<T> {
    fn drop(&mut self) {
        self.give(Err(JoinError::aborted()));
    }
}

impl<T> Future for RemoteJoinHandle<T> {
    type Output = Result<T, JoinError>;

    /// # Panics
    /// If it is polled after it returned the result.
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let waker = cx.waker().clone();
        let (old, outcome) = {
            let mut place = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            match &mut *place {
                Place::Empty(kept) => (kept.replace(waker), Poll::Pending),
                Place::Full(_) | Place::Taken => match std::mem::replace(&mut *place, Place::Taken) {
                    Place::Full(result) => (Some(waker), Poll::Ready(result)),
                    _ => panic!("the result of a task on another loop was taken before"),
                },
            }
        };
        drop(old);
        outcome
    }
}

impl<T> fmt::Debug for RemoteJoinHandle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RemoteJoinHandle")
    }
}

impl Handle {
    /// Runs a future as a task of this loop, from any thread: `make` is called in the loop's home
    /// thread and makes the future, which need not be `Send`. Never blocks. Wakes the loop as
    /// [`schedule`](Self::schedule) does, and the one who awaits the result as any waker does.
    ///
    /// Tasks of one thread are spawned in the order of these calls, also with respect to
    /// [`schedule`](Self::schedule).
    ///
    /// ```
    /// # use aio::{AioContext, IoThread};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let other = IoThread::spawn("other", AioContext::builder())?;
    /// let ctx = AioContext::new()?;
    /// let turns = other.handle().spawn(|other| {
    ///     let other = other.local_handle();
    ///     async move {
    ///         other.yield_now().await;
    ///         other.stats().turns
    ///     }
    /// });
    /// assert!(ctx.block_on(turns)?? > 0);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// The result is an error if the task panicked, or if the loop ended first
    /// ([`is_aborted`](JoinError::is_aborted)). A panic of `make` unwinds out of that loop's
    /// [`poll`](AioContext::poll), as that of a scheduled closure does.
    pub fn spawn<F>(
        &self,
        make: impl FnOnce(&AioContext) -> F + Send + 'static,
    ) -> RemoteJoinHandle<F::Output>
    where
        F: Future<Output: Send> + 'static,
    {
        let place = Arc::new(Mutex::new(Place::Empty(None)));
        let mut answer = Answer(Some(Arc::clone(&place)));
        // If the loop has ended, the closure is dropped, and with it the answer.
        self.schedule(move |context| {
            let task = context.spawn(make(context));
            drop(context.spawn(async move { answer.give(task.await) }));
        });
        RemoteJoinHandle(place)
    }
}

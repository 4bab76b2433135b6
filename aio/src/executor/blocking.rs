//! Awaiting blocking work in a worker thread.

use crate::context::{AioContext, Blocking, BlockingError, WeakContext};
use crate::task::WakerSlot;
use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

/// The future of [`AioContext::blocking`].
struct Awaiting<T, W> {
    context: WeakContext,
    state: State<T, W>,
}

enum State<T, W> {
    New(W),
    Submitted(Rc<Returned<T>>, Blocking),
    Done,
}

/// What the callback leaves.
struct Returned<T> {
    result: Cell<Option<Result<T, BlockingError>>>,
    waker: WakerSlot,
}

/// Nothing in it is pinned: the work is moved to its thread.
impl<T, W> Unpin for Awaiting<T, W> {}

impl<T, W> Future for Awaiting<T, W>
where
    T: Send + 'static,
    W: FnOnce() -> T + Send + 'static,
{
    type Output = Result<T, BlockingError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let (returned, job) = match std::mem::replace(&mut self.state, State::Done) {
            State::New(work) => {
                let Some(context) = self.context.upgrade() else {
                    let error = io::Error::new(io::ErrorKind::NotConnected, "this event loop was dropped");
                    return Poll::Ready(Err(BlockingError::refused(error)));
                };
                let returned = Rc::new(Returned { result: Cell::new(None), waker: WakerSlot::default() });
                let leave = Rc::clone(&returned);
                let done = move |_: &AioContext, result| {
                    leave.result.set(Some(result));
                    leave.waker.wake();
                };
                match context.spawn_blocking(work, done) {
                    Ok(job) => (returned, job),
                    Err(refused) => return Poll::Ready(Err(BlockingError::refused(refused.error))),
                }
            }
            State::Submitted(returned, job) => (returned, job),
            State::Done => panic!("the future of blocking work was polled after it returned the result"),
        };
        // First the state and then the waker, which may be of any executor: to clone it may panic,
        // or turn the loop, which may bring the result.
        let place = Rc::clone(&returned);
        self.state = State::Submitted(returned, job);
        place.waker.set(cx.waker());
        let Some(result) = place.result.take() else { return Poll::Pending };
        place.waker.clear();
        self.state = State::Done;
        Poll::Ready(result)
    }
}

impl<T, W> Drop for Awaiting<T, W> {
    fn drop(&mut self) {
        if let State::Submitted(returned, job) = &self.state {
            job.cancel();
            returned.waker.clear();
        }
    }
}

impl AioContext {
    /// Runs `work` in a worker thread and returns a future of its result:
    /// [`spawn_blocking`](Self::spawn_blocking) for tasks. The work is submitted when the future is
    /// first polled.
    ///
    /// Dropping the future cancels work that has not begun, and drops it. Work that has begun
    /// cannot be stopped; its result is then dropped in the home thread, in a later turn. Never
    /// done if the context is dropped while the work is submitted.
    ///
    /// ```
    /// # use aio::AioContext;
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let ctx = AioContext::new()?;
    /// let path = std::env::temp_dir();
    /// let metadata = ctx.block_on(ctx.blocking(move || std::fs::metadata(path)))??;
    /// assert!(metadata?.is_dir());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// A panic of the work [is an error](BlockingError::is_panic), and so is what `spawn_blocking`
    /// [refuses](BlockingError::is_refused): no thread can be started, the context was dropped
    /// before the first poll (`NotConnected`), or this is a forked child (`Unsupported`). The work
    /// is then dropped.
    ///
    /// # Panics
    /// The future panics if it is polled after it returned the result.
    pub fn blocking<T, W>(
        &self,
        work: W,
    ) -> impl Future<Output = Result<T, BlockingError>> + Unpin + use<T, W>
    where
        T: Send + 'static,
        W: FnOnce() -> T + Send + 'static,
    {
        Awaiting { context: self.downgrade(), state: State::New(work) }
    }
}

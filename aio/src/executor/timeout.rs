//! A limit to the time that a future may take.

use crate::context::AioContext;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

/// The future of a [`timeout`](AioContext::timeout) was not done in time. Converts to an
/// [`io::Error`] of the kind `TimedOut`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elapsed(());

impl fmt::Display for Elapsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the time limit has passed")
    }
}

impl std::error::Error for Elapsed {}

impl From<Elapsed> for io::Error {
    fn from(elapsed: Elapsed) -> Self {
        Self::new(io::ErrorKind::TimedOut, elapsed)
    }
}

impl AioContext {
    /// A future that returns what `future` returns, or [`Elapsed`] if that takes longer than
    /// `limit`. The time begins with the first poll.
    ///
    /// If both are ready at once, the result of `future` counts. If `future` does not have to wait,
    /// no timer is armed. Real time; home thread.
    ///
    /// `future` is dropped when what this returns is done. To go on after [`Elapsed`], pass a
    /// reference to a pinned future.
    ///
    /// ```
    /// # use aio::AioContext;
    /// # use std::time::Duration;
    /// # fn main() -> std::io::Result<()> {
    /// let ctx = AioContext::new()?;
    /// let never = std::future::pending::<()>();
    /// let result = ctx.block_on(ctx.timeout(Duration::from_millis(1), never))?;
    /// assert!(result.is_err());
    /// # Ok(())
    /// # }
    /// ```
    pub fn timeout<F: Future>(
        &self,
        limit: Duration,
        future: F,
    ) -> impl Future<Output = Result<F::Output, Elapsed>> + use<F> {
        let mut sleep = self.sleep(limit);
        async move {
            let mut future = pin!(future);
            poll_fn(|cx| {
                if let Poll::Ready(output) = future.as_mut().poll(cx) {
                    return Poll::Ready(Ok(output));
                }
                Pin::new(&mut sleep).poll(cx).map(|()| Err(Elapsed(())))
            })
            .await
        }
    }
}

//! Letting others go first.

use crate::context::AioContext;
use std::future::poll_fn;
use std::task::Poll;

impl AioContext {
    /// A future that lets every other task that is ready go first: for a task that computes for
    /// long. Handlers, timers and bottom halves get their turn when this turn has made its number
    /// of polls (see [`poll`](Self::poll)). No allocation, no system call.
    pub fn yield_now(&self) -> impl Future<Output = ()> + use<> {
        let mut yielded = false;
        poll_fn(move |cx| {
            if std::mem::replace(&mut yielded, true) {
                return Poll::Ready(());
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        })
    }
}

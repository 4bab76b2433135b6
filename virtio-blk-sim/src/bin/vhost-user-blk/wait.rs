//! Waiting for one of two things.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

/// Waits for the first of two futures, and drops the other one. Returns what `one` has returned, or
/// `None` if the other one was the first.
pub(crate) async fn unless<T>(one: impl Future<Output = T>, other: impl Future<Output = ()>) -> Option<T> {
    let (mut one, mut other) = (pin!(one), pin!(other));
    poll_fn(|cx| match one.as_mut().poll(cx) {
        Poll::Ready(result) => Poll::Ready(Some(result)),
        Poll::Pending => other.as_mut().poll(cx).map(|()| None),
    })
    .await
}

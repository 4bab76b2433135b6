//! Tasks of the main loop that wait for a change of some state.

use std::cell::RefCell;
use std::fmt;
use std::future::poll_fn;
use std::pin::pin;
use std::task::{Poll, Waker};

/// Who waits. Whoever changes the state calls [`wake`](Self::wake).
#[derive(Default)]
pub(crate) struct Waiting(RefCell<Vec<Waker>>);

impl Waiting {
    /// Waits until `look` returns something. It is asked at once, and again after each
    /// [`wake`](Self::wake).
    pub(crate) async fn until<R>(&self, mut look: impl FnMut() -> Option<R>) -> R {
        poll_fn(|cx| match look() {
            Some(found) => Poll::Ready(found),
            None => {
                let waker = cx.waker().clone();
                let mut waiting = self.0.borrow_mut();
                if !waiting.iter().any(|known| known.will_wake(&waker)) {
                    waiting.push(waker);
                }
                Poll::Pending
            }
        })
        .await
    }

    /// Has everybody who waits look again.
    pub(crate) fn wake(&self) {
        for waker in self.0.take() {
            waker.wake();
        }
    }
}

impl fmt::Debug for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Waiting").field(&self.0.borrow().len()).finish()
    }
}

/// Waits for the first of two futures, and drops the other one.
pub(crate) async fn either(one: impl Future<Output = ()>, other: impl Future<Output = ()>) {
    let (mut one, mut other) = (pin!(one), pin!(other));
    poll_fn(|cx| match one.as_mut().poll(cx) {
        Poll::Ready(()) => Poll::Ready(()),
        Poll::Pending => other.as_mut().poll(cx),
    })
    .await;
}

//! Tasks of one thread that wait for a change of some state.

use std::cell::RefCell;
use std::fmt;
use std::future::poll_fn;
use std::task::Poll;

use std::task::Waker;

/// Tasks of one thread that wait for a change of some state. Whoever changes the state calls
/// [`wake`](Self::wake). Any executor will do.
#[derive(Default)]
pub struct Waiters(RefCell<Vec<Waker>>);

impl Waiters {
    /// Waits until `look` returns something, and returns that. It is asked at once, and again after
    /// each [`wake`](Self::wake). The future can be dropped at any time.
    pub async fn until<R>(&self, mut look: impl FnMut() -> Option<R>) -> R {
        poll_fn(|cx| {
            if let Some(found) = look() {
                return Poll::Ready(found);
            }
            let known = self.0.borrow().iter().any(|waker| waker.will_wake(cx.waker()));
            if !known {
                // Outside of the borrow: the waker can be of any executor.
                let waker = cx.waker().clone();
                self.0.borrow_mut().push(waker);
            }
            Poll::Pending
        })
        .await
    }

    /// Has everybody who waits look again. Makes no system call for tasks of `aio`.
    pub fn wake(&self) {
        for waker in self.0.take() {
            waker.wake();
        }
    }
}

impl fmt::Debug for Waiters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Waiters").field(&self.0.borrow().len()).finish()
    }
}

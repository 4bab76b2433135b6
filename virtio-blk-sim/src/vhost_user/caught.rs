//! Panics of the device that are kept until everything that has to be done is done.

use std::any::Any;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::pin;
use std::task::Poll;

/// The first panic of several steps, of which each is taken whatever the others do.
#[derive(Default)]
pub(super) struct Panics(Option<Box<dyn Any + Send>>);

impl Panics {
    /// Takes a step. `None` if it has panicked.
    pub(super) fn catch<R>(&mut self, step: impl FnOnce() -> R) -> Option<R> {
        match catch_unwind(AssertUnwindSafe(step)) {
            Ok(result) => Some(result),
            Err(payload) => {
                self.keep(payload);
                None
            }
        }
    }

    /// The same for a future. It is polled no more after a panic.
    pub(super) async fn catch_async<R>(&mut self, step: impl Future<Output = R>) -> Option<R> {
        let mut step = pin!(step);
        poll_fn(|cx| match self.catch(|| step.as_mut().poll(cx)) {
            Some(Poll::Pending) => Poll::Pending,
            Some(Poll::Ready(result)) => Poll::Ready(Some(result)),
            None => Poll::Ready(None),
        })
        .await
    }

    pub(super) fn were_caught(&self) -> bool {
        self.0.is_some()
    }

    /// Goes on with the first panic, if there was one.
    pub(super) fn resume(self) {
        if let Some(payload) = self.0 {
            resume_unwind(payload);
        }
    }

    fn keep(&mut self, payload: Box<dyn Any + Send>) {
        match &self.0 {
            // To drop it may panic.
            Some(_) => std::mem::forget(payload),
            None => self.0 = Some(payload),
        }
    }
}

//! The loop that the calling task runs on.
//!
//! imago calls a storage without saying on behalf of whom, and an image has requests of several
//! loops at once. So the loop is noted here for as long as one of its tasks is being polled. The
//! same place catches a panic of imago: it ends a request, not the loop.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;

use aio::LocalHandle;

thread_local! {
    static CURRENT: RefCell<Option<LocalHandle>> = const { RefCell::new(None) };
}

/// The loop whose task is being polled. `None` outside of loops, where the caller may block.
pub(super) fn current() -> Option<LocalHandle> {
    CURRENT.with_borrow(Clone::clone)
}

/// Puts back what was current before.
struct Restore(Option<LocalHandle>);

impl Drop for Restore {
    fn drop(&mut self) {
        let inner = CURRENT.replace(self.0.take());
        drop(inner);
    }
}

fn with_current<T>(local: Option<LocalHandle>, call: impl FnOnce() -> T) -> T {
    let _restore = Restore(CURRENT.replace(local));
    call()
}

/// The future panicked, and was dropped.
#[derive(Debug)]
pub(super) struct Panicked;

/// Makes a loop the current one while the future is polled, and catches its panics.
pub(super) struct OnLoop<F> {
    local: LocalHandle,
    future: Option<Pin<Box<F>>>,
}

impl<F: Future> OnLoop<F> {
    pub(super) fn new(local: LocalHandle, future: F) -> Self {
        Self { local, future: Some(Box::pin(future)) }
    }
}

impl<F: Future> Future for OnLoop<F> {
    type Output = Result<F::Output, Panicked>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(mut future) = self.future.take() else { return Poll::Ready(Err(Panicked)) };
        let local = self.local.clone();
        let poll = || with_current(Some(local), || future.as_mut().poll(cx));
        // Unwind safety: nothing of the future is used again after a panic, and what it shared with
        // others counts as broken then.
        match catch_unwind(AssertUnwindSafe(poll)) {
            Ok(Poll::Pending) => {
                self.future = Some(future);
                Poll::Pending
            }
            Ok(Poll::Ready(output)) => Poll::Ready(Ok(output)),
            Err(payload) => {
                // Either may panic when it is dropped.
                let _ = catch_unwind(AssertUnwindSafe(|| drop(future)));
                let _ = catch_unwind(AssertUnwindSafe(|| drop(payload)));
                Poll::Ready(Err(Panicked))
            }
        }
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Runs a future to its end in this thread. All I/O of it blocks the thread.
pub(super) fn blocking<F: Future>(future: F) -> Result<F::Output, Panicked> {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let run = || {
        let mut cx = Context::from_waker(&waker);
        let mut future = pin!(future);
        loop {
            match with_current(None, || future.as_mut().poll(&mut cx)) {
                Poll::Ready(output) => return output,
                Poll::Pending => std::thread::park(),
            }
        }
    };
    catch_unwind(AssertUnwindSafe(run)).map_err(|payload| {
        let _ = catch_unwind(AssertUnwindSafe(|| drop(payload)));
        Panicked
    })
}

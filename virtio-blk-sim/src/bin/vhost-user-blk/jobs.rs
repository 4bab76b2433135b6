//! Work in worker threads that the end of the process waits for.

use std::sync::Arc;
use std::time::Duration;

use aio::{BlockingError, JoinHandle, LocalHandle};

/// How often the end of the process looks whether work is left.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Runs work, and counts what has not ended.
#[derive(Debug)]
pub(crate) struct Jobs {
    context: LocalHandle,
    /// Each of them has a clone of it.
    count: Arc<()>,
}

impl Jobs {
    pub(crate) fn new(context: LocalHandle) -> Self {
        Self { context, count: Arc::default() }
    }

    /// Runs `work` in a worker thread. If the future is dropped, work that has begun goes on, and
    /// what it returns is dropped on this loop.
    pub(crate) fn run<T, W>(&self, work: W) -> impl Future<Output = Result<T, BlockingError>> + use<T, W>
    where
        T: Send + 'static,
        W: FnOnce() -> T + Send + 'static,
    {
        let job = Arc::clone(&self.count);
        self.context.blocking(move || {
            let _job = job;
            work()
        })
    }

    /// Drops something in a worker thread, because that can block. It is dropped there also if
    /// nobody waits for it.
    pub(crate) fn discard(&self, value: impl Send + 'static) -> JoinHandle<()> {
        let dropped = self.run(move || drop(value));
        self.context.spawn(async move {
            // If there is no thread for that, it was dropped here.
            let _ = dropped.await;
        })
    }

    /// Waits until all work has ended.
    pub(crate) async fn done(&self) {
        while Arc::strong_count(&self.count) > 1 {
            self.context.sleep(LOOK_AGAIN).await;
        }
    }
}

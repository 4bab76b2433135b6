//! Work in worker threads that the end of the process waits for.

use std::sync::Arc;
use std::time::Duration;

use aio::{BlockingError, JoinHandle};

use crate::host::Host;

/// How often the end of the process looks whether work is left.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Counts the work that has not ended: each has a clone of it.
#[derive(Debug, Default)]
pub(crate) struct Jobs(Arc<()>);

impl Host {
    /// Runs `work` in a worker thread. If the future is dropped, work that has begun goes on, and
    /// what it returns is dropped on this loop.
    pub(crate) fn blocking<T, W>(&self, work: W) -> impl Future<Output = Result<T, BlockingError>> + use<T, W>
    where
        T: Send + 'static,
        W: FnOnce() -> T + Send + 'static,
    {
        let job = Arc::clone(&self.jobs.0);
        self.context.blocking(move || {
            let _job = job;
            work()
        })
    }

    /// Drops something in a worker thread, because that can block. It is dropped there also if
    /// nobody waits for it.
    pub(crate) fn drop_elsewhere(&self, value: impl Send + 'static) -> JoinHandle<()> {
        let dropped = self.blocking(move || drop(value));
        self.context.spawn(async move {
            // If there is no thread for that, it was dropped here.
            let _ = dropped.await;
        })
    }

    /// Waits until all work in worker threads has ended.
    pub(crate) async fn jobs_done(&self) {
        while Arc::strong_count(&self.jobs.0) > 1 {
            self.context.sleep(LOOK_AGAIN).await;
        }
    }
}

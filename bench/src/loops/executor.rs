//! The work that an executor does: an event loop that runs futures. Callbacks of our loop do it,
//! too, without futures: the floor.

use super::signal::ring_once_pending;
use super::task_work::TaskWork;
use super::work::{self, Cannot, EventLoop, Seen, Timed, Visit, Work};
use crate::error::reason;
use std::future::Future;
use std::io;
use std::os::fd::RawFd;
use std::time::Duration;

/// Wakes a task, in the loop's thread.
pub(super) type Wake = Box<dyn Fn()>;

/// The limit of [`TaskWork::Timeout`], which never passes.
pub(super) const LIMIT: Duration = Duration::from_secs(10);

/// An event loop that runs futures. Its handlers, as an [`EventLoop`], are tasks.
pub(super) trait Executor: EventLoop {
    /// Starts tasks that wait for a flag each, and returns what sets them.
    fn start(&mut self, tasks: usize) -> Result<Vec<Wake>, Cannot>;

    /// `times` times: spawns a task that counts itself in [`Seen`], and awaits its result.
    fn spawn_and_join(&mut self, times: u64) -> io::Result<()>;

    /// `times` times: reads an eventfd within [`LIMIT`], with [`ring_once_pending`].
    fn read_in_time(&mut self, times: u64) -> io::Result<()>;
}

/// Awaits a read of the eventfd `fd` that has to wait, and signals it then. An error if the read
/// fails or takes too long.
pub(super) async fn rung_in_time<E>(
    fd: RawFd,
    read: impl Future<Output = Result<io::Result<usize>, E>>,
) -> io::Result<()> {
    match ring_once_pending(fd, read).await {
        Ok(Ok(8)) => Ok(()),
        Ok(Ok(_)) => Err(io::ErrorKind::UnexpectedEof.into()),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// Does the work on an executor of the kind `L`.
pub(super) fn visit<L: Executor>(work: TaskWork, visit: Visit) -> Result<Timed, Cannot> {
    let why = |error: io::Error| reason(&error);
    let warm = visit.times / 10 + 1;
    if let TaskWork::Rung { tasks, ready } = work {
        return work::visit::<L>(Visit { work: Work::Bells { registered: tasks, ready }, ..visit });
    }
    let mut it = L::open(1, Seen::default()).map_err(why)?;
    let timed = match work {
        TaskWork::Woken { tasks, ready } => {
            let wakes = it.start(tasks)?;
            let middle = (tasks - ready) / 2;
            let woken = &wakes[middle..middle + ready];
            let mut run = |times| it.repeat(times, ready as u64, || woken.iter().for_each(|wake| wake()));
            run(warm).and_then(|()| visit.time(run))
        }
        TaskWork::Spawn => {
            it.spawn_and_join(warm).and_then(|()| visit.time(|times| it.spawn_and_join(times)))
        }
        TaskWork::Timeout | TaskWork::Rung { .. } => {
            it.read_in_time(warm).and_then(|()| visit.time(|times| it.read_in_time(times)))
        }
    };
    timed.map_err(why)
}

//! The work that an executor does: an event loop that runs futures. Callbacks of our loop do it,
//! too, without futures: the floor.

use super::signal::ring_once_pending;
use super::work::{self, Cannot, EventLoop, Seen, Timed, Visit, Work};
use crate::error::reason;
use std::future::Future;
use std::os::fd::RawFd;
use std::time::Duration;
use std::{fmt, io};

/// What is repeated and measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TaskWork {
    /// `tasks` tasks await a notifier each, `ready` of them are signalled, and the main task waits
    /// until they have been polled.
    Rung { tasks: usize, ready: usize },
    /// The same, but each task awaits a flag in memory and is woken by its waker.
    Woken { tasks: usize, ready: usize },
    /// A task that has nothing to wait for is spawned and awaited.
    Spawn,
    /// A read(2) of an eventfd is awaited with a limit to its time. It has to wait, so the timer is
    /// armed; the eventfd is signalled, and the timer is cancelled.
    Timeout,
}

impl TaskWork {
    /// All kinds of work, in the order of the report.
    pub(super) fn all() -> impl Iterator<Item = TaskWork> {
        const MANY: usize = 1_000;
        [
            TaskWork::Rung { tasks: 1, ready: 1 },
            TaskWork::Rung { tasks: MANY, ready: 1 },
            TaskWork::Rung { tasks: MANY, ready: MANY },
            TaskWork::Woken { tasks: MANY, ready: 1 },
            TaskWork::Woken { tasks: MANY, ready: MANY },
            TaskWork::Spawn,
            TaskWork::Timeout,
        ]
        .into_iter()
    }

    /// Events of one repetition.
    pub(super) fn events(self) -> u64 {
        match self {
            TaskWork::Rung { ready, .. } | TaskWork::Woken { ready, .. } => ready as u64,
            TaskWork::Spawn | TaskWork::Timeout => 1,
        }
    }
}

impl fmt::Display for TaskWork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            TaskWork::Rung { tasks: 1, .. } => "task awaits a notifier, rung".to_owned(),
            TaskWork::Rung { tasks, ready: 1 } => format!("{tasks} tasks await a notifier each, 1 rung"),
            TaskWork::Rung { tasks, .. } => format!("{tasks} tasks await a notifier each, all rung"),
            TaskWork::Woken { tasks, ready: 1 } => format!("{tasks} tasks, 1 woken"),
            TaskWork::Woken { tasks, .. } => format!("{tasks} tasks, all woken"),
            TaskWork::Spawn => "task spawned and joined".to_owned(),
            TaskWork::Timeout => "read with a timeout, rung in time".to_owned(),
        };
        f.pad(&text)
    }
}

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

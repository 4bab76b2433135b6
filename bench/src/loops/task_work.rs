//! The kinds of work that an executor does.

use std::fmt;

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

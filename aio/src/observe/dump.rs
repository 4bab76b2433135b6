//! A dump as values.

use crate::bottom_half::Due;
use crate::monitor::{Interest, MonitorInfo};
use crate::profile::{CallbackKind, Figures, Name};
use crate::stats::Stats;
use crate::task::Standing;
use crate::timer::Clock;
use crate::worker_pool::Load;
use std::borrow::Cow;

/// Everything that a loop had when [`AioContext::dump`](crate::AioContext::dump) was called. It can
/// be sent to another thread. `Display` prints it as a table, for logs and monitor commands; that
/// format may change.
///
/// Figures are those of the last [profile](crate::AioContext::set_profiling); without one they are
/// zero.
#[derive(Clone, Debug)]
pub struct Dump(pub(super) Parts);

/// What a dump is made of.
#[derive(Clone, Debug)]
pub(crate) struct Parts {
    pub(crate) monitor: MonitorInfo,
    pub(crate) stats: Stats,
    pub(crate) now_ns: u64,
    pub(crate) virtual_now_ns: u64,
    pub(crate) handlers: Vec<HandlerEntry>,
    pub(crate) timers: Vec<TimerEntry>,
    pub(crate) bottom_halves: Vec<BottomHalfEntry>,
    pub(crate) closures: usize,
    pub(crate) tasks: Vec<TaskEntry>,
    pub(crate) operations: Vec<OperationEntry>,
    pub(crate) workers: WorkerLoad,
    pub(crate) figures: [Figures; CallbackKind::ALL.len()],
    pub(crate) ended: Vec<EndedEntry>,
}

impl From<Parts> for Dump {
    fn from(parts: Parts) -> Self {
        Self(parts)
    }
}

impl Dump {
    /// The monitor.
    pub fn monitor(&self) -> &MonitorInfo {
        &self.0.monitor
    }

    /// The counters, since the context was made.
    pub fn stats(&self) -> Stats {
        self.0.stats
    }

    /// The time of a clock when the dump was made, in nanoseconds.
    pub fn now_ns(&self, clock: Clock) -> u64 {
        match clock {
            Clock::Realtime => self.0.now_ns,
            Clock::Virtual => self.0.virtual_now_ns,
        }
    }

    /// Handlers of descriptors and notifiers, the loop's own notifier included. The order is not
    /// specified, here and below.
    pub fn handlers(&self) -> impl ExactSizeIterator<Item = &HandlerEntry> {
        self.0.handlers.iter()
    }

    /// Timers, armed or not.
    pub fn timers(&self) -> impl ExactSizeIterator<Item = &TimerEntry> {
        self.0.timers.iter()
    }

    /// Bottom halves, scheduled or not.
    pub fn bottom_halves(&self) -> impl ExactSizeIterator<Item = &BottomHalfEntry> {
        self.0.bottom_halves.iter()
    }

    /// How many closures wait for a turn: of [`defer`](crate::AioContext::defer),
    /// [`Handle::schedule`](crate::Handle::schedule), and of blocking work that has ended.
    pub fn closures(&self) -> usize {
        self.0.closures
    }

    /// Tasks that are not over. The future of [`block_on`](crate::AioContext::block_on) is none.
    pub fn tasks(&self) -> impl ExactSizeIterator<Item = &TaskEntry> {
        self.0.tasks.iter()
    }

    /// Operations of the ring whose callback for the last completion has not begun.
    pub fn operations(&self) -> impl ExactSizeIterator<Item = &OperationEntry> {
        self.0.operations.iter()
    }

    /// What the worker threads do. All zero in a forked child, which has none.
    pub fn workers(&self) -> WorkerLoad {
        self.0.workers
    }

    /// What the profile has counted under names of callbacks that are gone: dropped, finished,
    /// named again, or called once with [`name_callback`](crate::AioContext::name_callback). One
    /// entry for each kind and name. At most 256: the names that were not heard of longest are
    /// forgotten.
    pub fn ended(&self) -> impl ExactSizeIterator<Item = &EndedEntry> {
        self.0.ended.iter()
    }

    /// The figures of all callbacks of a kind, also of those that were removed since.
    pub fn figures(&self, kind: CallbackKind) -> Figures {
        self.0.figures.get(kind as usize).copied().unwrap_or_default()
    }
}

/// A handler of a descriptor or a notifier.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct HandlerEntry {
    pub(crate) name: Name,
    /// What calls it.
    pub kind: CallbackKind,
    /// The number of its descriptor.
    pub fd: i32,
    /// What an fd handler is called for; `None` for a notifier.
    pub interest: Option<Interest>,
    /// Its descriptor was reported, and its callback has not begun.
    pub ready: bool,
    /// What the profile has counted.
    pub figures: Figures,
}

/// A timer.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TimerEntry {
    pub(crate) name: Name,
    /// The clock of its deadline.
    pub clock: Clock,
    /// When it runs, on its clock; `None` if it is not armed.
    pub deadline_ns: Option<u64>,
    /// What the profile has counted.
    pub figures: Figures,
}

/// A bottom half.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct BottomHalfEntry {
    pub(crate) name: Name,
    /// Whether it will run.
    pub state: BottomHalfState,
    /// What the profile has counted.
    pub figures: Figures,
}

/// Whether a bottom half will run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BottomHalfState {
    /// Not scheduled, or cancelled since.
    Idle,
    /// Scheduled to run when the loop turns anyway
    /// ([`schedule_idle`](crate::BottomHalf::schedule_idle)).
    ScheduledIdle,
    /// Scheduled to run in the next turn.
    Scheduled,
}

impl From<Due> for BottomHalfState {
    fn from(due: Due) -> Self {
        match due {
            Due::Cancelled => Self::Idle,
            Due::Idle => Self::ScheduledIdle,
            Due::Now => Self::Scheduled,
        }
    }
}

/// A task: see [`AioContext::spawn`](crate::AioContext::spawn).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TaskEntry {
    pub(crate) name: Name,
    /// Whether it will be polled.
    pub state: TaskState,
    /// What the profile has counted of its polls.
    pub figures: Figures,
}

/// Whether a task will be polled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TaskState {
    /// It waits to be woken.
    Waiting,
    /// It was spawned, woken or aborted, and is polled when a turn comes to it.
    Ready,
    /// It is being polled further up the stack, or its future is being dropped there.
    Running,
}

impl From<Standing> for TaskState {
    fn from(standing: Standing) -> Self {
        match standing {
            Standing::Waiting => Self::Waiting,
            Standing::Ready => Self::Ready,
            Standing::Running => Self::Running,
        }
    }
}

/// An operation of the ring.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct OperationEntry {
    /// Its number; another operation may get it when this one is done.
    pub slot: usize,
    /// It has many completions.
    pub multishot: bool,
    /// The kernel has it. If not, its callback waits for a turn.
    pub in_flight: bool,
}

/// The worker threads of a context: see
/// [`AioContext::spawn_blocking`](crate::AioContext::spawn_blocking).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct WorkerLoad {
    /// Threads that exist.
    pub threads: usize,
    /// Work that has not begun.
    pub queued: usize,
    /// Work that has begun and has not ended.
    pub running: usize,
}

impl From<Load> for WorkerLoad {
    fn from(load: Load) -> Self {
        let Load { threads, queued, running } = load;
        Self { threads, queued, running }
    }
}

/// Callbacks of one kind and one name that are gone.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct EndedEntry {
    pub(crate) name: Cow<'static, str>,
    /// What called them.
    pub kind: CallbackKind,
    /// What the profile has counted.
    pub figures: Figures,
}

impl EndedEntry {
    /// Their name.
    pub fn name(&self) -> &str {
        &self.name
    }
}

macro_rules! named {
    ($($entry:ty),*) => {
        $(impl $entry {
            /// The name that it was given.
            pub fn name(&self) -> Option<&str> {
                self.name.as_deref()
            }
        })*
    };
}

named!(HandlerEntry, TimerEntry, BottomHalfEntry, TaskEntry);

//! What is shown of a loop: a dump of everything that it has, as values and as text.
//!
//! The context fills a dump in. Nothing here looks at a context by itself.

mod dump;
#[cfg(feature = "metrics")]
mod metrics;
mod text;

pub(crate) use self::dump::Parts;
pub use self::dump::{
    BottomHalfEntry, BottomHalfState, Dump, EndedEntry, HandlerEntry, OperationEntry, TaskEntry, TaskState,
    TimerEntry, WorkerLoad,
};
#[cfg(feature = "metrics")]
pub use self::metrics::Metrics;

//! What is shown of a loop: a dump of everything that it has, as values and as text.
//!
//! The context fills a dump in. Nothing here looks at a context by itself.

mod dump;
mod text;

pub(crate) use self::dump::Parts;
pub use self::dump::{
    BottomHalfEntry, BottomHalfState, Dump, HandlerEntry, OperationEntry, TimerEntry, WorkerLoad,
};

//! Event notifiers: doorbells made of eventfds, and counts with a maximum.
//!
//! The doorbell contract: **never lost, maybe spurious, writes coalesce, no count.** Whoever rings
//! has published its work before. The handler looks for the work in shared memory, and an Acquire
//! fence runs before its first instruction.

mod adopt;
pub(crate) mod bounded;
mod event;

pub use self::bounded::{BoundedBuilder, BoundedMethod, BoundedNotifier, BoundedStats, Counting};
pub use self::event::EventNotifier;

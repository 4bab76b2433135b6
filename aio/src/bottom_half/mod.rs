//! Bottom halves: callbacks that run in the home thread's next turn, scheduled from any thread.
//!
//! `list.rs` is the lock-free list that all threads put them on. `halves.rs` is the home thread's
//! side: it moves the list to its run queue and hands out what is due.

mod halves;
mod list;

pub(crate) use self::halves::{BottomHalves, HalfKey, Job, Work};
pub(crate) use self::list::{Due, List, Node};

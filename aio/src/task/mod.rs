//! Tasks: futures that belong to the home thread, and the wakers that make them ready.
//!
//! | file | |
//! |---|---|
//! | `spawned.rs` | a future, and its result until somebody takes it |
//! | `tasks.rs` | the table of tasks and the queue of those that are ready |
//! | `waker.rs` | what a `Waker` points to: how it reaches the queue, from the home thread and from others |
//! | `home.rs` | which thread is the home thread |
//! | `waker_slot.rs` | where a future leaves the waker of whoever awaits it |
//! | `join_error.rs` | why a task has no result |
//!
//! A task is two objects, so that no other thread ever has a reference to a future. The future is
//! in an `Rc`, which does not leave the home thread. Its wakers point to a small node in an `Arc`,
//! which names the task by its slot. A node goes on to the next task of its slot unless a waker of
//! the old task is still somewhere, so in the steady state spawning a task is one allocation.
//!
//! Nothing here decides when a future is polled. `context` asks for what is ready, and polls it.

mod home;
mod join_error;
mod spawned;
mod tasks;
mod waker;
mod waker_slot;

#[cfg(all(test, loom))]
mod loom_tests;

pub use self::join_error::JoinError;
pub(crate) use self::spawned::{Join, Outcome, Run, Spawned, Standing};
pub(crate) use self::tasks::{Tasks, Ticket};
pub(crate) use self::waker_slot::WakerSlot;

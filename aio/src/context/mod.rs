//! AioContext: the event loop, and everything that users do with it.
//!
//! This is the only room that calls user code. The mechanisms below it hand out what is due.
//!
//! | file | |
//! |---|---|
//! | `turn.rs` | [`AioContext`] itself: one turn, and the end of a context |
//! | `parts.rs` | the mechanisms of one context, tied together |
//! | `dispatch.rs`, `action.rs` | what is done with a ready handler; busy polling of devices |
//! | `observer.rs` | who watches the callbacks of a turn |
//! | `outer.rs` | a turn in three parts, for an outer loop that sleeps in the context's place |
//! | `shared.rs` | the part that other threads may touch |
//! | `ending.rs`, `at_end.rs` | callbacks before the context is dropped |
//! | `panics.rs` | how a panic of user code is kept from skipping what follows it |
//!
//! On top of `turn.rs`, one file for each thing that a context offers:
//!
//! | file | |
//! |---|---|
//! | `builder.rs` | options for building a context |
//! | `descriptor.rs` | handlers of descriptors and notifiers, and their registrations |
//! | `bounded.rs` | bounded notifiers on a loop |
//! | `timer.rs`, `interval.rs`, `bottom_half.rs` | timers, periodic ones, bottom halves |
//! | `alarm.rs`, `expiry.rs` | timers that wake a waker; what a timer does when it expires |
//! | `operation.rs` | what all operations of the ring have in common |
//! | `start.rs`, `pool.rs` | operations that own what the kernel needs |
//! | `registered.rs` | files, buffers and groups of buffers that are registered with the ring |
//! | `raw.rs`, `chain.rs` | operations whose SQE a user has made |
//! | `ringer.rs` | eventfds of others, rung in the call in which the loop sleeps |
//! | `blocking.rs` | blocking work in other threads |
//! | `observe.rs` | names, a profile, slow callbacks, a dump |
//! | `handle.rs` | what other threads hold of a context |
//! | `task.rs`, `perform.rs` | what tasks hold of a context, and of an operation of theirs |

mod action;
mod alarm;
mod at_end;
mod blocking;
mod bottom_half;
mod bounded;
mod builder;
#[cfg(feature = "raw-sqe")]
mod chain;
mod descriptor;
mod dispatch;
mod ending;
mod expiry;
mod handle;
mod interval;
mod observe;
mod observer;
mod operation;
mod outer;
mod panics;
mod parts;
mod perform;
mod pool;
#[cfg(feature = "raw-sqe")]
mod raw;
mod registered;
mod ringer;
mod shared;
mod start;
mod task;
mod timer;
mod turn;

pub(crate) use self::alarm::Alarm;
pub(crate) use self::at_end::Ending;
pub use self::blocking::{Blocking, BlockingError};
pub use self::bottom_half::{BottomHalf, BottomHalfHandle};
pub use self::bounded::{BoundedRegistration, WritableRegistration};
pub use self::builder::Builder;
#[cfg(feature = "raw-sqe")]
pub use self::chain::Link;
pub use self::descriptor::{BusyPolled, HandlerId, NotifierRegistration, Registration};
pub use self::handle::Handle;
pub use self::observer::SlowCallback;
pub use self::operation::OperationId;
pub use self::outer::Prepared;
pub(crate) use self::panics::{Panics, resume_after};
pub(crate) use self::perform::Performing;
pub use self::pool::OperationPool;
#[cfg(feature = "raw-sqe")]
pub use self::raw::Operations;
pub use self::registered::{FixedBuffer, FixedFile};
pub use self::ringer::Ringer;
pub use self::task::LocalHandle;
pub(crate) use self::task::WeakContext;
pub use self::timer::{Timer, TimerHandle};
pub use self::turn::AioContext;

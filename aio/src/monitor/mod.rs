//! Monitors: the system call that the loop sleeps in. This page is the contract; one file for each
//! monitor follows it.
//!
//! A monitor watches descriptors under tokens. Its `wait` collects what is ready and marks it in
//! the table of handlers. It calls no user code and holds no borrow when it returns, so a callback
//! may add, modify, remove and wait again (nested polls).
//!
//! * `add` watches a descriptor from the next wait on; readiness that exists already counts. Every
//!   monitor refuses at once a descriptor that is closed or cannot be polled.
//! * `Watch::Level` is reported by every wait during which it holds; `Watch::Edge` at least once
//!   for each write after the last report. One report too many is allowed, one too few is not.
//! * `remove` ends it: no event that a later wait collects reaches the token. What an earlier wait
//!   collected leaves the queue with the handler, and what was taken from a doorbell is rung again
//!   (`Handler::hand_back`). The kernel has no reference to the file any more; only to the eventfd
//!   of a doorbell it may have one until the next wait.
//! * `wait` makes at most one system call that sleeps, honours the timeout to the nanosecond where
//!   the kernel can, and returns false if nothing was collected: the timeout, a signal (EINTR), or
//!   a stale event.
//! * `shutdown` returns when the kernel is done with every buffer that it was given, and has no
//!   reference to any file. It calls no user code, so a context can call it before any hook or
//!   `Drop` of a user runs.
//!
//! | file | |
//! |---|---|
//! | `readiness.rs` | what a descriptor is ready for, and how it is watched |
//! | `watched.rs` | a watched descriptor; the interface to the table of handlers |
//! | `poll.rs`, `epoll.rs`, `io_uring/` | the monitors |
//! | `outward.rs`, `mirror.rs` | what an outer loop sleeps on in place of ppoll and epoll_wait |
//! | `info.rs`, `any.rs` | which one a context has, and why |

mod any;
mod epoll;
mod info;
mod io_uring;
mod mirror;
mod outward;
mod poll;
mod readiness;
mod watched;

pub(crate) use self::any::{Monitor, Wanted};
pub use self::info::{MonitorInfo, MonitorKind, RingInfo, RingSetup};
pub(crate) use self::io_uring::UringMonitor;
pub(crate) use self::readiness::Watch;
pub use self::readiness::{Interest, Readiness};
pub(crate) use self::watched::{Sink, Table, Target, Watched};

//! Adaptive busy polling: look for work in memory for a while before sleeping in the kernel.
//!
//! While a device is polled its doorbell may be switched off (`begin` .. `end`), which saves the
//! guest's exit, the eventfd write, the wake-up and the wait. How long to look is learned for each
//! handler, by QEMU's rule of 2025: an event within the window keeps it, one that comes a little
//! later widens it, and one that comes after more than the maximum narrows it. The mode is left
//! only when the loop is about to sleep, and idle handlers drop out after seven seconds.
//!
//! Lingering is the other, simpler way to choose how long: looking may take twice the time that the
//! work before it took. It needs no learning, and it is right where waking is expensive: while the
//! loop was busy, mostly with waking the guest, the guest began to make its next request. Twice,
//! because sleeping and being woken costs about as much again as the work for a small request.
//!
//! `policy.rs` has the numbers, `members.rs` the list of polled handlers. Neither calls a device:
//! the context does that, with the hooks that it passes in.

mod members;
mod policy;

pub(crate) use self::members::{BusyPoll, Found, Member, Round, State};
pub use self::policy::BusyPolling;

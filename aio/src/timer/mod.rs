//! Timers with nanosecond deadlines on two clocks: real time, and a virtual clock that an emulator
//! can stop and step, for several loops at once.
//!
//! Armed timers are in one indexed heap for each clock. A turn reads the clock once, moves what
//! expired to a queue, and runs the queue. So a callback that arms its timer in the past runs again
//! in the *next* turn, and a nested poll runs what its parent had left. The nearest deadline is the
//! timeout of the loop's own wait: no timerfd, no system call.

mod clock;
mod heap;
mod snapshot;
mod timers;

pub(crate) use self::clock::Wake;
pub use self::clock::{Clock, VirtualClock};
pub(crate) use self::timers::{TimerKey, Timers};

//! Futures on the loop.
//!
//! Made of what a context offers to anybody: each kind of event has a callback that leaves a mark
//! and wakes whoever awaits it.
//!
//! | file | |
//! |---|---|
//! | `spawn.rs` | spawning a task, and waiting for its result |
//! | `remote.rs` | the same on another loop |
//! | `block_on.rs` | turning the loop until a future is done |
//! | `sleep.rs`, `timeout.rs` | time |
//! | `doorbell.rs` | awaiting a notifier |
//! | `async_fd.rs` | awaiting a descriptor |
//! | `perform.rs` | awaiting an operation of the ring |
//! | `blocking.rs` | awaiting blocking work |
//! | `yield_now.rs` | letting others go first |

mod async_fd;
mod block_on;
mod blocking;
mod doorbell;
mod perform;
mod remote;
mod sleep;
mod spawn;
mod timeout;
mod yield_now;

pub use self::async_fd::{AsyncFd, ReadyGuard};
pub use self::doorbell::Doorbell;
pub use self::perform::Perform;
pub use self::remote::RemoteJoinHandle;
pub use self::sleep::Sleep;
pub use self::spawn::JoinHandle;
pub use self::timeout::Elapsed;

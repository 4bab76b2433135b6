//! A virtqueue on an event loop, for any device.
//!
//! [`Queue`] owns the ring. It handles the doorbell, draining, kick suppression, busy polling, the
//! rate limit, the log of in-flight requests, and the interrupt. The queue passes each chain to a
//! [`Worker`], which knows what the chain means. [`Device`] describes a type of device: its queues,
//! features, configuration space, and the workers of its queues.
//!
//! ```text
//! kick ─► kicks off ─► pop, Worker::begin ─► kicks on, check again ─► commit, publish ─► interrupt
//!             ▲          publish early               │ more requests
//!             └──────────────────────────────────────┘
//! ```
//!
//! | file | content |
//! |---|---|
//! | `device.rs`, `worker.rs` | the two traits that a type of device implements |
//! | `queue.rs` | the queue itself |
//! | `stats.rs`, `in_flight.rs`, `rate_limit.rs` | counters, the log of in-flight requests, the rate limit |
//! | `kick.rs`, `no_kick.rs` | the doorbell, and what is done without one |
//! | `interrupt.rs`, `irqfd.rs`, `level.rs` | the interrupt line |

mod device;
mod in_flight;
mod interrupt;
mod irqfd;
mod kick;
mod level;
mod no_kick;
#[expect(clippy::module_inception, reason = "the queue is the main type of this module")]
mod queue;
mod rate_limit;
#[cfg(test)]
mod refused_tests;
mod stats;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod unwinding_tests;
mod worker;

pub use device::{Device, RING_FEATURES, SERVES_LEGACY, check_features, read_space};
pub use in_flight::{InFlight, InFlightLog};
pub use interrupt::Interrupt;
pub use interrupt::adopt_from_peer;
#[cfg(feature = "vhost-user")]
pub(crate) use interrupt::set_nonblocking;
pub use irqfd::Irqfd;
pub use kick::{Doorbell, Kick};
pub use level::LevelLine;
pub use queue::{Attached, Queue, QueueParts, QueueRef, Stopped};
pub use rate_limit::RateLimit;
pub use stats::QueueStats;
pub use worker::{Answer, Handled, Immediate, Meter, Worker};

//! Bounded notifiers: a count with a maximum, so that a fast producer feels a slow consumer.
//!
//! [`BoundedNotifier`] has the semantics, [`BoundedMethod`] the ways to get them, each in a file of
//! its own. How a loop uses them is in the context's room.

mod atomic;
mod builder;
mod calls;
mod credit;
mod error;
mod kernel;
mod method;
mod notifier;
mod wait;

pub use self::builder::BoundedBuilder;
pub(crate) use self::builder::refuse_unread;
pub use self::calls::BoundedStats;
pub use self::method::{BoundedMethod, Counting};
pub use self::notifier::BoundedNotifier;
pub(crate) use self::notifier::Engine;

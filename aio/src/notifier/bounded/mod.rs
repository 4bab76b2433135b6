//! Bounded notifiers: a counter with a maximum, so that a slow consumer holds back a fast producer.
//!
//! [`BoundedNotifier`] defines the semantics. [`BoundedMethod`] lists the implementations; each has
//! its own file. The code that registers a bounded notifier with a loop is in `context/bounded.rs`.

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

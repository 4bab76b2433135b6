//! Devices that move from loop to loop.
//!
//! | file | |
//! |---|---|
//! | `movable.rs` | [`Movable`]: what a device is; [`Home`] and [`Stay`]: how its callbacks reach it |
//! | `place.rs` | where a device is, and where it is to go; any thread |
//! | `journey.rs` | leaving a loop, arriving at the next one, coming back from one that refuses |
//! | `hosted.rs` | [`Hosted`]: what its owner holds |
//! | `handlers.rs` | a notifier's handler and a descriptor's, ready to move |
//!
//! A device lives on a loop as a bottom half: its callback owns the device, and scheduling it makes
//! the loop look at where the device is to go.

mod handlers;
mod hosted;
mod journey;
mod movable;
mod place;

pub use self::handlers::{MovableFd, MovableNotifier};
pub use self::hosted::Hosted;
pub use self::movable::{Home, Movable, Stay};

//! How kicks and interrupts travel between a guest and its device.
//!
//! A kick is an [`EventNotifier`](aio::EventNotifier) that the guest's side rings and the device's loop answers; an
//! [`Interrupt`](crate::blk_queue::Interrupt) is what the device signals and the guest's side takes.

mod sim;
pub mod vhost_user;

pub use sim::{GuestPorts, SimTransport};

//! How kicks and interrupts travel between a guest and its device.
//!
//! A kick is an [`EventNotifier`](aio::EventNotifier) that the guest's side rings and the device's loop answers. An
//! interrupt is an [`Irqfd`], which the device signals and the guest's side takes.

mod irqfd;
mod sim;

pub use irqfd::Irqfd;
pub use sim::{GuestPorts, SimTransport};

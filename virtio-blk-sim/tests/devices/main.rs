//! The devices in `examples/`, served in this process to a frontend and the guest behind it.

mod console;
mod hostile;
mod rig;
mod rng;
#[path = "../support/vring.rs"]
mod vring;

#[path = "../../examples/vhost-user-console.rs"]
#[expect(dead_code, reason = "a program, of which the tests use the device")]
mod console_device;
#[path = "../../examples/vhost-user-rng.rs"]
#[expect(dead_code, reason = "a program, of which the tests use the device")]
mod rng_device;

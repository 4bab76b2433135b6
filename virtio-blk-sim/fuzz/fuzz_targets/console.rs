//! Fuzz target for the example device `vhost-user-console`: any chains and rings, and any client.
#![no_main]

#[path = "../targets/console.rs"]
mod console;
#[path = "../../examples/vhost-user-console.rs"]
#[expect(dead_code, reason = "a program, of which the target uses the device")]
mod console_device;
#[path = "../targets/descriptors.rs"]
mod descriptors;
#[path = "../targets/device.rs"]
#[expect(dead_code, reason = "shared with other targets, and not all of it is used here")]
mod device;
#[path = "../targets/guest.rs"]
#[expect(dead_code, reason = "shared with other targets, and not all of it is used here")]
mod guest;

libfuzzer_sys::fuzz_target!(|data: &[u8]| console::run(data));

//! Fuzz target for the example device `vhost-user-rng`: any chains and rings.
#![no_main]

#[path = "../targets/descriptors.rs"]
mod descriptors;
#[path = "../targets/device.rs"]
#[expect(dead_code, reason = "shared with other targets, and not all of it is used here")]
mod device;
#[path = "../targets/guest.rs"]
#[expect(dead_code, reason = "shared with other targets, and not all of it is used here")]
mod guest;
#[path = "../targets/rng.rs"]
mod rng;
#[path = "../../examples/vhost-user-rng.rs"]
#[expect(dead_code, reason = "a program, of which the target uses the device")]
mod rng_device;

libfuzzer_sys::fuzz_target!(|data: &[u8]| rng::run(data));

//! Fuzz target for the vhost-user server: any bytes in any pieces with any descriptors.
#![no_main]

#[path = "../targets/descriptors.rs"]
mod descriptors;
#[path = "../targets/messages/mod.rs"]
mod messages;

libfuzzer_sys::fuzz_target!(|data: &[u8]| messages::run(data));

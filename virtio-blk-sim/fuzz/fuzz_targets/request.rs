//! Fuzz target for the request parser: any chain of any bytes, through the device and a backend.
#![no_main]

#[path = "../targets/guest.rs"]
mod guest;
#[path = "../targets/request.rs"]
mod request;

libfuzzer_sys::fuzz_target!(|data: &[u8]| request::run(data));

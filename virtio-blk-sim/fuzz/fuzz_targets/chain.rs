//! Fuzz target for the chain parser: any guest memory, any rings, any order of queue operations.
#![no_main]

#[path = "../targets/chain.rs"]
mod chain;
#[path = "../targets/guest.rs"]
mod guest;

libfuzzer_sys::fuzz_target!(|data: &[u8]| chain::run(data));

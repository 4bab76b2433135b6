//! Tests of a guest with a real vCPU and the device, on every monitor and reset method. Without
//! KVM, each test prints a message and does nothing.
#![cfg(target_arch = "x86_64")]

#[path = "../support/arms.rs"]
mod arms;
mod interrupts;
mod kicks;
mod mix;
mod moves;
mod resets;
mod rig;

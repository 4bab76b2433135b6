//! A guest with a real vCPU against the device, on every monitor and reset method. Where there is no KVM each test says so
//! and does nothing.
#![cfg(target_arch = "x86_64")]

#[path = "../support/arms.rs"]
mod arms;
mod interrupts;
mod kicks;
mod mix;
mod moves;
mod resets;
mod rig;

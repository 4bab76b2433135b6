//! How to write devices on this crate, by examples that run.
//!
//! Each chapter stands on its own; start with the one that is nearest to your device. All code in
//! them is compiled and run by `cargo test --doc`.
//!
//! | chapter | what it builds, or answers |
//! |---|---|
//! | [`uart`] | a serial port: registers, a socket, an interrupt, a timer, vCPU threads |
//! | [`block_device`] | a disk: a doorbell, operations on the ring, one interrupt for a batch |
//! | [`ownership`] | who owns a descriptor; cycles; what a callback may do; nested turns |

#[doc = include_str!("block_device.md")]
pub mod block_device {}
#[doc = include_str!("ownership.md")]
pub mod ownership {}
pub mod uart;

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
//! | [`eventfds`] | eventfds that a VMM or a vhost-user peer has made |
//! | [`threads`] | vCPU threads, loops in threads, what may cross between them |
//! | [`futures`] | tasks beside callbacks on the same loop |
//! | [`embedding`] | the loop inside another event loop |
//! | [`debugging`] | which callback holds the loop up |
//!
//! [`coming_from`](crate::coming_from) has tables for those who know another event loop.

#[doc = include_str!("block_device.md")]
pub mod block_device {}
#[doc = include_str!("debugging.md")]
pub mod debugging {}
#[doc = include_str!("embedding.md")]
pub mod embedding {}
#[doc = include_str!("eventfds.md")]
pub mod eventfds {}
#[doc = include_str!("futures.md")]
pub mod futures {}
#[doc = include_str!("ownership.md")]
pub mod ownership {}
#[doc = include_str!("threads.md")]
pub mod threads {}
pub mod uart;

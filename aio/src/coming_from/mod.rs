//! For those who know another event loop: what is called what here, and what differs on purpose.
//!
//! | you know | read |
//! |---|---|
//! | QEMU's AioContext, bottom halves, iothreads | [`qemu`] |
//! | rust-vmm's event-manager, as in Firecracker | [`event_manager`] |
//! | mio, or polling | [`mio`] |
//! | tokio, or another async runtime | [`tokio`] |

#[doc = include_str!("event_manager.md")]
pub mod event_manager {}
#[doc = include_str!("mio.md")]
pub mod mio {}
#[doc = include_str!("qemu.md")]
pub mod qemu {}
#[doc = include_str!("tokio.md")]
pub mod tokio {}

//! The device.

pub mod backend;
pub mod device;
pub mod guest;
pub mod memory;
pub mod transport;
pub mod virtqueue;

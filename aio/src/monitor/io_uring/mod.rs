//! io_uring: polls and reads that the kernel holds, and the ring that user operations share.
//!
//! A level-triggered handler is a one-shot POLL_ADD. Its completion queues it to be armed again by
//! the *next* wait, after its callback ran, so a condition that was cleared is not reported twice
//! and one that was not is reported again. (Multishot POLL_ADD is edge-triggered after its first
//! completion; QEMU hung when it used that for level-triggered handlers.) A notifier that is never
//! read is a multishot POLL_ADD, armed again only when the kernel ends it. Arming, cancelling and
//! user operations are SQEs that are submitted by the wait's own io_uring_enter(2).

mod backlog;
mod bells;
mod reads;
mod ring_monitor;
mod ringing;
mod shutdown;
mod tables;

pub(crate) use self::ring_monitor::UringMonitor;

#[cfg(test)]
mod tests;

//! Other event loops, each used as its documentation recommends: once with handlers that read(2)
//! the eventfd, and once edge-triggered without a read. compio and monoio cannot do the latter:
//! they await reads that the kernel carries out, and each poll of theirs is for one event.

pub(super) mod calloop;
pub(super) mod compio;
pub(super) mod event_manager;
pub(super) mod eventp;
pub(super) mod mio;
pub(super) mod monoio;
pub(super) mod polling;
pub(super) mod tokio;

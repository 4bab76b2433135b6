//! The machine below a measurement: CPUs, pinned threads, processes, limits.

mod cpus;
mod descriptors;
mod placement;
pub(crate) mod process;
mod worker;

pub(crate) use cpus::{CpuSet, let_others_finish, pin_current_thread};
pub(crate) use descriptors::raise_descriptor_limit;
pub(crate) use placement::{Placement, default_placements};
pub(crate) use worker::{NoOutcome, Worker};

//! The parts of a rig.

use super::dose::Dose;
use aio::BoundedMethod;
use clap::ValueEnum;
use std::path::PathBuf;
use std::sync::Arc;
use virtio_blk_sim::blk::backend::{Delay, FileImage};
use virtio_blk_sim::blk::device::Features;
use virtio_blk_sim::guest::{Kicking, Workload};

/// How a vCPU of KVM kicks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum DoorbellKind {
    Pio,
    Mmio,
}

/// Who drives the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum GuestKind {
    Thread,
    Kvm { device: PathBuf, doorbell: DoorbellKind },
}

/// A disk, opened.
#[derive(Debug, Clone)]
pub(crate) enum BackendKind {
    Null,
    /// With this many sectors.
    Memory(u64),
    Delay(Delay),
    File(Arc<FileImage>),
    IoUring(Arc<FileImage>),
    Threads(Arc<FileImage>),
    LinuxAio(Arc<FileImage>),
}

impl BackendKind {
    pub(crate) fn image(&self) -> Option<&Arc<FileImage>> {
        match self {
            Self::File(image) | Self::IoUring(image) | Self::Threads(image) | Self::LinuxAio(image) => {
                Some(image)
            }
            Self::Null | Self::Memory(_) | Self::Delay(_) => None,
        }
    }
}

/// What all arms of a run have in common.
#[derive(Debug, Clone)]
pub(crate) struct Setup {
    pub(crate) backend: BackendKind,
    pub(crate) guest: GuestKind,
    pub(crate) capacity_sectors: u64,
    pub(crate) block_bytes: u32,
    pub(crate) iodepth: u16,
    /// What the driver asks for.
    pub(crate) features: Features,
    pub(crate) busy_poll_ns: u64,
    /// Length of each sample in requests, instead of a time.
    pub(crate) requests: Option<u64>,
    pub(crate) kicking: Kicking,
    /// Maximum of the ioeventfd, and how it is kept.
    pub(crate) kick_bound: Option<(u64, Option<BoundedMethod>)>,
    pub(crate) workload: Workload,
    /// The workload in fio's words.
    pub(crate) title: String,
    /// One more read(2) per doorbell, to measure its cost.
    pub(crate) dose: Option<Dose>,
    /// Whether a guest on the device's CPU waits until the device sleeps before it continues.
    pub(crate) patient_guest: bool,
    /// Timer slack of the device's thread; `None` for the default.
    pub(crate) timer_slack_ns: Option<u64>,
}

/// The features that a guest's driver negotiates.
pub(crate) fn features(event_idx: bool) -> Features {
    let features = Features::INDIRECT_DESC | Features::FLUSH;
    if event_idx { features | Features::EVENT_IDX } else { features }
}

//! Who drives the disk: a thread that plays the vCPU, or a vCPU of KVM.

use super::setup::{DoorbellKind, GuestKind, Setup};
use crate::error::{Error, reason};
use aio::BoundedNotifier;
use std::path::Path;
use virtio_blk_sim::blk::device::{BlockDevice, Features};
use virtio_blk_sim::guest::SimTransport;
#[cfg(target_arch = "x86_64")]
use virtio_blk_sim::guest::kvm::{Doorbell, Execution, KvmGuest, KvmOptions, KvmShape};
use virtio_blk_sim::guest::{self, BlkDriver, GuestError, GuestReport, Workload};

/// A guest whose driver has set up its rings. For one thread at a time.
pub(super) enum Guest {
    Thread(Box<BlkDriver>),
    #[cfg(target_arch = "x86_64")]
    Kvm(Box<KvmGuest>),
}

/// The result of a run of a guest.
#[derive(Debug)]
pub(super) struct GuestRun {
    pub(super) report: GuestReport,
    /// Number of VM exits, if KVM counts them.
    pub(super) vm_exits: Option<u64>,
}

impl Guest {
    /// Creates a guest, its RAM, and the transport to the device. The error is a text.
    pub(super) fn make(
        device: BlockDevice,
        features: Features,
        reset: aio::Reset,
        bound: Option<BoundedNotifier>,
        setup: &Setup,
    ) -> Result<(SimTransport, Self), String> {
        let (slots, block_bytes) = (setup.iodepth, setup.block_bytes);
        match &setup.guest {
            GuestKind::Thread => {
                let queue_size = BlkDriver::queue_size_for(slots, features);
                let ram = BlkDriver::ram_bytes(queue_size, slots, block_bytes);
                let ram = usize::try_from(ram).map_err(|error| error.to_string())?;
                let transport = SimTransport::new(device, features, queue_size, ram, reset).map_err(words)?;
                let transport = match bound {
                    Some(kick) => transport.with_kick(kick),
                    None => transport,
                };
                let ports = transport.guest().map_err(words)?;
                let mut driver = BlkDriver::new(ports, slots, block_bytes).map_err(words)?;
                driver.set_kicking(setup.kicking);
                Ok((transport, Self::Thread(Box::new(driver))))
            }
            #[cfg(target_arch = "x86_64")]
            GuestKind::Kvm { device: path, doorbell } => {
                let doorbell = match doorbell {
                    DoorbellKind::Pio => Doorbell::Pio,
                    DoorbellKind::Mmio => Doorbell::Mmio,
                };
                let shape = KvmShape { features, slots, block_bytes };
                let options = KvmOptions { device: path.clone(), doorbell, ..KvmOptions::default() };
                let transport = shape.transport(device, reset).map_err(words)?;
                let guest = KvmGuest::new(&transport, shape, &options).map_err(words)?;
                Ok((transport, Self::Kvm(Box::new(guest))))
            }
            #[cfg(not(target_arch = "x86_64"))]
            GuestKind::Kvm { doorbell: DoorbellKind::Pio | DoorbellKind::Mmio, .. } => {
                Err(NOT_HERE.to_owned())
            }
        }
    }

    /// Runs a workload on the calling thread.
    pub(super) fn run(&mut self, workload: &Workload) -> Result<GuestRun, GuestError> {
        match self {
            Self::Thread(driver) => {
                guest::run(driver, workload).map(|report| GuestRun { report, vm_exits: None })
            }
            #[cfg(target_arch = "x86_64")]
            Self::Kvm(guest) => {
                let before = guest.stats();
                let report = guest.run(workload)?;
                let vm_exits = before.zip(guest.stats()).map(|(before, after)| (after - before).exits);
                Ok(GuestRun { report, vm_exits })
            }
        }
    }
}

fn words(error: impl std::fmt::Display) -> String {
    reason(&error)
}

#[cfg(not(target_arch = "x86_64"))]
const NOT_HERE: &str = "its guest is a program for x86-64";

/// A remark about the kind of guest: with KVM, whether its times are valid. Fails if KVM is not
/// usable.
pub(crate) fn remark(kind: &GuestKind) -> Result<Option<&'static str>, Error> {
    match kind {
        GuestKind::Thread => Ok(None),
        GuestKind::Kvm { device, .. } => {
            probe(device).map_err(|why| Error::Unavailable(format!("--guest kvm: {why}")))
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn probe(device: &Path) -> Result<Option<&'static str>, String> {
    Ok(Some(match KvmGuest::probe(device).map_err(words)? {
        Execution::Hardware => "The processor runs the guest, so its times are valid.",
        Execution::Interpreted => {
            "KVM interprets the guest here, instruction by instruction: only the counts are valid, not the times."
        }
        Execution::Unknown => {
            "This kernel does not say whether KVM interprets the guest or the processor runs it: the counts are valid; \
             the times only if the processor runs it."
        }
    }))
}

#[cfg(not(target_arch = "x86_64"))]
fn probe(_: &Path) -> Result<Option<&'static str>, String> {
    Err(NOT_HERE.to_owned())
}

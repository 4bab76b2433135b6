//! Errors of a KVM guest.

use std::io;
use std::path::PathBuf;

/// Why a guest cannot be created or cannot continue.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KvmError {
    /// KVM is not available, or may not be used.
    #[error("{} cannot be opened: {source}; a guest needs KVM with read and write permission", path.display())]
    Open {
        /// The device file.
        path: PathBuf,
        /// The error of open(2).
        source: io::Error,
    },
    /// The file is not a KVM device, or lacks a capability.
    #[error("{} is not a usable KVM device: it lacks {what}", path.display())]
    Lacks {
        /// The device file.
        path: PathBuf,
        /// What is missing.
        what: &'static str,
    },
    /// An ioctl of KVM failed.
    #[error("KVM refused to {what}: {source}")]
    Refused {
        /// The operation that failed.
        what: &'static str,
        /// The error of the ioctl.
        source: io::Error,
    },
    /// The transport's RAM or queue does not match the guest's shape.
    #[error("the transport's {0} does not match the guest's shape; create it with KvmShape")]
    Shape(&'static str),
    /// The doorbell is bounded in user space.
    #[error("KVM writes the ioeventfd itself and cannot apply a bound of user space; use a plain doorbell")]
    BoundedKick,
    /// Guest RAM could not be allocated.
    #[error("guest RAM cannot be allocated: {0}")]
    Ram(#[source] io::Error),
    /// An address in guest RAM is not accessible.
    #[error("guest RAM cannot be accessed: {0}")]
    Memory(#[from] vm_memory::GuestMemoryError),
    /// An eventfd could not be created or signalled.
    #[error("an eventfd of the guest failed: {0}")]
    Eventfd(#[source] io::Error),
    /// The vCPU exited for a reason that the guest program does not cause.
    #[error("unexpected exit of the vCPU: {0}")]
    Exit(String),
    /// The device put a head on the used ring that is not in flight.
    #[error("the device completed a request that is not in flight")]
    NotInFlight,
    /// A request did not complete exactly once.
    #[error("request {request} of a batch completed {times} times")]
    Completions {
        /// Index of the request in its batch.
        request: u32,
        /// How often it completed.
        times: u64,
    },
    /// The guest was stopped by another thread.
    #[error("the guest was stopped with {in_flight} requests in flight")]
    Stopped {
        /// Requests that were made available and did not complete.
        in_flight: u32,
    },
}

impl KvmError {
    pub(super) fn refused(what: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> Self {
        move |error| Self::Refused { what, source: error.into() }
    }
}

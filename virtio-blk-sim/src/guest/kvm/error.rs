//! Why there is no guest, or none any more.

use std::io;
use std::path::PathBuf;

/// A guest that cannot be, or that went wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KvmError {
    /// No KVM, or none for us.
    #[error("{} cannot be opened: {source}; a guest needs KVM, and the right to read and write its device", path.display())]
    Open {
        /// The device.
        path: PathBuf,
        /// What open(2) said.
        source: io::Error,
    },
    /// A KVM that is not what it should be.
    #[error("{} is no KVM that can be used here: it lacks {what}", path.display())]
    Lacks {
        /// The device.
        path: PathBuf,
        /// What is missing.
        what: &'static str,
    },
    /// KVM refused something.
    #[error("KVM refused to {what}: {source}")]
    Refused {
        /// What it should have done.
        what: &'static str,
        /// What the ioctl said.
        source: io::Error,
    },
    /// The transport's RAM or queue is not what the guest's shape asks for.
    #[error("the transport's {0} is not the one of the guest's shape: make it with KvmShape")]
    Shape(&'static str),
    /// The doorbell is a bounded one of user space.
    #[error("KVM writes the ioeventfd itself and knows of no bound in user space: use a plain doorbell")]
    BoundedKick,
    /// Guest RAM could not be had.
    #[error("guest RAM cannot be mapped: {0}")]
    Ram(#[source] io::Error),
    /// Guest RAM could not be reached.
    #[error("guest RAM cannot be reached: {0}")]
    Memory(#[from] vm_memory::GuestMemoryError),
    /// An eventfd could not be made or signalled.
    #[error("an eventfd of the guest failed: {0}")]
    Eventfd(#[source] io::Error),
    /// The vCPU came to something that is not in the program.
    #[error("the vCPU stopped at something that its program does not do: {0}")]
    Exit(String),
    /// The device has put a head on the used ring that is not in flight.
    #[error("the device completed a request that is not in flight")]
    NotInFlight,
    /// A request did not come back exactly once.
    #[error("request {request} of a batch came back {times} times")]
    Completions {
        /// Which.
        request: u32,
        /// How often.
        times: u64,
    },
    /// Somebody stopped the guest.
    #[error("the guest was stopped with {in_flight} requests in flight")]
    Stopped {
        /// Requests made available that had not come back.
        in_flight: u32,
    },
}

impl KvmError {
    pub(super) fn refused(what: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> Self {
        move |error| Self::Refused { what, source: error.into() }
    }
}

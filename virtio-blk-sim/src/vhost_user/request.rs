//! The requests of a frontend to a block backend (specification, "Front-end message types").

use std::os::fd::OwnedFd;

use super::features::ProtocolFeatures;
use super::frame::Frame;
use super::header::{Code, Header};
use super::payload::{
    ConfigAccess, ConfigData, Inflight, LogArea, MAX_CONFIG_SIZE, MemoryRegion, SingleRegion, VringAddr,
    VringState, Wire,
};

/// Bits 0 to 7 of the payload of SET_VRING_KICK, CALL and ERR are the index of the vring.
pub(super) const VRING_INDEX: u64 = 0xff;
/// Bit 8 means that there is no descriptor.
pub(super) const VRING_NO_FD: u64 = 1 << 8;

/// An eventfd for one vring. Without one the backend polls for kicks, or sends no interrupts.
#[derive(Debug)]
pub struct VringFd {
    /// Index of the queue. Not checked.
    pub index: u8,
    /// The eventfd. Not checked: it can be any descriptor that the frontend sent.
    pub fd: Option<OwnedFd>,
}

/// A request with a valid format: sizes, counts and numbers of descriptors are checked. The
/// *values* (queue indices, addresses, queue sizes, kinds of descriptors) are not checked yet.
///
/// Names and order are those of the specification. Requests with a reply of their own mention it;
/// to the others the backend replies with an [`Ack`](super::Ack) if [`Header::wants_ack`].
#[derive(Debug)]
#[non_exhaustive]
pub enum Request {
    /// Get the offered virtio features. Answered with [`Reply::Features`](super::Reply::Features).
    GetFeatures,
    /// Enable virtio features. Without [`F_PROTOCOL_FEATURES`](super::F_PROTOCOL_FEATURES), all
    /// rings are enabled immediately.
    SetFeatures(u64),
    /// Start a session.
    SetOwner,
    /// Deprecated: ignore it, or disable all rings.
    ResetOwner,
    /// Set the guest's memory: 1 to [`MAX_REGIONS`](super::MAX_REGIONS) regions, each with its
    /// file. Replaces the previous table.
    SetMemTable(Vec<(MemoryRegion, OwnedFd)>),
    /// Set the log of dirty pages. Needs [`ProtocolFeatures::LOG_SHMFD`]. Answered with
    /// [`Reply::LogBase`](super::Reply::LogBase).
    SetLogBase(LogArea, OwnedFd),
    /// Set an eventfd for "the log has been modified". A backend need not signal it. Not checked:
    /// it can be any descriptor that the frontend sent.
    SetLogFd(OwnedFd),
    /// Set the size of a vring in entries.
    SetVringNum(VringState),
    /// Set the addresses of a vring.
    SetVringAddr(VringAddr),
    /// Set the index in the avail ring where the vring continues.
    SetVringBase(VringState),
    /// Stop a vring and return its current index in the avail ring. Answered with
    /// [`Reply::VringBase`](super::Reply::VringBase).
    GetVringBase {
        /// Index of the queue. Not checked.
        index: u32,
    },
    /// Set the eventfd for kicks. The first kick starts the ring.
    SetVringKick(VringFd),
    /// Set the eventfd for interrupts.
    SetVringCall(VringFd),
    /// Set the eventfd that reports a broken ring.
    SetVringErr(VringFd),
    /// Get the offered protocol features. Answered with
    /// [`Reply::ProtocolFeatures`](super::Reply::ProtocolFeatures).
    GetProtocolFeatures,
    /// Enable protocol features.
    SetProtocolFeatures(ProtocolFeatures),
    /// Get the number of queues. Answered with [`Reply::QueueNum`](super::Reply::QueueNum).
    GetQueueNum,
    /// Enable or disable a vring.
    SetVringEnable {
        /// Index of the queue. Not checked.
        index: u32,
        /// True to enable the vring.
        enable: bool,
    },
    /// Set the socket for the backend's own requests ([`BackendRequest`](super::BackendRequest)).
    /// Not checked: it can be any descriptor that the frontend sent.
    SetBackendReqFd(OwnedFd),
    /// Read the configuration space. Answered with [`Reply::Config`](super::Reply::Config).
    GetConfig(ConfigAccess),
    /// Write the configuration space.
    SetConfig(ConfigData),
    /// Create a region for requests in flight, for `num_queues` queues of `queue_size`. Answered
    /// with [`Reply::Inflight`](super::Reply::Inflight).
    GetInflightFd(Inflight),
    /// Set the region for requests in flight. It may contain requests that a previous backend left.
    SetInflightFd(Inflight, OwnedFd),
    /// Disable all rings and reset all state except the session.
    ResetDevice,
    /// Get the maximum number of memory regions. Answered with
    /// [`Reply::MaxMemSlots`](super::Reply::MaxMemSlots).
    GetMaxMemSlots,
    /// Add a memory region.
    AddMemReg(MemoryRegion, OwnedFd),
    /// Remove the memory region with this guest address, user address and size.
    RemMemReg(MemoryRegion),
    /// Set the device status register.
    SetStatus(u8),
    /// Get the device status register. Answered with [`Reply::Status`](super::Reply::Status).
    GetStatus,
}

impl Request {
    /// Returns the code of the request.
    pub const fn code(&self) -> Code {
        match self {
            Self::GetFeatures => Code::GetFeatures,
            Self::SetFeatures(_) => Code::SetFeatures,
            Self::SetOwner => Code::SetOwner,
            Self::ResetOwner => Code::ResetOwner,
            Self::SetMemTable(_) => Code::SetMemTable,
            Self::SetLogBase(..) => Code::SetLogBase,
            Self::SetLogFd(_) => Code::SetLogFd,
            Self::SetVringNum(_) => Code::SetVringNum,
            Self::SetVringAddr(_) => Code::SetVringAddr,
            Self::SetVringBase(_) => Code::SetVringBase,
            Self::GetVringBase { .. } => Code::GetVringBase,
            Self::SetVringKick(_) => Code::SetVringKick,
            Self::SetVringCall(_) => Code::SetVringCall,
            Self::SetVringErr(_) => Code::SetVringErr,
            Self::GetProtocolFeatures => Code::GetProtocolFeatures,
            Self::SetProtocolFeatures(_) => Code::SetProtocolFeatures,
            Self::GetQueueNum => Code::GetQueueNum,
            Self::SetVringEnable { .. } => Code::SetVringEnable,
            Self::SetBackendReqFd(_) => Code::SetBackendReqFd,
            Self::GetConfig(_) => Code::GetConfig,
            Self::SetConfig(_) => Code::SetConfig,
            Self::GetInflightFd(_) => Code::GetInflightFd,
            Self::SetInflightFd(..) => Code::SetInflightFd,
            Self::ResetDevice => Code::ResetDevice,
            Self::GetMaxMemSlots => Code::GetMaxMemSlots,
            Self::AddMemReg(..) => Code::AddMemReg,
            Self::RemMemReg(_) => Code::RemMemReg,
            Self::SetStatus(_) => Code::SetStatus,
            Self::GetStatus => Code::GetStatus,
        }
    }

    /// Returns true if the request has a reply of its own, which is sent whether or not
    /// `need_reply` is set.
    pub const fn has_reply(&self) -> bool {
        matches!(
            self,
            Self::GetFeatures
                | Self::SetLogBase(..)
                | Self::GetVringBase { .. }
                | Self::GetProtocolFeatures
                | Self::GetQueueNum
                | Self::GetConfig(_)
                | Self::GetInflightFd(_)
                | Self::GetMaxMemSlots
                | Self::GetStatus
        )
    }

    /// Encodes the request. `need_reply` asks for an [`Ack`](super::Ack).
    pub fn encode(self, need_reply: bool) -> Frame {
        let number = self.code().number();
        let mut fds = Vec::new();
        let header = |size| match need_reply {
            true => Header::request(number, size).with_need_reply(),
            false => Header::request(number, size),
        };
        Frame::new(header, |out| self.write(out, &mut fds)).with_fds(fds)
    }

    fn write(self, out: &mut Vec<u8>, fds: &mut Vec<OwnedFd>) {
        match self {
            Self::GetFeatures
            | Self::SetOwner
            | Self::ResetOwner
            | Self::GetProtocolFeatures
            | Self::GetQueueNum
            | Self::ResetDevice
            | Self::GetMaxMemSlots
            | Self::GetStatus => {}
            Self::SetFeatures(features) => features.write(out),
            Self::SetMemTable(regions) => {
                u32::try_from(regions.len()).unwrap_or(u32::MAX).write(out);
                0u32.write(out);
                for (region, fd) in regions {
                    region.write(out);
                    fds.push(fd);
                }
            }
            Self::SetVringNum(state) | Self::SetVringBase(state) => state.write(out),
            Self::SetVringAddr(addr) => addr.write(out),
            Self::GetVringBase { index } => VringState { index, num: 0 }.write(out),
            Self::SetVringKick(vring) | Self::SetVringCall(vring) | Self::SetVringErr(vring) => {
                let no_fd = if vring.fd.is_none() { VRING_NO_FD } else { 0 };
                (u64::from(vring.index) | no_fd).write(out);
                fds.extend(vring.fd);
            }
            Self::SetProtocolFeatures(features) => features.bits().write(out),
            Self::SetVringEnable { index, enable } => VringState { index, num: enable.into() }.write(out),
            Self::SetLogBase(area, fd) => {
                area.write(out);
                fds.push(fd);
            }
            Self::SetBackendReqFd(fd) | Self::SetLogFd(fd) => fds.push(fd),
            Self::GetConfig(access) => {
                access.write(out);
                // "Virtio device config space": as many bytes as the reply will have. Their content
                // is ignored.
                out.resize(ConfigAccess::SIZE + (access.size as usize).min(MAX_CONFIG_SIZE), 0);
            }
            Self::SetConfig(config) => {
                config.access().write(out);
                out.extend_from_slice(&config.data);
            }
            Self::GetInflightFd(inflight) => inflight.write(out),
            Self::SetInflightFd(inflight, fd) => {
                inflight.write(out);
                fds.push(fd);
            }
            Self::AddMemReg(region, fd) => {
                SingleRegion(region).write(out);
                fds.push(fd);
            }
            Self::RemMemReg(region) => SingleRegion(region).write(out),
            Self::SetStatus(status) => u64::from(status).write(out),
        }
    }
}

//! The requests of a frontend that a block backend serves (specification, "Front-end message
//! types").

use std::os::fd::OwnedFd;

use super::features::ProtocolFeatures;
use super::frame::Frame;
use super::header::{Code, Header};
use super::payload::{
    ConfigAccess, ConfigData, Inflight, MAX_CONFIG_SIZE, MemoryRegion, SingleRegion, VringAddr, VringState,
    Wire,
};

/// Bits 0 to 7 of the payload of SET_VRING_KICK, SET_VRING_CALL, and SET_VRING_ERR: the vring
/// index.
pub(super) const VRING_INDEX: u64 = 0xff;
/// Bit 8 of that payload: the message carries no descriptor.
pub(super) const VRING_NO_FD: u64 = 1 << 8;

/// An eventfd for one vring, or none. Without a kick eventfd the backend would have to poll the
/// ring; without the others it sends no notification.
#[derive(Debug)]
pub struct VringFd {
    /// The vring index. Unchecked.
    pub index: u8,
    /// The eventfd. It may be any kind of descriptor that the frontend chose to send.
    pub fd: Option<OwnedFd>,
}

/// A request whose form has been checked: sizes, counts, and descriptors are right. The *values* in
/// it (vring indices, addresses, ring sizes, kinds of descriptors) have not been checked yet.
///
/// Names and order are those of the specification. The requests that have a reply of their own are
/// marked below. For the others the backend sends an [`Ack`](super::Ack) if [`Header::wants_ack`].
#[derive(Debug)]
#[non_exhaustive]
pub enum Request {
    /// Asks for the offered virtio features. Answered by
    /// [`Reply::Features`](super::Reply::Features).
    GetFeatures,
    /// Sets the negotiated virtio features. Without
    /// [`F_PROTOCOL_FEATURES`](super::F_PROTOCOL_FEATURES) all rings are enabled from the start.
    SetFeatures(u64),
    /// Starts a session.
    SetOwner,
    /// Deprecated: ignore it, or disable all rings.
    ResetOwner,
    /// Sets the guest memory: 1 to [`MAX_REGIONS`](super::MAX_REGIONS) regions, each with its file.
    /// Replaces the previous table.
    SetMemTable(Vec<(MemoryRegion, OwnedFd)>),
    /// Sets the size of a vring in entries.
    SetVringNum(VringState),
    /// Sets the addresses of a vring.
    SetVringAddr(VringAddr),
    /// Sets the position in the avail ring where the vring continues.
    SetVringBase(VringState),
    /// Stops a vring and asks for its position in the avail ring. Answered by
    /// [`Reply::VringBase`](super::Reply::VringBase).
    GetVringBase {
        /// The vring index. Unchecked.
        index: u32,
    },
    /// Sets the eventfd for kicks. The first kick starts the ring.
    SetVringKick(VringFd),
    /// Sets the eventfd for interrupts.
    SetVringCall(VringFd),
    /// Sets the eventfd that reports a broken ring.
    SetVringErr(VringFd),
    /// Asks for the offered protocol features. Answered by
    /// [`Reply::ProtocolFeatures`](super::Reply::ProtocolFeatures).
    GetProtocolFeatures,
    /// Sets the negotiated protocol features.
    SetProtocolFeatures(ProtocolFeatures),
    /// Asks for the number of queues. Answered by [`Reply::QueueNum`](super::Reply::QueueNum).
    GetQueueNum,
    /// Enables or disables a vring.
    SetVringEnable {
        /// The vring index. Unchecked.
        index: u32,
        /// Whether to enable it.
        enable: bool,
    },
    /// Sets the socket for the backend's own requests ([`BackendRequest`](super::BackendRequest)).
    /// It may be any kind of descriptor that the frontend chose to send.
    SetBackendReqFd(OwnedFd),
    /// Reads the configuration space. Answered by [`Reply::Config`](super::Reply::Config).
    GetConfig(ConfigAccess),
    /// Writes the configuration space.
    SetConfig(ConfigData),
    /// Asks the backend to create a region for the requests in flight, for `num_queues` queues of
    /// `queue_size` entries. Answered by [`Reply::Inflight`](super::Reply::Inflight).
    GetInflightFd(Inflight),
    /// Sets the region for the requests in flight. It may hold requests that a previous backend
    /// left.
    SetInflightFd(Inflight, OwnedFd),
    /// Disables all rings and resets all state except the session itself.
    ResetDevice,
    /// Asks for the maximum number of memory regions. Answered by
    /// [`Reply::MaxMemSlots`](super::Reply::MaxMemSlots).
    GetMaxMemSlots,
    /// Adds a memory region.
    AddMemReg(MemoryRegion, OwnedFd),
    /// Removes the memory region with this guest address, user address, and size.
    RemMemReg(MemoryRegion),
    /// Sets the device status register.
    SetStatus(u8),
    /// Asks for the device status register. Answered by [`Reply::Status`](super::Reply::Status).
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

    /// Returns true if the request has a reply of its own, which is sent with or without
    /// `need_reply`.
    pub const fn has_reply(&self) -> bool {
        matches!(
            self,
            Self::GetFeatures
                | Self::GetVringBase { .. }
                | Self::GetProtocolFeatures
                | Self::GetQueueNum
                | Self::GetConfig(_)
                | Self::GetInflightFd(_)
                | Self::GetMaxMemSlots
                | Self::GetStatus
        )
    }

    /// Encodes the request as a frontend sends it. `need_reply` asks for an [`Ack`](super::Ack).
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
            Self::SetBackendReqFd(fd) => fds.push(fd),
            Self::GetConfig(access) => {
                access.write(out);
                // The specification wants the payload to be as long as in the reply. Its content is
                // ignored.
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

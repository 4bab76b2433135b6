//! What a frontend asks of a block backend (specification, "Front-end message types").

use std::os::fd::OwnedFd;

use super::features::ProtocolFeatures;
use super::frame::Frame;
use super::header::{Code, Header};
use super::payload::{
    ConfigAccess, ConfigData, Inflight, MAX_CONFIG_SIZE, MemoryRegion, SingleRegion, VringAddr, VringState,
    Wire,
};

/// Bits 0 to 7 of the payload of SET_VRING_KICK, CALL and ERR are the index ...
pub(super) const VRING_INDEX: u64 = 0xff;
/// ... and bit 8 says that no descriptor comes with it.
pub(super) const VRING_NO_FD: u64 = 1 << 8;

/// An eventfd for one vring, or none: then the backend polls for kicks, or calls nobody.
#[derive(Debug)]
pub struct VringFd {
    /// Which queue. Any number.
    pub index: u8,
    /// The eventfd: whatever descriptor the frontend chose to send.
    pub fd: Option<OwnedFd>,
}

/// A request, checked in form: sizes, counts and descriptors are right. What the numbers in it
/// *mean* (queue indices, addresses, sizes of queues, kinds of descriptors) nobody has looked at
/// yet.
///
/// Names and order are the specification's. Those with a reply of their own say so; for the others
/// the backend sends an [`Ack`](super::Ack) if [`Header::wants_ack`].
#[derive(Debug)]
#[non_exhaustive]
pub enum Request {
    /// Which virtio features are offered? Answered by [`Reply::Features`](super::Reply::Features).
    GetFeatures,
    /// The virtio features that are in force; without
    /// [`F_PROTOCOL_FEATURES`](super::F_PROTOCOL_FEATURES) all rings are enabled at once.
    SetFeatures(u64),
    /// A session begins.
    SetOwner,
    /// Deprecated: ignore it, or disable all rings.
    ResetOwner,
    /// The guest's memory, 1 to [`MAX_REGIONS`](super::MAX_REGIONS) regions, each with its file.
    /// Replaces what was there.
    SetMemTable(Vec<(MemoryRegion, OwnedFd)>),
    /// The size of a vring in entries.
    SetVringNum(VringState),
    /// Where a vring is.
    SetVringAddr(VringAddr),
    /// Where in the avail ring to go on.
    SetVringBase(VringState),
    /// Stop this vring and say where in the avail ring it stands. Answered by
    /// [`Reply::VringBase`](super::Reply::VringBase).
    GetVringBase {
        /// Which queue. Any number.
        index: u32,
    },
    /// Where kicks come from. The first kick starts the ring.
    SetVringKick(VringFd),
    /// Where interrupts go.
    SetVringCall(VringFd),
    /// Where a broken ring is reported.
    SetVringErr(VringFd),
    /// Which protocol features are offered? Answered by
    /// [`Reply::ProtocolFeatures`](super::Reply::ProtocolFeatures).
    GetProtocolFeatures,
    /// The protocol features that are in force.
    SetProtocolFeatures(ProtocolFeatures),
    /// How many queues are there? Answered by [`Reply::QueueNum`](super::Reply::QueueNum).
    GetQueueNum,
    /// Enable or disable a vring.
    SetVringEnable {
        /// Which queue. Any number.
        index: u32,
        /// Process it?
        enable: bool,
    },
    /// The socket for the backend's own requests ([`BackendRequest`](super::BackendRequest)):
    /// whatever descriptor the frontend chose to send.
    SetBackendReqFd(OwnedFd),
    /// Read the configuration space. Answered by [`Reply::Config`](super::Reply::Config).
    GetConfig(ConfigAccess),
    /// Write the configuration space.
    SetConfig(ConfigData),
    /// Make a region for the requests in flight, `num_queues` times `queue_size`. Answered by
    /// [`Reply::Inflight`](super::Reply::Inflight).
    GetInflightFd(Inflight),
    /// The region for the requests in flight, perhaps with some in it that a predecessor has left.
    SetInflightFd(Inflight, OwnedFd),
    /// Disable all rings and forget everything but the session.
    ResetDevice,
    /// How many memory regions may there be? Answered by
    /// [`Reply::MaxMemSlots`](super::Reply::MaxMemSlots).
    GetMaxMemSlots,
    /// One more memory region.
    AddMemReg(MemoryRegion, OwnedFd),
    /// One memory region less: the one with this guest address, user address and size.
    RemMemReg(MemoryRegion),
    /// The device status register.
    SetStatus(u8),
    /// What is the device status? Answered by [`Reply::Status`](super::Reply::Status).
    GetStatus,
}

impl Request {
    /// Which request it is.
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

    /// True if it has a reply of its own, which comes whether or not `need_reply` is set.
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

    /// The request as a frontend sends it. `need_reply` asks for an [`Ack`](super::Ack).
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
                // "Virtio device config space" with as many bytes as the reply will have; they mean
                // nothing yet.
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

//! The backend's replies, its refusals of invalid messages, and its own requests.

use std::os::fd::OwnedFd;

use super::error::MessageError;
use super::features::ProtocolFeatures;
use super::frame::Frame;
use super::header::{Code, Header};
use super::payload::{ConfigAccess, ConfigData, Fields, Inflight, LogArea, VringState, Wire};

/// The reply to a request, for [`Connection::send`](super::Connection::send).
#[derive(Debug)]
pub enum Reply {
    /// The offered virtio features, including [`F_PROTOCOL_FEATURES`](super::F_PROTOCOL_FEATURES).
    Features(u64),
    /// The offered protocol features.
    ProtocolFeatures(ProtocolFeatures),
    /// The number of queues.
    QueueNum(u64),
    /// The maximum number of memory regions.
    MaxMemSlots(u64),
    /// The device status register.
    Status(u8),
    /// The current index in the avail ring of the stopped vring.
    VringBase(VringState),
    /// The requested bytes of the configuration space, or no bytes if the read failed.
    Config(ConfigData),
    /// The region for requests in flight, or size 0 and no descriptor if there is none.
    Inflight(Inflight, Option<OwnedFd>),
    /// The log of dirty pages is in use, and the former one is not any more; or [`LogArea::NONE`]
    /// if it was refused. The specification does not say what the reply contains. libvhost-user
    /// sends a number and the vhost crate this structure. QEMU accepts any body, but the vhost
    /// crate's frontend waits for as many bytes, and takes an empty area for an error.
    LogBase(LogArea),
    /// Success or failure.
    Ack(Ack),
}

/// The acknowledgement of a request that has no other reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ack {
    /// Number of the request.
    pub request: u32,
    /// Whether the request succeeded.
    pub ok: bool,
}

impl Reply {
    /// Parses the reply to the request `number`, on the side that sent the request.
    ///
    /// # Errors
    /// The reason why the reply is invalid. `fds` are then closed.
    pub fn parse(
        number: u32,
        header: &Header,
        body: &[u8],
        mut fds: Vec<OwnedFd>,
    ) -> Result<Self, MessageError> {
        Ok(match Code::from_number(number) {
            Some(Code::GetInflightFd) => {
                let count = fds.len();
                let inflight: Inflight = payload(number, header, body, Vec::new())?;
                let expected = usize::from(inflight.mmap_size != 0);
                if count != expected {
                    return Err(MessageError::ReplyDescriptors { request: number, count, expected });
                }
                Self::Inflight(inflight, fds.pop())
            }
            Some(Code::GetConfig) => Self::config(number, header, body, fds)?,
            Some(Code::GetFeatures) => Self::Features(payload(number, header, body, fds)?),
            Some(Code::GetProtocolFeatures) => {
                Self::ProtocolFeatures(ProtocolFeatures::from_bits(payload(number, header, body, fds)?))
            }
            Some(Code::GetQueueNum) => Self::QueueNum(payload(number, header, body, fds)?),
            Some(Code::GetMaxMemSlots) => Self::MaxMemSlots(payload(number, header, body, fds)?),
            Some(code @ Code::GetStatus) => {
                let value: u64 = payload(number, header, body, fds)?;
                Self::Status(u8::try_from(value).map_err(|_| MessageError::Value { code, value })?)
            }
            // Without LOG_SHMFD it has no reply of its own, but may be acknowledged.
            Some(Code::SetLogBase) if body.len() == LogArea::SIZE => {
                Self::LogBase(payload(number, header, body, fds)?)
            }
            Some(Code::GetVringBase) => Self::VringBase(payload(number, header, body, fds)?),
            _ => Self::Ack(Ack::parse(number, header, body, fds)?),
        })
    }

    fn config(number: u32, header: &Header, body: &[u8], fds: Vec<OwnedFd>) -> Result<Self, MessageError> {
        // Backends report a failure in two ways: with no body at all, or with a size of 0 in it.
        if body.is_empty() {
            check(number, header, fds)?;
            return Ok(Self::Config(ConfigData { offset: 0, flags: 0, data: Vec::new() }));
        }
        let (access, data) = body.split_at_checked(ConfigAccess::SIZE).unwrap_or((body, &[]));
        let ConfigAccess { offset, size, flags } = payload(number, header, access, fds)?;
        match data.get(..size as usize) {
            Some(data) => Ok(Self::Config(ConfigData { offset, flags, data: data.to_vec() })),
            None => Err(MessageError::ReplySize {
                request: number,
                size: body.len(),
                expected: ConfigAccess::SIZE.saturating_add(size as usize),
            }),
        }
    }

    /// Returns the number of the request that this replies to.
    pub const fn request(&self) -> u32 {
        match self {
            Self::Features(_) => Code::GetFeatures.number(),
            Self::ProtocolFeatures(_) => Code::GetProtocolFeatures.number(),
            Self::QueueNum(_) => Code::GetQueueNum.number(),
            Self::MaxMemSlots(_) => Code::GetMaxMemSlots.number(),
            Self::Status(_) => Code::GetStatus.number(),
            Self::VringBase(_) => Code::GetVringBase.number(),
            Self::Config(_) => Code::GetConfig.number(),
            Self::Inflight(..) => Code::GetInflightFd.number(),
            Self::LogBase(_) => Code::SetLogBase.number(),
            Self::Ack(ack) => ack.request,
        }
    }

    /// Encodes the reply.
    pub fn encode(self) -> Frame {
        let request = self.request();
        let mut fds = None;
        Frame::new(
            |size| Header::reply(request, size),
            |out| match self {
                Self::Features(value) | Self::QueueNum(value) | Self::MaxMemSlots(value) => value.write(out),
                Self::ProtocolFeatures(features) => features.bits().write(out),
                Self::Status(status) => u64::from(status).write(out),
                Self::VringBase(state) => state.write(out),
                Self::LogBase(area) => area.write(out),
                Self::Config(config) => {
                    config.access().write(out);
                    out.extend_from_slice(&config.data);
                }
                Self::Inflight(inflight, fd) => {
                    inflight.write(out);
                    fds = fd;
                }
                Self::Ack(ack) => u64::from(!ack.ok).write(out),
            },
        )
        .with_fds(fds)
    }
}

impl Ack {
    /// Parses the acknowledgement of the request `number`, on either channel.
    ///
    /// # Errors
    /// The reason why it is invalid. `fds` are then closed.
    pub fn parse(number: u32, header: &Header, body: &[u8], fds: Vec<OwnedFd>) -> Result<Self, MessageError> {
        let value: u64 = payload(number, header, body, fds)?;
        Ok(Self { request: number, ok: value == 0 })
    }
}

/// How to answer an invalid message, or a [`Request`](super::Request) that cannot be carried out.
#[derive(Debug)]
pub enum Refusal {
    /// Send this reply, which reports the failure.
    Reply(Reply),
    /// Send nothing: the frontend does not wait for an answer.
    Silence,
    /// Close the connection: the frontend waits for an answer, and this answer has no way to report
    /// a failure.
    Close,
}

impl Refusal {
    /// Returns how to refuse the message with this header. `negotiated` are the current protocol
    /// features.
    pub fn of(header: &Header, negotiated: ProtocolFeatures) -> Self {
        if header.is_reply() {
            return Self::Close;
        }
        match Code::from_number(header.request) {
            // "Uses zero length of payload to indicate an error". (The vhost crate's frontend then
            // waits for the rest of the reply, even with the vhost crate's backend. So a device
            // should rather return zeros for bytes beyond its fields.)
            Some(Code::GetConfig) => {
                Self::Reply(Reply::Config(ConfigData { offset: 0, flags: 0, data: Vec::new() }))
            }
            // A frontend that shares a log waits for the reply, whether or not it set need_reply.
            Some(Code::SetLogBase) if negotiated.contains(ProtocolFeatures::LOG_SHMFD) => {
                Self::Reply(Reply::LogBase(LogArea::NONE))
            }
            // QEMU interprets a size of 0 as "no region" and continues without one.
            Some(Code::GetInflightFd) => Self::Reply(Reply::Inflight(Inflight::NONE, None)),
            Some(
                Code::GetFeatures
                | Code::GetVringBase
                | Code::GetProtocolFeatures
                | Code::GetQueueNum
                | Code::GetMaxMemSlots
                | Code::GetStatus
                // Answered with their own structures; we do not offer the features.
                | Code::CreateCryptoSession
                | Code::PostcopyAdvise
                | Code::GetSharedObject
                | Code::SetDeviceStateFd
                | Code::GetShmemConfig,
            ) => Self::Close,
            _ if header.wants_ack(negotiated) => {
                Self::Reply(Reply::Ack(Ack { request: header.request, ok: false }))
            }
            _ => Self::Silence,
        }
    }
}

/// A request that the backend sends on its own, on the socket from
/// [`Request::SetBackendReqFd`](super::Request::SetBackendReqFd) (specification, "Back-end message
/// types").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum BackendRequest {
    /// The configuration space has changed and should be read again, for example because the disk
    /// was resized.
    ConfigChange,
}

impl BackendRequest {
    const CONFIG_CHANGE: u32 = 2;

    /// The request's number on the wire. These numbers are independent of those of the frontend's
    /// requests.
    pub const fn number(self) -> u32 {
        match self {
            Self::ConfigChange => Self::CONFIG_CHANGE,
        }
    }

    /// Encodes the request. `need_reply` asks for an [`Ack`], which is sent on the same socket.
    pub fn encode(self, need_reply: bool) -> Frame {
        let header = |size| match need_reply {
            true => Header::request(self.number(), size).with_need_reply(),
            false => Header::request(self.number(), size),
        };
        Frame::new(header, |_| ())
    }

    /// Parses a request of the backend, on the frontend's side.
    ///
    /// # Errors
    /// The reason why it is invalid. `fds` are then closed.
    pub fn parse(header: &Header, body: &[u8], fds: Vec<OwnedFd>) -> Result<Self, MessageError> {
        let request = header.request;
        if header.is_reply() {
            return Err(MessageError::ReplyFlag { request });
        }
        if request != Self::CONFIG_CHANGE {
            return Err(MessageError::UnknownFromBackend { request });
        }
        if !body.is_empty() || !fds.is_empty() {
            return Err(MessageError::NotEmpty { request, size: body.len(), count: fds.len() });
        }
        Ok(Self::ConfigChange)
    }
}

impl From<Reply> for Frame {
    fn from(reply: Reply) -> Self {
        reply.encode()
    }
}

/// Returns the body of a reply without descriptors, if it is exactly one `T`.
fn payload<T: Wire>(number: u32, header: &Header, body: &[u8], fds: Vec<OwnedFd>) -> Result<T, MessageError> {
    check(number, header, fds)?;
    match Fields(body).next() {
        Some(value) if body.len() == T::SIZE => Ok(value),
        _ => Err(MessageError::ReplySize { request: number, size: body.len(), expected: T::SIZE }),
    }
}

fn check(number: u32, header: &Header, fds: Vec<OwnedFd>) -> Result<(), MessageError> {
    if header.request != number || !header.is_reply() || header.has_reserved_flags() {
        return Err(MessageError::NotTheReply { request: number, got: header.request, flags: header.flags });
    }
    if !fds.is_empty() {
        return Err(MessageError::ReplyDescriptors { request: number, count: fds.len(), expected: 0 });
    }
    Ok(())
}

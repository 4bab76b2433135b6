//! What a backend answers, what it answers to nonsense, and what it says unasked.

use std::os::fd::OwnedFd;

use super::error::MessageError;
use super::features::ProtocolFeatures;
use super::frame::Frame;
use super::header::{Code, Header};
use super::payload::{ConfigAccess, ConfigData, Fields, Inflight, VringState, Wire};

/// The answer to a request. [`Connection::send`](super::Connection::send) takes it.
#[derive(Debug)]
pub enum Reply {
    /// The virtio features that are offered, [`F_PROTOCOL_FEATURES`](super::F_PROTOCOL_FEATURES)
    /// among them.
    Features(u64),
    /// The protocol features that are offered.
    ProtocolFeatures(ProtocolFeatures),
    /// How many queues there are.
    QueueNum(u64),
    /// How many memory regions there may be.
    MaxMemSlots(u64),
    /// The device status register.
    Status(u8),
    /// Where in the avail ring the stopped vring stands.
    VringBase(VringState),
    /// As many bytes of the configuration space as were asked for, or none if that failed.
    Config(ConfigData),
    /// The region for the requests in flight, or size 0 and no descriptor if there is none.
    Inflight(Inflight, Option<OwnedFd>),
    /// Done, or refused.
    Ack(Ack),
}

/// The answer to a request that has no other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ack {
    /// The request's number.
    pub request: u32,
    /// Success?
    pub ok: bool,
}

impl Reply {
    /// The reply to the request `number`, taken apart as its sender sees it.
    ///
    /// # Errors
    /// What is wrong with it; `fds` are closed then.
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
            Some(Code::GetVringBase) => Self::VringBase(payload(number, header, body, fds)?),
            _ => Self::Ack(Ack::parse(number, header, body, fds)?),
        })
    }

    fn config(number: u32, header: &Header, body: &[u8], fds: Vec<OwnedFd>) -> Result<Self, MessageError> {
        // Two ways to say that it failed are in use: no body at all, and a size of 0 in it.
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

    /// The request's number.
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
            Self::Ack(ack) => ack.request,
        }
    }

    /// The reply as it is sent.
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
    /// The acknowledgement of the request `number`, on either channel.
    ///
    /// # Errors
    /// What is wrong with it; `fds` are closed then.
    pub fn parse(number: u32, header: &Header, body: &[u8], fds: Vec<OwnedFd>) -> Result<Self, MessageError> {
        let value: u64 = payload(number, header, body, fds)?;
        Ok(Self { request: number, ok: value == 0 })
    }
}

/// What to do about a message that was no [`Request`](super::Request), or one that cannot be
/// carried out.
#[derive(Debug)]
pub enum Refusal {
    /// Tell the frontend so.
    Reply(Reply),
    /// Nothing: the frontend waits for no answer.
    Silence,
    /// Close the connection: the frontend waits for an answer, and it has no form in which to say
    /// no.
    Close,
}

impl Refusal {
    /// How to refuse the message with this header. `negotiated` are the protocol features in force.
    pub fn of(header: &Header, negotiated: ProtocolFeatures) -> Self {
        if header.is_reply() {
            return Self::Close;
        }
        match Code::from_number(header.request) {
            // "Uses zero length of payload to indicate an error". (The vhost crate's frontend waits
            // for the rest of it, also from the vhost crate's backend; so a device had better
            // answer zeros for what lies beyond its fields.)
            Some(Code::GetConfig) => {
                Self::Reply(Reply::Config(ConfigData { offset: 0, flags: 0, data: Vec::new() }))
            }
            // QEMU takes a size of 0 for "there is none" and goes on without.
            Some(Code::GetInflightFd) => Self::Reply(Reply::Inflight(Inflight::NONE, None)),
            Some(
                Code::GetFeatures
                | Code::GetVringBase
                | Code::GetProtocolFeatures
                | Code::GetQueueNum
                | Code::GetMaxMemSlots
                | Code::GetStatus
                // Answered by structures of their own, whose features we do not offer.
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

/// What a backend says unasked, on the socket that
/// [`Request::SetBackendReqFd`](super::Request::SetBackendReqFd) brought (specification, "Back-end
/// message types").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum BackendRequest {
    /// The configuration space has changed, say, the disk has grown: read it again.
    ConfigChange,
}

impl BackendRequest {
    const CONFIG_CHANGE: u32 = 2;

    /// Its number on the wire, where the numbers of frontend's requests do not hold.
    pub const fn number(self) -> u32 {
        match self {
            Self::ConfigChange => Self::CONFIG_CHANGE,
        }
    }

    /// The message as it is sent. `need_reply` asks for an [`Ack`], which comes on the same socket.
    pub fn encode(self, need_reply: bool) -> Frame {
        let header = |size| match need_reply {
            true => Header::request(self.number(), size).with_need_reply(),
            false => Header::request(self.number(), size),
        };
        Frame::new(header, |_| ())
    }

    /// Takes a message of the backend apart, as its frontend sees it.
    ///
    /// # Errors
    /// What is wrong with it; `fds` are closed then.
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

/// The body of a reply without descriptors, if it is one `T`.
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

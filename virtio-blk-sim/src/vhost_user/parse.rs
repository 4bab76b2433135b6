//! Parses messages into requests. All lengths, counts and numbers of descriptors are checked here,
//! before any field is used.

use std::os::fd::OwnedFd;

use super::error::MessageError;
use super::features::ProtocolFeatures;
use super::header::{Code, Header};
use super::payload::{
    ConfigAccess, ConfigData, Fields, Inflight, MAX_CONFIG_SIZE, MAX_REGIONS, MemoryRegion, SingleRegion,
    VringState, Wire,
};
use super::request::{Request, VRING_INDEX, VRING_NO_FD, VringFd};

impl Request {
    /// Parses a message as returned by [`Connection::receive`](super::Connection::receive).
    ///
    /// # Errors
    /// The reason why the message is invalid. `fds` are then closed; the connection can still be
    /// used.
    pub fn parse(header: &Header, body: &[u8], fds: Vec<OwnedFd>) -> Result<Self, MessageError> {
        let request = header.request;
        if header.is_reply() {
            return Err(MessageError::ReplyFlag { request });
        }
        if header.has_reserved_flags() {
            return Err(MessageError::ReservedFlags { request, flags: header.flags });
        }
        let code = Code::from_number(request).ok_or(MessageError::Unsupported { request })?;
        let message = Message { code, body, fds };
        Ok(match code {
            Code::GetFeatures => message.nothing(Self::GetFeatures)?,
            Code::SetFeatures => Self::SetFeatures(message.value()?),
            Code::SetOwner => message.nothing(Self::SetOwner)?,
            Code::ResetOwner => message.nothing(Self::ResetOwner)?,
            Code::SetMemTable => Self::SetMemTable(message.mem_table()?),
            Code::SetLogBase => Self::SetLogBase(message.body()?, message.one_descriptor()?),
            Code::SetLogFd => Self::SetLogFd(message.descriptor()?),
            Code::SetVringNum => Self::SetVringNum(message.value()?),
            Code::SetVringAddr => Self::SetVringAddr(message.value()?),
            Code::SetVringBase => Self::SetVringBase(message.value()?),
            Code::GetVringBase => Self::GetVringBase { index: message.value::<VringState>()?.index },
            Code::SetVringKick => Self::SetVringKick(message.vring_fd()?),
            Code::SetVringCall => Self::SetVringCall(message.vring_fd()?),
            Code::SetVringErr => Self::SetVringErr(message.vring_fd()?),
            Code::GetProtocolFeatures => message.nothing(Self::GetProtocolFeatures)?,
            Code::SetProtocolFeatures => {
                Self::SetProtocolFeatures(ProtocolFeatures::from_bits(message.value()?))
            }
            Code::GetQueueNum => message.nothing(Self::GetQueueNum)?,
            Code::SetVringEnable => message.vring_enable()?,
            Code::SetBackendReqFd => Self::SetBackendReqFd(message.descriptor()?),
            Code::GetConfig => Self::GetConfig(message.config()?.0),
            Code::SetConfig => {
                let (ConfigAccess { offset, flags, .. }, data) = message.config()?;
                Self::SetConfig(ConfigData { offset, flags, data: data.to_vec() })
            }
            Code::GetInflightFd => {
                let inflight = message.inflight()?;
                message.no_descriptor()?;
                Self::GetInflightFd(inflight)
            }
            Code::SetInflightFd => Self::SetInflightFd(message.inflight()?, message.one_descriptor()?),
            Code::ResetDevice => message.nothing(Self::ResetDevice)?,
            Code::GetMaxMemSlots => message.nothing(Self::GetMaxMemSlots)?,
            Code::AddMemReg => {
                let SingleRegion(region) = message.body()?;
                Self::AddMemReg(region, message.one_descriptor()?)
            }
            Code::RemMemReg => {
                let SingleRegion(region) = message.body()?;
                // "For compatibility with existing incorrect implementations, the back-end MAY
                // accept messages with one file descriptor"; it must then close the descriptor.
                if message.fds.len() > 1 {
                    return Err(message.descriptors(0));
                }
                Self::RemMemReg(region)
            }
            Code::SetStatus => {
                let status: u64 = message.value()?;
                Self::SetStatus(
                    u8::try_from(status).map_err(|_| MessageError::Value { code, value: status })?,
                )
            }
            Code::GetStatus => message.nothing(Self::GetStatus)?,
            // Other devices, and requests of features that we do not offer.
            _ => return Err(MessageError::Unsupported { request }),
        })
    }
}

/// A message while it is parsed into a [`Request`]. Its descriptors are closed if parsing fails.
struct Message<'a> {
    code: Code,
    body: &'a [u8],
    fds: Vec<OwnedFd>,
}

impl<'a> Message<'a> {
    /// Returns `request` if there is no body and no descriptor.
    fn nothing(self, request: Request) -> Result<Request, MessageError> {
        if !self.body.is_empty() {
            return Err(self.size(0));
        }
        self.no_descriptor()?;
        Ok(request)
    }

    /// Returns the body if it is exactly one `T` and there is no descriptor.
    fn value<T: Wire>(self) -> Result<T, MessageError> {
        let value = self.body()?;
        self.no_descriptor()?;
        Ok(value)
    }

    /// Returns the body if it is exactly one `T`.
    fn body<T: Wire>(&self) -> Result<T, MessageError> {
        match Fields(self.body).next() {
            Some(value) if self.body.len() == T::SIZE => Ok(value),
            _ => Err(self.size(T::SIZE)),
        }
    }

    /// Returns the descriptor if it is the only one and there is no body.
    fn descriptor(self) -> Result<OwnedFd, MessageError> {
        if !self.body.is_empty() {
            return Err(self.size(0));
        }
        self.one_descriptor()
    }

    fn one_descriptor(mut self) -> Result<OwnedFd, MessageError> {
        match self.fds.pop() {
            Some(fd) if self.fds.is_empty() => Ok(fd),
            // The descriptor that was already popped counts too.
            Some(_) => {
                Err(MessageError::Descriptors { code: self.code, count: self.fds.len() + 1, expected: 1 })
            }
            None => Err(self.descriptors(1)),
        }
    }

    fn no_descriptor(self) -> Result<(), MessageError> {
        if self.fds.is_empty() { Ok(()) } else { Err(self.descriptors(0)) }
    }

    fn mem_table(self) -> Result<Vec<(MemoryRegion, OwnedFd)>, MessageError> {
        let mut fields = Fields(self.body);
        let (Some(count), Some(_padding)) = (fields.next::<u32>(), fields.next::<u32>()) else {
            return Err(self.size(8 + MemoryRegion::SIZE));
        };
        let regions = usize::try_from(count).ok().filter(|regions| (1..=MAX_REGIONS).contains(regions));
        let Some(regions) = regions else {
            return Err(MessageError::Regions { count });
        };
        let size = 8 + regions * MemoryRegion::SIZE;
        if self.body.len() != size {
            return Err(self.size(size));
        }
        if self.fds.len() != regions {
            return Err(self.descriptors(regions));
        }
        self.fds
            .into_iter()
            .map(|fd| Some((fields.next()?, fd)))
            .collect::<Option<_>>()
            .ok_or(MessageError::Size { code: self.code, size: self.body.len(), expected: size })
    }

    fn vring_fd(self) -> Result<VringFd, MessageError> {
        let value: u64 = self.body()?;
        if value & !(VRING_INDEX | VRING_NO_FD) != 0 {
            return Err(MessageError::Value { code: self.code, value });
        }
        let index = (value & VRING_INDEX) as u8;
        let fd = if value & VRING_NO_FD == 0 {
            Some(self.one_descriptor()?)
        } else {
            self.no_descriptor()?;
            None
        };
        Ok(VringFd { index, fd })
    }

    fn vring_enable(self) -> Result<Request, MessageError> {
        let code = self.code;
        let VringState { index, num } = self.value()?;
        let enable = match num {
            0 => false,
            1 => true,
            _ => {
                return Err(MessageError::Value { code, value: num.into() });
            }
        };
        Ok(Request::SetVringEnable { index, enable })
    }

    /// Returns offset, size and flags, and the `size` bytes that follow them.
    fn config(self) -> Result<(ConfigAccess, &'a [u8]), MessageError> {
        let mut fields = Fields(self.body);
        let Some(access) = fields.next::<ConfigAccess>() else {
            return Err(self.size(ConfigAccess::SIZE));
        };
        let (offset, size) = (access.offset as usize, access.size as usize);
        if offset > MAX_CONFIG_SIZE || size > MAX_CONFIG_SIZE - offset {
            return Err(MessageError::ConfigRange {
                code: self.code,
                offset: access.offset,
                size: access.size,
            });
        }
        // SPDK's frontend always sends its whole C structure, even if only a part of it is used.
        let all = fields.0;
        if all.len() != size && all.len() != MAX_CONFIG_SIZE {
            return Err(self.size(ConfigAccess::SIZE + size));
        }
        let data = all.get(..size).unwrap_or_default();
        self.no_descriptor()?;
        Ok((access, data))
    }

    fn inflight(&self) -> Result<Inflight, MessageError> {
        match Fields(self.body).next() {
            Some(inflight) if [Inflight::SIZE, Inflight::SIZE_WITHOUT_PADDING].contains(&self.body.len()) => {
                Ok(inflight)
            }
            _ => Err(self.size(Inflight::SIZE)),
        }
    }

    fn size(&self, expected: usize) -> MessageError {
        MessageError::Size { code: self.code, size: self.body.len(), expected }
    }

    fn descriptors(&self, expected: usize) -> MessageError {
        MessageError::Descriptors { code: self.code, count: self.fds.len(), expected }
    }
}

//! The message header and the request codes (specification, "Header" and "Front-end message
//! types").

use std::fmt;

use super::features::ProtocolFeatures;

/// Size of a header in bytes.
pub const HEADER_SIZE: usize = 12;

/// Largest body size in bytes that is accepted. The largest request that is served has 268 bytes. A
/// larger body within this limit is read and refused, and the connection stays usable.
pub const MAX_BODY_SIZE: usize = 4096;

const VERSION_MASK: u32 = 0x3;
const VERSION: u32 = 0x1;
const REPLY: u32 = 1 << 2;
const NEED_REPLY: u32 = 1 << 3;
const RESERVED: u32 = !(VERSION_MASK | REPLY | NEED_REPLY);

/// The header at the start of every message, in both directions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Number of the request, or of the request that this is a reply to. Can be any number.
    pub request: u32,
    /// Version, reply flag and need_reply flag. Use the methods to test them.
    pub flags: u32,
    /// Size of the body in bytes.
    pub size: u32,
}

impl Header {
    /// Creates the header of a request with a body of `size` bytes.
    pub const fn request(request: u32, size: u32) -> Self {
        Self { request, flags: VERSION, size }
    }

    /// Creates the header of a reply to `request` with a body of `size` bytes. The flags must be
    /// exactly these: QEMU compares all of them.
    pub const fn reply(request: u32, size: u32) -> Self {
        Self { request, flags: VERSION | REPLY, size }
    }

    /// Returns the same header with the request for an answer ([`ProtocolFeatures::REPLY_ACK`]).
    #[must_use]
    pub const fn with_need_reply(self) -> Self {
        Self { flags: self.flags | NEED_REPLY, ..self }
    }

    /// Decodes a header. Any 12 bytes are accepted.
    pub fn decode(bytes: &[u8; HEADER_SIZE]) -> Self {
        let [r0, r1, r2, r3, f0, f1, f2, f3, s0, s1, s2, s3] = *bytes;
        Self {
            request: u32::from_ne_bytes([r0, r1, r2, r3]),
            flags: u32::from_ne_bytes([f0, f1, f2, f3]),
            size: u32::from_ne_bytes([s0, s1, s2, s3]),
        }
    }

    /// Encodes the header.
    pub fn encode(&self) -> [u8; HEADER_SIZE] {
        let [r0, r1, r2, r3] = self.request.to_ne_bytes();
        let [f0, f1, f2, f3] = self.flags.to_ne_bytes();
        let [s0, s1, s2, s3] = self.size.to_ne_bytes();
        [r0, r1, r2, r3, f0, f1, f2, f3, s0, s1, s2, s3]
    }

    /// Returns true if the version is 1, the only one.
    pub const fn is_version_1(&self) -> bool {
        self.flags & VERSION_MASK == VERSION
    }

    /// Returns true if this is a reply.
    pub const fn is_reply(&self) -> bool {
        self.flags & REPLY != 0
    }

    /// Returns true if the sender asks for an answer. Use [`wants_ack`](Self::wants_ack) to find
    /// out whether it waits for one.
    pub const fn needs_reply(&self) -> bool {
        self.flags & NEED_REPLY != 0
    }

    /// Returns true if the sender waits for an [`Ack`](super::Ack). `negotiated` must be the
    /// protocol features that are in effect *after* the request, because the request that enables
    /// REPLY_ACK may already ask for an answer.
    pub const fn wants_ack(&self, negotiated: ProtocolFeatures) -> bool {
        self.needs_reply() && negotiated.contains(ProtocolFeatures::REPLY_ACK)
    }

    /// Returns true if undefined flags are set.
    pub const fn has_reserved_flags(&self) -> bool {
        self.flags & RESERVED != 0
    }
}

macro_rules! codes {
    ($($name:ident = $number:literal,)*) => {
        /// The requests of a frontend, with their names in the specification
        /// (`VHOST_USER_GET_FEATURES` and so on).
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(u32)]
        #[expect(missing_docs, reason = "the names are the specification's; what we serve is documented at Request")]
        pub enum Code {
            $($name = $number,)*
        }

        impl Code {
            /// All requests.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// Returns the request with this number, or `None` if the specification does not define
            /// it.
            pub const fn from_number(number: u32) -> Option<Self> {
                match number {
                    $($number => Some(Self::$name),)*
                    _ => None,
                }
            }
        }
    };
}

codes! {
    GetFeatures = 1,
    SetFeatures = 2,
    SetOwner = 3,
    ResetOwner = 4,
    SetMemTable = 5,
    SetLogBase = 6,
    SetLogFd = 7,
    SetVringNum = 8,
    SetVringAddr = 9,
    SetVringBase = 10,
    GetVringBase = 11,
    SetVringKick = 12,
    SetVringCall = 13,
    SetVringErr = 14,
    GetProtocolFeatures = 15,
    SetProtocolFeatures = 16,
    GetQueueNum = 17,
    SetVringEnable = 18,
    SendRarp = 19,
    NetSetMtu = 20,
    SetBackendReqFd = 21,
    IotlbMsg = 22,
    SetVringEndian = 23,
    GetConfig = 24,
    SetConfig = 25,
    CreateCryptoSession = 26,
    CloseCryptoSession = 27,
    PostcopyAdvise = 28,
    PostcopyListen = 29,
    PostcopyEnd = 30,
    GetInflightFd = 31,
    SetInflightFd = 32,
    GpuSetSocket = 33,
    ResetDevice = 34,
    VringKick = 35,
    GetMaxMemSlots = 36,
    AddMemReg = 37,
    RemMemReg = 38,
    SetStatus = 39,
    GetStatus = 40,
    GetSharedObject = 41,
    SetDeviceStateFd = 42,
    CheckDeviceState = 43,
    GetShmemConfig = 44,
}

impl Code {
    /// The request's number on the wire.
    pub const fn number(self) -> u32 {
        self as u32
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_twelve_bytes_in_native_order() {
        let header = Header::request(Code::GetConfig.number(), 72).with_need_reply();
        let mut bytes = Vec::new();
        for word in [24u32, 0b1001, 72] {
            bytes.extend_from_slice(&word.to_ne_bytes());
        }
        assert_eq!(header.encode().as_slice(), bytes);
        assert_eq!(Header::decode(&header.encode()), header);
        assert!(
            header.needs_reply()
                && !header.is_reply()
                && header.is_version_1()
                && !header.has_reserved_flags()
        );
        assert_eq!(Header::reply(1, 8).flags, 0b101);
    }

    #[test]
    fn undefined_flags_and_other_versions_are_detected() {
        for bit in 4..32 {
            let header = Header { request: 1, flags: 1 | 1 << bit, size: 0 };
            assert!(header.has_reserved_flags(), "bit {bit}");
        }
        for version in [0, 2, 3] {
            assert!(!Header { request: 1, flags: version, size: 0 }.is_version_1());
        }
    }

    #[test]
    fn numbers_and_codes_correspond() {
        for (number, &code) in (1..).zip(Code::ALL) {
            assert_eq!(code.number(), number);
            assert_eq!(Code::from_number(number), Some(code));
        }
        assert_eq!((Code::from_number(0), Code::from_number(45)), (None, None));
        assert_eq!(Code::ALL.len(), 44);
    }
}

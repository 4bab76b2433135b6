//! The structure of an input: the steps of a frontend, and their parameters.

use arbitrary::Arbitrary;
use virtio_blk_sim::vhost_user::MemoryRegion;

use super::{REGION_STEP, USER};

#[derive(Debug, Arbitrary)]
pub(super) struct Input {
    pub(super) monitor: u8,
    pub(super) autoreset: bool,
    pub(super) read_only: bool,
    pub(super) steps: Vec<Step>,
}

#[derive(Debug, Arbitrary)]
pub(super) enum Step {
    /// A message, possibly damaged: split in two, with a modified byte, or with more or fewer
    /// bytes.
    Message {
        ask: Ask,
        need_reply: bool,
        cut: Option<u8>,
        damage: Option<(u8, u8)>,
        more: i8,
        fds: Vec<Fd>,
    },
    Raw(Vec<u8>, Vec<Fd>),
    /// All messages that are needed to run a ring.
    SetUp {
        vring: u8,
        protocol: bool,
        base: u8,
        inflight: bool,
    },
    Turn(u8),
    /// The guest makes a request available and may kick.
    Post {
        vring: u8,
        kind: u8,
        sector: u8,
        len: u8,
        ring: bool,
    },
    Guest {
        file: u8,
        at: u16,
        bytes: Vec<u8>,
    },
    Truncate {
        file: u8,
        size: u16,
    },
    Resize(u16),
    /// Reads the replies and checks them.
    Listen,
    Reconnect,
}

#[derive(Debug, Arbitrary)]
pub(super) enum Fd {
    Memory(u8),
    Kick(u8),
    Event,
    DevNull,
    Socket,
    Pipe,
    Inflight,
}

#[derive(Debug, Arbitrary)]
pub(super) enum Ask {
    /// One of nine requests without parameters (GetVringBase is for ring 0).
    Plain(u8),
    Features(u64),
    OfferedFeatures(u64, bool),
    Protocol(u32),
    Table(Vec<(Region, Fd)>),
    AddRegion(Region, Fd),
    RemRegion(Region),
    Num(u8, u16),
    Base(u8, u16),
    Addr(u8, [u16; 3]),
    GetBase(u8),
    Kick(u8, Option<Fd>),
    Call(u8, Option<Fd>),
    Err(u8, Option<Fd>),
    Enable(u8, bool),
    Channel(Fd),
    GetConfig(u16, u16),
    SetConfig(u8, Vec<u8>),
    GetInflight(u8, u16),
    SetInflight(Option<(u32, u16, u8, u16)>, Fd),
    /// SET_STATUS, or a request of the log of dirty pages. (One more variant would change what the
    /// stored inputs mean.)
    StatusOrLog(u8),
}

#[derive(Debug, Arbitrary)]
pub(super) struct Region {
    guest: Place,
    user: Place,
    size: Size,
    offset: Size,
}

#[derive(Debug, Arbitrary)]
enum Place {
    Slot(u8, u16),
    Any(u64),
}

impl Place {
    fn get(&self, base: u64) -> u64 {
        match *self {
            Self::Slot(slot, more) => base + u64::from(slot % 8) * REGION_STEP + u64::from(more),
            Self::Any(at) => at,
        }
    }
}

#[derive(Debug, Arbitrary)]
enum Size {
    Pages(u8),
    Bytes(u16),
    Any(u64),
}

impl Size {
    fn get(&self) -> u64 {
        match *self {
            Self::Pages(pages) => 4096 * u64::from(pages % 8),
            Self::Bytes(bytes) => bytes.into(),
            Self::Any(bytes) => bytes,
        }
    }
}

impl Region {
    pub(super) fn get(&self) -> MemoryRegion {
        MemoryRegion {
            guest_addr: self.guest.get(0),
            size: self.size.get(),
            user_addr: self.user.get(USER),
            mmap_offset: self.offset.get(),
        }
    }
}

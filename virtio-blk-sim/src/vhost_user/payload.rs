//! The structures in the body of a message (specification, "Payload").

/// Maximum number of memory regions in one SET_MEM_TABLE (specification, "Memory regions
/// description": region0 to region7).
pub const MAX_REGIONS: usize = 8;

/// Maximum number of bytes of configuration space in one message, and the end of the space
/// (`VHOST_USER_MAX_CONFIG_SIZE` in QEMU; the specification has no limit).
pub const MAX_CONFIG_SIZE: usize = 256;

/// A value with a fixed size and layout on the wire.
pub(super) trait Wire: Sized {
    /// Size on the wire in bytes.
    const SIZE: usize;

    /// Reads the value from the front of `fields`. Returns `None` if there are too few bytes left.
    fn read(fields: &mut Fields<'_>) -> Option<Self>;

    /// Appends the value to `out`.
    fn write(&self, out: &mut Vec<u8>);
}

/// The rest of a body that is being parsed.
#[derive(Debug)]
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl Fields<'_> {
    /// Reads the next value.
    pub(super) fn next<T: Wire>(&mut self) -> Option<T> {
        T::read(self)
    }

    fn bytes<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (bytes, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*bytes)
    }
}

macro_rules! wire_integers {
    ($($integer:ty),*) => {$(
        impl Wire for $integer {
            const SIZE: usize = size_of::<Self>();

            fn read(fields: &mut Fields<'_>) -> Option<Self> {
                fields.bytes().map(Self::from_ne_bytes)
            }

            fn write(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_ne_bytes());
            }
        }
    )*};
}
wire_integers!(u16, u32, u64);

/// A region of guest memory, mapped from a file descriptor that comes with it.
///
/// Only the format was checked: the region may be empty, wrap around, overlap another one or go
/// beyond the end of its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryRegion {
    /// Guest physical address of the region.
    pub guest_addr: u64,
    /// Size in bytes.
    pub size: u64,
    /// Address of the region in the frontend's own address space. [`VringAddr`] uses these
    /// addresses.
    pub user_addr: u64,
    /// Offset of the region in the file, in bytes.
    pub mmap_offset: u64,
}

impl Wire for MemoryRegion {
    const SIZE: usize = 32;

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        Some(Self {
            guest_addr: fields.next()?,
            size: fields.next()?,
            user_addr: fields.next()?,
            mmap_offset: fields.next()?,
        })
    }

    fn write(&self, out: &mut Vec<u8>) {
        self.guest_addr.write(out);
        self.size.write(out);
        self.user_addr.write(out);
        self.mmap_offset.write(out);
    }
}

/// A single region, in ADD_MEM_REG and REM_MEM_REG, with 8 bytes of padding before it.
#[derive(Debug)]
pub(super) struct SingleRegion(pub(super) MemoryRegion);

impl Wire for SingleRegion {
    const SIZE: usize = 8 + MemoryRegion::SIZE;

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let _padding: u64 = fields.next()?;
        fields.next().map(Self)
    }

    fn write(&self, out: &mut Vec<u8>) {
        0u64.write(out);
        self.0.write(out);
    }
}

/// A number that belongs to one vring. Its meaning depends on the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VringState {
    /// Index of the queue. Not checked: the wire format does not know the number of queues.
    pub index: u32,
    /// The number: a size in entries, an index into the avail ring, or 0 or 1.
    pub num: u32,
}

impl Wire for VringState {
    const SIZE: usize = 8;

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        Some(Self { index: fields.next()?, num: fields.next()? })
    }

    fn write(&self, out: &mut Vec<u8>) {
        self.index.write(out);
        self.num.write(out);
    }
}

/// The addresses of the parts of a vring, in the frontend's address space
/// ([`MemoryRegion::user_addr`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VringAddr {
    /// Index of the queue. Not checked.
    pub index: u32,
    /// Bit 0: record writes to the used ring in the log of dirty pages; see
    /// [`VringAddr::is_logged`].
    pub flags: u32,
    /// The descriptor table.
    pub descriptor: u64,
    /// The used ring.
    pub used: u64,
    /// The avail ring.
    pub available: u64,
    /// Guest address at which writes to the used ring are recorded. It may be outside guest memory.
    pub log: u64,
}

impl VringAddr {
    /// `VHOST_VRING_F_LOG` in [`VringAddr::flags`].
    pub const LOG: u32 = 1;

    /// Whether writes to the used ring are to be recorded in the log of dirty pages.
    pub const fn is_logged(&self) -> bool {
        self.flags & Self::LOG != 0
    }
}

impl Wire for VringAddr {
    const SIZE: usize = 40;

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        Some(Self {
            index: fields.next()?,
            flags: fields.next()?,
            descriptor: fields.next()?,
            used: fields.next()?,
            available: fields.next()?,
            log: fields.next()?,
        })
    }

    fn write(&self, out: &mut Vec<u8>) {
        self.index.write(out);
        self.flags.write(out);
        self.descriptor.write(out);
        self.used.write(out);
        self.available.write(out);
        self.log.write(out);
    }
}

/// The place of the log of dirty pages in its file.
///
/// Only the format was checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogArea {
    /// Size in bytes. Each byte has the bits of eight guest pages of 4 KiB.
    pub mmap_size: u64,
    /// Offset in the file, in bytes.
    pub mmap_offset: u64,
}

impl LogArea {
    /// No area: the reply to a SET_LOG_BASE that was refused.
    pub const NONE: Self = Self { mmap_size: 0, mmap_offset: 0 };
}

impl Wire for LogArea {
    const SIZE: usize = 16;

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        Some(Self { mmap_size: fields.next()?, mmap_offset: fields.next()? })
    }

    fn write(&self, out: &mut Vec<u8>) {
        self.mmap_size.write(out);
        self.mmap_offset.write(out);
    }
}

/// A range of the configuration space.
///
/// [`Request::parse`](super::Request::parse) checks that it is within [`MAX_CONFIG_SIZE`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConfigAccess {
    /// Offset of the first byte.
    pub offset: u32,
    /// Number of bytes.
    pub size: u32,
    /// Why the access is made: 0 for the driver, 1 for live migration. Frontends built on the vhost
    /// crate send 1 and 2 instead, so a backend should not depend on it.
    pub flags: u32,
}

impl Wire for ConfigAccess {
    const SIZE: usize = 12;

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        Some(Self { offset: fields.next()?, size: fields.next()?, flags: fields.next()? })
    }

    fn write(&self, out: &mut Vec<u8>) {
        self.offset.write(out);
        self.size.write(out);
        self.flags.write(out);
    }
}

/// Bytes of the configuration space, either read or to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigData {
    /// Offset of the first byte.
    pub offset: u32,
    /// Same as [`ConfigAccess::flags`].
    pub flags: u32,
    /// The bytes. An empty reply means that the read failed.
    pub data: Vec<u8>,
}

impl ConfigData {
    pub(super) fn access(&self) -> ConfigAccess {
        ConfigAccess {
            offset: self.offset,
            // A message cannot hold 4 GiB. If a caller tries it, the peer refuses the size.
            size: u32::try_from(self.data.len()).unwrap_or(u32::MAX),
            flags: self.flags,
        }
    }
}

/// Describes the region in shared memory where a backend records its requests in flight, so that
/// they survive when it is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inflight {
    /// Size in bytes. Ignored in the request for a region; 0 in the reply means that there is no
    /// region.
    pub mmap_size: u64,
    /// Offset of the region in the file, in bytes.
    pub mmap_offset: u64,
    /// Number of queues.
    pub num_queues: u16,
    /// Number of entries of each queue.
    pub queue_size: u16,
}

impl Inflight {
    /// No region is available.
    pub const NONE: Self = Self { mmap_size: 0, mmap_offset: 0, num_queues: 0, queue_size: 0 };

    /// The fields in the specification have 20 bytes. The C structure that all implementations send
    /// has 4 more bytes of padding.
    pub(super) const SIZE_WITHOUT_PADDING: usize = 20;
}

impl Wire for Inflight {
    const SIZE: usize = 24;

    /// Reads the fields but not the padding.
    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        Some(Self {
            mmap_size: fields.next()?,
            mmap_offset: fields.next()?,
            num_queues: fields.next()?,
            queue_size: fields.next()?,
        })
    }

    fn write(&self, out: &mut Vec<u8>) {
        self.mmap_size.write(out);
        self.mmap_offset.write(out);
        self.num_queues.write(out);
        self.queue_size.write(out);
        0u32.write(out);
    }
}

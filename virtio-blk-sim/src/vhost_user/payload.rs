//! The structures in the body of a message (specification, "Payload").

/// Maximum number of memory regions in one SET_MEM_TABLE (specification, "Memory regions
/// description": region0 to region7).
pub const MAX_REGIONS: usize = 8;

/// Size of the configuration space, and the most bytes of it that one message carries
/// (`VHOST_USER_MAX_CONFIG_SIZE` of QEMU; the specification does not define a limit).
pub const MAX_CONFIG_SIZE: usize = 256;

/// A value with a fixed size and layout on the wire.
pub(super) trait Wire: Sized {
    /// Size in bytes on the wire.
    const SIZE: usize;

    /// Reads the value from the front of `fields`. Returns `None` if too few bytes are left.
    fn read(fields: &mut Fields<'_>) -> Option<Self>;

    /// Appends the value to `out`.
    fn write(&self, out: &mut Vec<u8>);
}

/// The part of a body that has not been parsed yet.
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

/// A region of guest memory, to be mapped from the file descriptor sent with it.
///
/// Only the message size has been checked. The region may be empty, wrap around, overlap another
/// one, or lie beyond the end of its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryRegion {
    /// Guest physical address.
    pub guest_addr: u64,
    /// Size in bytes.
    pub size: u64,
    /// Address of the region in the frontend's address space. [`VringAddr`] uses these addresses.
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

/// The payload of ADD_MEM_REG and REM_MEM_REG: 8 bytes of padding, then one region.
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

/// A number for one vring. Its meaning depends on the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VringState {
    /// The vring index. Unchecked: it may not exist.
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

/// The addresses of a vring, in the frontend's address space ([`MemoryRegion::user_addr`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VringAddr {
    /// The vring index. Unchecked.
    pub index: u32,
    /// Bit 0: log writes to the used ring, for backends with dirty logging.
    pub flags: u32,
    /// The descriptor table.
    pub descriptor: u64,
    /// The used ring.
    pub used: u64,
    /// The avail ring.
    pub available: u64,
    /// Guest address of the used ring, for dirty logging.
    pub log: u64,
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

/// A range of the configuration space.
///
/// If it comes from [`Request::parse`](super::Request::parse), it lies within [`MAX_CONFIG_SIZE`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConfigAccess {
    /// Offset of the first byte.
    pub offset: u32,
    /// Number of bytes.
    pub size: u32,
    /// Who accesses it: 0 is the driver, 1 is a live migration. Frontends built on the vhost crate
    /// send 1 and 2 instead, so a backend should not depend on it.
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

/// Bytes of the configuration space, read or to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigData {
    /// Offset of the first byte.
    pub offset: u32,
    /// As in [`ConfigAccess::flags`].
    pub flags: u32,
    /// The bytes. Empty in a reply if the read failed.
    pub data: Vec<u8>,
}

impl ConfigData {
    pub(super) fn access(&self) -> ConfigAccess {
        ConfigAccess {
            offset: self.offset,
            // No message holds 4 GiB. If a caller tries it, the peer refuses the size.
            size: u32::try_from(self.data.len()).unwrap_or(u32::MAX),
            flags: self.flags,
        }
    }
}

/// A region in shared memory where a backend records which requests are in flight. A new backend
/// can then continue after a crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inflight {
    /// Size in bytes. Ignored in the request that asks for a region; 0 in the reply if there is no
    /// region.
    pub mmap_size: u64,
    /// Offset of the region in the file, in bytes.
    pub mmap_offset: u64,
    /// Number of queues.
    pub num_queues: u16,
    /// Entries of each queue.
    pub queue_size: u16,
}

impl Inflight {
    /// No region is available.
    pub const NONE: Self = Self { mmap_size: 0, mmap_offset: 0, num_queues: 0, queue_size: 0 };

    /// The fields in the specification have 20 bytes. The C structure that implementations send has
    /// four more bytes of padding at its end.
    pub(super) const SIZE_WITHOUT_PADDING: usize = 20;
}

impl Wire for Inflight {
    const SIZE: usize = 24;

    /// Reads the fields. The padding stays in `fields`.
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

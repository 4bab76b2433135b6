//! The structures in the body of a message (specification, "Payload").

/// Most memory regions of one SET_MEM_TABLE (specification, "Memory regions description": region0
/// to region7).
pub const MAX_REGIONS: usize = 8;

/// Most bytes of configuration space that one message carries, and where the space ends
/// (`VHOST_USER_MAX_CONFIG_SIZE` of QEMU; the specification names no bound).
pub const MAX_CONFIG_SIZE: usize = 256;

/// A value with one size and one layout on the wire.
pub(super) trait Wire: Sized {
    /// Its bytes on the wire.
    const SIZE: usize;

    /// Takes it from the front of `fields`; `None` if too little is left.
    fn read(fields: &mut Fields<'_>) -> Option<Self>;

    /// Appends it to `out`.
    fn write(&self, out: &mut Vec<u8>);
}

/// What is left of a body while it is taken apart.
#[derive(Debug)]
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl Fields<'_> {
    /// The next value.
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

/// A piece of guest memory, mapped from a file descriptor that comes with it.
///
/// Only its form has been checked: it may be empty, wrap around, overlap another one or lie beyond
/// the end of its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryRegion {
    /// Where the guest sees it.
    pub guest_addr: u64,
    /// Bytes.
    pub size: u64,
    /// Where the frontend sees it, in its own address space. [`VringAddr`] speaks of these
    /// addresses.
    pub user_addr: u64,
    /// Where it begins in the file, in bytes.
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

/// A region on its own, in ADD_MEM_REG and REM_MEM_REG: 8 bytes of padding come before it.
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

/// A number of one vring. What it means depends on the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VringState {
    /// Which queue. Any number: the wire knows no queues.
    pub index: u32,
    /// The number: a size in entries, an index into the avail ring, 0 or 1.
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

/// Where the parts of a vring are, in the frontend's address space ([`MemoryRegion::user_addr`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VringAddr {
    /// Which queue. Any number.
    pub index: u32,
    /// Bit 0: log writes to the used ring. A backend without dirty logging refuses it.
    pub flags: u32,
    /// The descriptor table.
    pub descriptor: u64,
    /// The used ring.
    pub used: u64,
    /// The avail ring.
    pub available: u64,
    /// Guest address of the used ring, for the log.
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

/// Which bytes of the configuration space.
///
/// From [`Request::parse`](super::Request::parse) they lie within [`MAX_CONFIG_SIZE`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConfigAccess {
    /// The first byte.
    pub offset: u32,
    /// How many.
    pub size: u32,
    /// On whose behalf: 0 the driver's, 1 a live migration's. Frontends built on the vhost crate
    /// send 1 and 2 instead, so no backend should let anything hang on it.
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
    /// Where the first byte belongs.
    pub offset: u32,
    /// As in [`ConfigAccess::flags`].
    pub flags: u32,
    /// The bytes; none in a reply means that the read failed.
    pub data: Vec<u8>,
}

impl ConfigData {
    pub(super) fn access(&self) -> ConfigAccess {
        ConfigAccess {
            offset: self.offset,
            // No message holds 4 GiB; a caller that tries gets a size that the peer refuses.
            size: u32::try_from(self.data.len()).unwrap_or(u32::MAX),
            flags: self.flags,
        }
    }
}

/// The region in shared memory where a backend notes which requests are in flight, so that it can
/// be killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inflight {
    /// Bytes; in the request that asks for the region it means nothing, in the reply 0 means that
    /// there is none.
    pub mmap_size: u64,
    /// Where it begins in the file, in bytes.
    pub mmap_offset: u64,
    /// For how many queues.
    pub num_queues: u16,
    /// Entries of each.
    pub queue_size: u16,
}

impl Inflight {
    /// No region.
    pub const NONE: Self = Self { mmap_size: 0, mmap_offset: 0, num_queues: 0, queue_size: 0 };

    /// The specification's fields have 20 bytes; the C structure that everybody sends has four
    /// more, of padding.
    pub(super) const SIZE_WITHOUT_PADDING: usize = 20;
}

impl Wire for Inflight {
    const SIZE: usize = 24;

    /// Reads the fields and leaves the padding.
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

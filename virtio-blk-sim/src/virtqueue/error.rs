//! Errors of a virtqueue.

use std::fmt;

/// One of the three parts of a split virtqueue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RingPart {
    /// The descriptor table.
    DescriptorTable,
    /// The avail ring.
    AvailRing,
    /// The used ring.
    UsedRing,
}

impl fmt::Display for RingPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::DescriptorTable => "descriptor table",
            Self::AvailRing => "avail ring",
            Self::UsedRing => "used ring",
        })
    }
}

/// Why a queue could not be set up, or why it broke.
///
/// An error of [`DeviceQueue::pop`](super::DeviceQueue::pop) means that the driver violated the
/// ring protocol. If it [is of one chain](QueueError::is_of_one_chain), only that chain cannot be
/// served. Otherwise it is unknown which buffers belong to which side, so the queue stays broken
/// until a new one is created.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum QueueError {
    /// The queue broke earlier; the error returned at that time has the reason.
    #[error("the queue is broken by an earlier ring violation: reset the device and set the queue up again")]
    Broken,
    /// Guest memory became inaccessible while the queue was running, for example because its file
    /// shrank.
    #[error(
        "guest memory became inaccessible while the queue ran; its file must keep its size while it is shared"
    )]
    MemoryLost,
    /// A page that the device has written has no bit in the log of dirty pages.
    #[error(
        "the log of dirty pages has {log_bytes} bytes and no bit for a write at guest address {addr:#x}; make it large enough for all guest memory and the rings"
    )]
    BeyondDirtyLog {
        /// The guest address of the write.
        addr: u64,
        /// The size of the log in bytes.
        log_bytes: u64,
    },

    // Setting a queue up.
    /// The size is 0, over 32768, or not a power of two (virtio 1.2, section 2.7).
    #[error("queue size {size} is not a power of two from 1 to 32768")]
    Size {
        /// The size asked for, in descriptors.
        size: u16,
    },
    /// A part of the queue is not aligned: the descriptor table needs 16 bytes, the avail ring 2,
    /// the used ring 4. This applies to the guest address and to the host address.
    #[error("the {part} at guest address {addr:#x} is not aligned to {align} bytes")]
    Misaligned {
        /// Which part.
        part: RingPart,
        /// Its guest address.
        addr: u64,
        /// The alignment it needs, in bytes.
        align: u64,
    },
    /// A part of the queue does not lie in one region of guest memory.
    #[error(
        "the {part} of {len} bytes at guest address {addr:#x} does not lie in one region of guest memory"
    )]
    RingUnmapped {
        /// Which part.
        part: RingPart,
        /// Its guest address.
        addr: u64,
        /// Its size in bytes.
        len: u64,
    },

    // The device half: violations by the driver.
    /// avail.idx is further ahead than the queue has entries, or it went backwards, which looks the
    /// same in 16 bits.
    #[error("the driver moved avail.idx from {from} to {to} in a queue of {size}")]
    AvailIndex {
        /// Where it was.
        from: u16,
        /// Where it is now.
        to: u16,
        /// The queue size.
        size: u16,
    },
    /// The avail ring contains a head outside the descriptor table.
    #[error("the driver made head {head} available in a queue of {size}")]
    HeadOutOfRange {
        /// The head.
        head: u16,
        /// The queue size.
        size: u16,
    },
    /// The avail ring contains a head that the device has not completed yet.
    #[error("the driver made head {head} available again while it is in flight")]
    HeadInFlight {
        /// The head.
        head: u16,
    },
    /// A `next` field in the queue's descriptor table points outside the table.
    #[error("a descriptor's next is {next} in a queue of {entries}")]
    NextOutOfRange {
        /// The field.
        next: u16,
        /// Entries of the table: the queue size.
        entries: u16,
    },
    /// A chain in the queue's descriptor table has a loop.
    #[error("a descriptor chain has a loop: more than {size} descriptors in a queue of that size")]
    Loop {
        /// The queue size.
        size: u16,
    },

    // The device half: violations that concern one chain. See `is_of_one_chain`.
    /// An indirect table has a loop, or the chain has more descriptors than it may have; the walk
    /// cannot tell which.
    #[error("a descriptor chain has a loop or more than {limit} descriptors")]
    ChainTooLong {
        /// The most it may have: [`MAX_CHAIN`](super::MAX_CHAIN) or the queue size, or the entries
        /// of its indirect table.
        limit: u16,
    },
    /// A buffer that is not wholly in guest memory.
    #[error("the buffer of {len} bytes at guest address {addr:#x} is not in guest memory")]
    Unmapped {
        /// Its guest address.
        addr: u64,
        /// Its length in bytes.
        len: u32,
    },
    /// All buffers of a chain together have more than 2^32 bytes.
    #[error("a descriptor chain has more than 2^32 bytes")]
    ChainTooLarge,
    /// A device-readable descriptor follows a device-writable one.
    #[error("a device-readable descriptor follows a device-writable one")]
    ReadableAfterWritable,
    /// An indirect descriptor on a queue without VIRTIO_F_INDIRECT_DESC.
    #[error("an indirect descriptor was used, but VIRTIO_F_INDIRECT_DESC is not negotiated")]
    IndirectNotNegotiated,
    /// An indirect descriptor inside an indirect table.
    #[error("an indirect table contains an indirect descriptor")]
    IndirectNested,
    /// A descriptor has both the INDIRECT and the NEXT flag.
    #[error("an indirect descriptor also has a next descriptor")]
    IndirectWithNext,
    /// The length of an indirect table is 0, not a multiple of 16, or more entries than a chain may
    /// have.
    #[error("an indirect table has {len} bytes, which is not 1 to {limit} descriptors of 16 bytes")]
    IndirectLength {
        /// Its length in bytes.
        len: u32,
        /// The entries that a chain may have: [`MAX_CHAIN`](super::MAX_CHAIN), or the queue size if
        /// that is more.
        limit: u16,
    },
    /// A `next` field in an indirect table points outside the table.
    #[error("a descriptor's next is {next} in an indirect table of {entries}")]
    IndirectNext {
        /// The field.
        next: u16,
        /// Entries of the table.
        entries: u16,
    },
    /// An indirect table is not wholly in guest memory.
    #[error("the indirect table of {len} bytes at guest address {addr:#x} is not in guest memory")]
    IndirectUnmapped {
        /// Its guest address.
        addr: u64,
        /// Its length in bytes.
        len: u32,
    },

    // Wrong calls of either half. The queue is not changed.
    /// [`DeviceQueue::push`](super::DeviceQueue::push) was given a head that is not in flight.
    #[error("head {head} is not in flight: it was never popped or is already completed")]
    NotInFlight {
        /// The head.
        head: u16,
    },
    /// [`DriverQueue::add`](super::DriverQueue::add) was given no buffer at all.
    #[error("a chain needs at least one buffer")]
    EmptyChain,

    // The driver half: violations by the device.
    /// used.idx is further ahead than there are chains in flight, or it went backwards.
    #[error("the device moved used.idx from {from} to {to} with {in_flight} chains in flight")]
    UsedIndex {
        /// Where it was.
        from: u16,
        /// Where it is now.
        to: u16,
        /// Chains in flight.
        in_flight: u16,
    },
    /// The used ring contains a head that is not in flight.
    #[error("the device completed head {head}, which is not in flight")]
    UsedHead {
        /// The id field of the used element.
        head: u32,
    },
    /// The used ring reports more written bytes than the chain has room for.
    #[error("the device says it wrote {written} bytes to head {head}, which has room for {writable}")]
    UsedLength {
        /// The head.
        head: u16,
        /// The len field of the used element.
        written: u32,
        /// The chain's device-writable bytes.
        writable: u64,
    },
}

impl QueueError {
    /// Returns true if only one chain cannot be served, and the queue continues to work: the rings
    /// say which chain it is, so it can be returned to the driver.
    ///
    /// The other errors of [`DeviceQueue::pop`](super::DeviceQueue::pop) break the queue: its
    /// indices, its heads or the links of its descriptor table contradict each other, so no entry
    /// of the rings can be trusted any more.
    pub fn is_of_one_chain(&self) -> bool {
        match self {
            Self::ChainTooLong { .. }
            | Self::Unmapped { .. }
            | Self::ChainTooLarge
            | Self::ReadableAfterWritable
            | Self::IndirectNotNegotiated
            | Self::IndirectNested
            | Self::IndirectWithNext
            | Self::IndirectLength { .. }
            | Self::IndirectNext { .. }
            | Self::IndirectUnmapped { .. } => true,
            Self::Broken
            | Self::MemoryLost
            | Self::BeyondDirtyLog { .. }
            | Self::Size { .. }
            | Self::Misaligned { .. }
            | Self::RingUnmapped { .. }
            | Self::AvailIndex { .. }
            | Self::HeadOutOfRange { .. }
            | Self::HeadInFlight { .. }
            | Self::NextOutOfRange { .. }
            | Self::Loop { .. }
            | Self::NotInFlight { .. }
            | Self::EmptyChain
            | Self::UsedIndex { .. }
            | Self::UsedHead { .. }
            | Self::UsedLength { .. } => false,
        }
    }
}

// `pop` returns it by value on the hot path.
const _: () = assert!(size_of::<QueueError>() <= 24);

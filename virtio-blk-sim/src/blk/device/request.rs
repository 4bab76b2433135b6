//! Parses a chain's bytes into an enum. All checks are done here, before anything is executed.
//!
//! Descriptor boundaries have no meaning (virtio 1.2 section 2.7.4.1): the header is the first 16
//! readable bytes, the status is the last writable byte, and the data is everything in between.

use virtio_bindings::virtio_blk as vb;

use super::config::{MAX_DISCARD_SECTORS, MAX_RANGES, MAX_WRITE_ZEROES_SECTORS, SECTOR_SIZE};
use super::{BlockDevice, Features, Status};
use crate::virtqueue::{Chain, QueueError};

/// Size of a request header in bytes: type (le32), reserved (le32), sector (le64).
pub(super) const HEADER_LEN: usize = 16;

/// Size of a discard or write zeroes range in bytes: sector (le64), number of sectors (le32), flags
/// (le32).
const RANGE_LEN: usize = 16;

/// What a chain requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// An operation for the backend.
    Disk(Operation),
    /// Return the serial number. The device answers this itself.
    GetId,
}

/// An operation for the backend. It lies inside the disk and is allowed on it; sizes are multiples
/// of 512.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Read from the disk into the data buffers of the chain.
    In {
        /// First sector.
        sector: u64,
        /// Length in bytes.
        len: u64,
    },
    /// Write the data of the chain to the disk.
    Out {
        /// First sector.
        sector: u64,
        /// Length in bytes.
        len: u64,
        /// The data must be on the medium before the request completes.
        durable: bool,
    },
    /// Put all completed writes on the medium.
    Flush,
    /// The content of these ranges is no longer needed. A hint.
    Discard(SectorRanges),
    /// Make these ranges read as zeros.
    WriteZeroes {
        /// The ranges; each has its own flag whether it may be deallocated.
        ranges: SectorRanges,
        /// The zeros must be on the medium before the request completes.
        durable: bool,
    },
}

impl Operation {
    /// What a limit on bytes counts: data that moves.
    pub(crate) fn moved_bytes(&self) -> u64 {
        match self {
            Self::In { len, .. } | Self::Out { len, .. } => *len,
            Self::WriteZeroes { ranges, .. } => ranges.iter().map(SectorRange::len_bytes).sum(),
            Self::Flush | Self::Discard(_) => 0,
        }
    }
}

/// One range of a discard or write zeroes request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SectorRange {
    /// First sector.
    pub sector: u64,
    /// Number of sectors; may be 0.
    pub sectors: u32,
    /// Write zeroes may deallocate the range. Never set for discard.
    pub unmap: bool,
}

impl SectorRange {
    /// Returns the start of the range on the disk, in bytes.
    pub fn offset(&self) -> u64 {
        // Cannot overflow: checked against the capacity, whose size in bytes fits an i64.
        self.sector * SECTOR_SIZE
    }

    /// Returns the length of the range in bytes.
    pub fn len_bytes(&self) -> u64 {
        u64::from(self.sectors) * SECTOR_SIZE
    }
}

/// A list of one to [`MAX_RANGES`] ranges, stored inline. Dereferences to a slice.
#[derive(Clone, Copy)]
pub struct SectorRanges {
    len: u8,
    ranges: [SectorRange; MAX_RANGES],
}

impl std::ops::Deref for SectorRanges {
    type Target = [SectorRange];

    fn deref(&self) -> &[SectorRange] {
        self.ranges.get(..usize::from(self.len)).unwrap_or(&self.ranges)
    }
}

impl PartialEq for SectorRanges {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for SectorRanges {}

impl std::fmt::Debug for SectorRanges {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// Why a request was refused. The queue continues to work; [`RequestError::status`] returns the
/// status for the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The queue refused the chain.
    #[error(transparent)]
    Chain(QueueError),
    /// The chain has no device-writable byte, so there is no place for the status.
    #[error("the chain has no device-writable byte for the status")]
    NoStatus,
    /// The chain has fewer than 16 readable bytes.
    #[error("the request header has {0} bytes instead of {HEADER_LEN}")]
    ShortHeader(usize),
    /// The request type is unknown, or this device does not support it.
    #[error("request type {0} is not supported")]
    UnknownType(u32),
    /// Discard or write zeroes without the negotiated feature.
    #[error("request type {0} needs a feature that was not negotiated")]
    NotNegotiated(u32),
    /// The request would change a read-only disk.
    #[error("the disk is read-only")]
    ReadOnly,
    /// The chain has device-readable data where the device should write, or the other way round.
    #[error("{0} bytes of data have the wrong direction for this request")]
    WrongDirection(u64),
    /// The data is not a multiple of the sector size or of the backend's unit.
    #[error("{len} bytes at sector {sector} are not whole blocks of {unit} bytes")]
    Misaligned {
        /// First sector.
        sector: u64,
        /// Length in bytes.
        len: u64,
        /// Unit in bytes; position and length must both be multiples of it.
        unit: u32,
    },
    /// The sectors are not inside the disk.
    #[error("{sectors} sectors at sector {sector} do not lie inside the disk")]
    OutOfRange {
        /// First sector.
        sector: u64,
        /// Number of sectors.
        sectors: u64,
    },
    /// The list of ranges is empty, or its length is not a multiple of 16 bytes.
    #[error("a list of ranges cannot have {0} bytes")]
    BadRangeList(u64),
    /// More ranges than the device offers.
    #[error("{0} ranges are more than the {MAX_RANGES} offered")]
    TooManyRanges(u64),
    /// More sectors in one range than the device offers.
    #[error("a range of {sectors} sectors is longer than the {max} offered")]
    RangeTooLong {
        /// Number of sectors.
        sectors: u32,
        /// The maximum that the device offers.
        max: u32,
    },
    /// Reserved flags are set, or `unmap` is set for a discard.
    #[error("range flags {0:#x} are not allowed in this request")]
    BadFlags(u32),
}

impl RequestError {
    /// Returns the status for this error. `None` if the chain has no byte for a status; the used
    /// length is then 0. (A chain that the queue refused has a byte only if it could be found:
    /// [`FinishedRequest::status`](super::FinishedRequest::status).)
    pub fn status(&self) -> Option<Status> {
        match self {
            Self::NoStatus => None,
            // Virtio 1.2 section 5.2.6.2: UNSUPP is a MUST for unknown types and for flags.
            Self::UnknownType(_) | Self::NotNegotiated(_) | Self::BadFlags(_) | Self::TooManyRanges(_) => {
                Some(Status::Unsupp)
            }
            Self::Chain(_)
            | Self::ShortHeader(_)
            | Self::ReadOnly
            | Self::WrongDirection(_)
            | Self::Misaligned { .. }
            | Self::OutOfRange { .. }
            | Self::BadRangeList(_)
            | Self::RangeTooLong { .. } => Some(Status::IoErr),
        }
    }
}

impl Request {
    /// Parses a chain for `device`. Reads each byte of guest memory only once, and writes nothing.
    pub fn parse(chain: &Chain, device: &BlockDevice) -> Result<Self, RequestError> {
        let data_in = chain.writable().len_bytes().checked_sub(1).ok_or(RequestError::NoStatus)?;
        let mut header = [0; HEADER_LEN];
        let header_len = chain.readable().copy_to(0, &mut header);
        if header_len < HEADER_LEN {
            return Err(RequestError::ShortHeader(header_len));
        }
        let data_out = chain.readable().len_bytes() - HEADER_LEN as u64;
        let kind = le32(&header, 0);
        let sector = le64(&header, 8);

        match kind {
            vb::VIRTIO_BLK_T_IN => {
                no_data(data_out)?;
                check_transfer(device, sector, data_in)?;
                Ok(Self::Disk(Operation::In { sector, len: data_in }))
            }
            vb::VIRTIO_BLK_T_OUT => {
                no_data(data_in)?;
                check_writable(device)?;
                check_transfer(device, sector, data_out)?;
                let durable = device.is_write_through();
                Ok(Self::Disk(Operation::Out { sector, len: data_out, durable }))
            }
            // The sector and the data SHOULD be absent, and are ignored.
            vb::VIRTIO_BLK_T_FLUSH => Ok(Self::Disk(Operation::Flush)),
            vb::VIRTIO_BLK_T_GET_ID => {
                no_data(data_out)?;
                Ok(Self::GetId)
            }
            vb::VIRTIO_BLK_T_DISCARD => {
                check_changes(device, kind, Features::DISCARD, data_in)?;
                let ranges = parse_ranges(chain, device, data_out, 0, MAX_DISCARD_SECTORS)?;
                Ok(Self::Disk(Operation::Discard(ranges)))
            }
            vb::VIRTIO_BLK_T_WRITE_ZEROES => {
                check_changes(device, kind, Features::WRITE_ZEROES, data_in)?;
                let flags = vb::VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP;
                let ranges = parse_ranges(chain, device, data_out, flags, MAX_WRITE_ZEROES_SECTORS)?;
                Ok(Self::Disk(Operation::WriteZeroes { ranges, durable: device.is_write_through() }))
            }
            _ => Err(RequestError::UnknownType(kind)),
        }
    }
}

fn no_data(len: u64) -> Result<(), RequestError> {
    if len == 0 { Ok(()) } else { Err(RequestError::WrongDirection(len)) }
}

fn check_writable(device: &BlockDevice) -> Result<(), RequestError> {
    // A read-only disk refuses writes even if the driver did not negotiate RO.
    if device.config().read_only { Err(RequestError::ReadOnly) } else { Ok(()) }
}

fn check_changes(
    device: &BlockDevice,
    kind: u32,
    feature: Features,
    data_in: u64,
) -> Result<(), RequestError> {
    check_writable(device)?;
    if !device.negotiated().contains(feature) {
        return Err(RequestError::NotNegotiated(kind));
    }
    no_data(data_in)
}

/// Checks for whole blocks inside the disk. A transfer of no data is allowed at any sector up to
/// and including the end of the disk, as in QEMU.
fn check_transfer(device: &BlockDevice, sector: u64, len: u64) -> Result<(), RequestError> {
    if !len.is_multiple_of(SECTOR_SIZE) {
        return Err(RequestError::Misaligned { sector, len, unit: SECTOR_SIZE as u32 });
    }
    check_blocks(device, sector, len / SECTOR_SIZE)
}

/// Compares in sectors, which cannot overflow. Values that pass can be converted to bytes.
fn check_blocks(device: &BlockDevice, sector: u64, sectors: u64) -> Result<(), RequestError> {
    let capacity = device.capacity_sectors();
    if sector > capacity || sectors > capacity - sector {
        return Err(RequestError::OutOfRange { sector, sectors });
    }
    let unit = device.config().request_alignment;
    // Both are multiples of a power of two if and only if no low bit is set in either.
    if (sector | sectors) & (u64::from(unit) / SECTOR_SIZE - 1) != 0 {
        return Err(RequestError::Misaligned { sector, len: sectors * SECTOR_SIZE, unit });
    }
    Ok(())
}

/// Reads the ranges once, and checks all of them before any is executed. Flags are checked first:
/// invalid flags MUST be answered with UNSUPP, even if there are other errors.
fn parse_ranges(
    chain: &Chain,
    device: &BlockDevice,
    len: u64,
    allowed_flags: u32,
    max_sectors: u32,
) -> Result<SectorRanges, RequestError> {
    if len == 0 || !len.is_multiple_of(RANGE_LEN as u64) {
        return Err(RequestError::BadRangeList(len));
    }
    let count = len / RANGE_LEN as u64;
    let mut bytes = [0; RANGE_LEN * MAX_RANGES];
    let Some(list) = usize::try_from(len).ok().and_then(|len| bytes.get_mut(..len)) else {
        return Err(RequestError::TooManyRanges(count));
    };
    chain.readable().copy_to(HEADER_LEN as u64, list);

    let mut parsed = SectorRanges { len: 0, ranges: Default::default() };
    for (raw, range) in list.chunks_exact(RANGE_LEN).zip(&mut parsed.ranges) {
        let flags = le32(raw, 12);
        if flags & !allowed_flags != 0 {
            return Err(RequestError::BadFlags(flags));
        }
        *range = SectorRange { sector: le64(raw, 0), sectors: le32(raw, 8), unmap: flags != 0 };
        parsed.len += 1;
    }
    for &SectorRange { sector, sectors, .. } in parsed.iter() {
        if sectors > max_sectors {
            return Err(RequestError::RangeTooLong { sectors, max: max_sectors });
        }
        check_blocks(device, sector, sectors.into())?;
    }
    Ok(parsed)
}

/// Returns the little-endian number at `at`; 0 if it is out of bounds.
fn le32(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|tail| tail.first_chunk()).map_or(0, |raw| u32::from_le_bytes(*raw))
}

/// Same as [`le32`], for 64 bits.
fn le64(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(|tail| tail.first_chunk()).map_or(0, |raw| u64::from_le_bytes(*raw))
}

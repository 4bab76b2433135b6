//! Parses the bytes of a chain into an enum. All checks are made here, before the request starts.
//!
//! The device must not depend on how the driver splits a request into descriptors (virtio 1.2
//! section 2.7.4.1). The header is the first 16 readable bytes, the status is the last writable
//! byte, and the data is what lies between them.

use virtio_bindings::virtio_blk as vb;

use super::config::{MAX_DISCARD_SECTORS, MAX_RANGES, MAX_WRITE_ZEROES_SECTORS, SECTOR_SIZE};
use super::{BlockDevice, Features, Status};
use crate::virtqueue::Chain;

/// Bytes of a request's header: type (le32), reserved (le32), sector (le64).
pub(super) const HEADER_LEN: usize = 16;

/// Bytes of one discard or write zeroes range: sector (le64), number of sectors (le32), flags
/// (le32).
const RANGE_LEN: usize = 16;

/// The request in a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// An operation for the backend.
    Disk(Operation),
    /// A request for the serial number. The device answers it without the backend.
    GetId,
}

/// An operation for the backend. It was checked: all sectors lie inside the disk, the operation is
/// allowed on this disk, and sizes are multiples of 512.
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
    /// The content of these ranges is no longer needed. This is a hint.
    Discard(SectorRanges),
    /// Make these ranges read as zeros.
    WriteZeroes {
        /// The ranges. Each has a flag that allows the backend to deallocate it.
        ranges: SectorRanges,
        /// The zeros must be on the medium before the request completes.
        durable: bool,
    },
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
    /// The start of the range on the disk, in bytes.
    pub fn offset(&self) -> u64 {
        // The sector was checked against the capacity, and the capacity in bytes fits an i64.
        self.sector * SECTOR_SIZE
    }

    /// The length of the range, in bytes.
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

/// The reason why a request is refused. The queue continues; [`RequestError::status`] returns the
/// status for the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The chain has no device-writable byte, so there is no place for the status.
    #[error("the chain has no device-writable byte for the status")]
    NoStatus,
    /// The chain has fewer than 16 readable bytes.
    #[error("the request header has {0} bytes instead of {HEADER_LEN}")]
    ShortHeader(usize),
    /// An unknown request type, or one that this device does not support.
    #[error("request type {0} is not supported")]
    UnknownType(u32),
    /// Discard or write zeroes, but the feature was not negotiated.
    #[error("request type {0} needs a feature that was not negotiated")]
    NotNegotiated(u32),
    /// A request that would change a read-only disk.
    #[error("the disk is read-only")]
    ReadOnly,
    /// Device-readable data in a request that needs device-writable data, or vice versa.
    #[error("{0} bytes of data have the wrong direction for this request")]
    WrongDirection(u64),
    /// The data is not a whole number of sectors, or not a whole number of the backend's units.
    #[error("{len} bytes at sector {sector} are not whole blocks of {unit} bytes")]
    Misaligned {
        /// First sector.
        sector: u64,
        /// Length in bytes.
        len: u64,
        /// Start and length must be multiples of this, in bytes.
        unit: u32,
    },
    /// The sectors do not lie inside the disk.
    #[error("{sectors} sectors at sector {sector} do not lie inside the disk")]
    OutOfRange {
        /// First sector.
        sector: u64,
        /// Number of sectors.
        sectors: u64,
    },
    /// The list of ranges is empty or not a multiple of 16 bytes.
    #[error("the list of ranges has {0} bytes; it must be a multiple of {RANGE_LEN} and not empty")]
    BadRangeList(u64),
    /// More ranges than the configuration space allows.
    #[error("the request has {0} ranges; the maximum is {MAX_RANGES}")]
    TooManyRanges(u64),
    /// More sectors in one range than the configuration space allows.
    #[error("a range has {sectors} sectors; the maximum is {max}")]
    RangeTooLong {
        /// Number of sectors.
        sectors: u32,
        /// The maximum in the configuration space.
        max: u32,
    },
    /// Reserved flags are set, or `unmap` on a discard.
    #[error("range flags {0:#x} are not allowed in this request")]
    BadFlags(u32),
}

impl RequestError {
    /// Returns the status for the guest. `None` if the chain has no byte for it; the used length is
    /// then 0.
    pub fn status(&self) -> Option<Status> {
        match self {
            Self::NoStatus => None,
            // Virtio 1.2 section 5.2.6.2: UNSUPP is a MUST for unknown types and for flags.
            Self::UnknownType(_) | Self::NotNegotiated(_) | Self::BadFlags(_) | Self::TooManyRanges(_) => {
                Some(Status::Unsupp)
            }
            Self::ShortHeader(_)
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
    /// Parses a chain for `device`. Reads each byte of the request once and writes no guest memory.
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
            // The driver SHOULD not set a sector or add data. Both are ignored.
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
    // The disk may be read-only even if the driver did not accept the feature RO.
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

/// Checks that a transfer is whole blocks inside the disk. A transfer of no data is allowed, also
/// exactly at the end of the disk, as in QEMU.
fn check_transfer(device: &BlockDevice, sector: u64, len: u64) -> Result<(), RequestError> {
    if !len.is_multiple_of(SECTOR_SIZE) {
        return Err(RequestError::Misaligned { sector, len, unit: SECTOR_SIZE as u32 });
    }
    check_blocks(device, sector, len / SECTOR_SIZE)
}

/// Checks the range in sectors, so that the arithmetic cannot overflow. If the check passes, the
/// range in bytes does not overflow either.
fn check_blocks(device: &BlockDevice, sector: u64, sectors: u64) -> Result<(), RequestError> {
    let capacity = device.capacity_sectors();
    if sector > capacity || sectors > capacity - sector {
        return Err(RequestError::OutOfRange { sector, sectors });
    }
    let unit = device.config().request_alignment;
    // The unit is a power of two: both are multiples of it if no low bit is set in either.
    if (sector | sectors) & (u64::from(unit) / SECTOR_SIZE - 1) != 0 {
        return Err(RequestError::Misaligned { sector, len: sectors * SECTOR_SIZE, unit });
    }
    Ok(())
}

/// Reads the ranges once and checks all of them before the first one is used. Flags are checked
/// first: if a flag is not allowed, the status MUST be UNSUPP, even if there are other errors.
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

/// Reads the little-endian number at `at`. Returns 0 if it is out of bounds.
fn le32(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|tail| tail.first_chunk()).map_or(0, |raw| u32::from_le_bytes(*raw))
}

/// Like [`le32`], for 64 bits.
fn le64(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(|tail| tail.first_chunk()).map_or(0, |raw| u64::from_le_bytes(*raw))
}

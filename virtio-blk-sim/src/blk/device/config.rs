//! The configuration of a disk, and how the driver sees it: the configuration space (virtio 1.2
//! section 5.2.4).

use super::features::Features;

/// The unit of `capacity` and of all sector numbers in the protocol, independent of the block size.
pub const SECTOR_SIZE: u64 = 512;

/// Maximum number of sectors in one discard range: 2 GiB.
pub const MAX_DISCARD_SECTORS: u32 = 1 << 22;

/// Maximum number of sectors in one write zeroes range: 32 MiB. Less than for discard, because a
/// backend may have to write the zeros.
pub const MAX_WRITE_ZEROES_SECTORS: u32 = 1 << 16;

/// Maximum number of ranges in one discard or write zeroes request. They are stored inline, so that
/// requests do not allocate.
pub const MAX_RANGES: usize = 8;

/// Maximum number of request queues.
pub const MAX_QUEUES: u16 = 256;

/// Maximum size of a request queue.
pub const MAX_QUEUE_SIZE: u16 = 1024;

/// Size of the configuration space in bytes. Reads beyond it return zeros.
pub const CONFIG_SPACE_SIZE: usize = 72;

/// Offset of `writeback`, the only writable byte.
pub(super) const WRITEBACK_OFFSET: usize = 32;

/// The string that GET_ID returns: 20 bytes, padded with zeros. There is no terminator if all 20
/// bytes are used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Serial([u8; Serial::LEN]);

impl Serial {
    /// Length of a serial number in bytes.
    pub const LEN: usize = virtio_bindings::virtio_blk::VIRTIO_BLK_ID_BYTES as usize;

    /// Creates a serial number from at most 20 printable ASCII characters.
    pub fn new(text: &str) -> Result<Self, ConfigError> {
        if !text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()) {
            return Err(ConfigError::SerialCharacters);
        }
        let mut bytes = [0; Self::LEN];
        bytes
            .get_mut(..text.len())
            .ok_or(ConfigError::SerialTooLong(text.len()))?
            .copy_from_slice(text.as_bytes());
        Ok(Self(bytes))
    }

    /// The bytes that the guest receives.
    pub fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }
}

/// The configuration of a disk. Checked by [`BlockDevice::new`](super::BlockDevice::new).
#[derive(Debug, Clone)]
pub struct DeviceConfig {
    /// Size of the disk in sectors of 512 bytes: a whole number of logical blocks.
    pub capacity_sectors: u64,
    /// Refuse all requests that would change the disk.
    pub read_only: bool,
    /// `blk_size`: the block size that the driver should use. Only a hint: the driver may still
    /// request any number of sectors.
    pub logical_block_size: u32,
    /// The unit that the medium can write without a read-modify-write. A multiple of the logical
    /// block size.
    pub physical_block_size: u32,
    /// The request size that suits the medium best, in bytes. 0 if it does not matter.
    pub optimal_io_size: u32,
    /// The smallest transfer that the backend can do, in bytes: 512, or what O_DIRECT requires.
    /// Requests whose position or size is not a multiple of it fail.
    pub request_alignment: u32,
    /// Number of entries of each request queue.
    pub queue_size: u16,
    /// Number of request queues.
    pub num_queues: u16,
    /// Cache mode after reset. If true, a completed write may be in a cache until a flush. If
    /// false, a write is on the medium when it completes.
    pub writeback: bool,
    /// Offer discard. Ignored for a read-only disk.
    pub discard: bool,
    /// Offer write zeroes. Ignored for a read-only disk.
    pub write_zeroes: bool,
    /// The serial number that GET_ID returns.
    pub serial: Serial,
}

impl DeviceConfig {
    /// Creates the configuration of a writable disk of `capacity_sectors` sectors, with one queue
    /// of 256 entries, a write-back cache, discard and write zeroes.
    pub fn new(capacity_sectors: u64) -> Self {
        Self {
            capacity_sectors,
            read_only: false,
            logical_block_size: SECTOR_SIZE as u32,
            physical_block_size: SECTOR_SIZE as u32,
            optimal_io_size: 0,
            request_alignment: SECTOR_SIZE as u32,
            queue_size: 256,
            num_queues: 1,
            writeback: true,
            discard: true,
            write_zeroes: true,
            serial: Serial::default(),
        }
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let block_size = |size: u32| size.is_power_of_two() && (512..=65536).contains(&size);
        if !block_size(self.logical_block_size) {
            return Err(ConfigError::BlockSize("logical", self.logical_block_size));
        }
        if !block_size(self.physical_block_size) || self.physical_block_size < self.logical_block_size {
            return Err(ConfigError::BlockSize("physical", self.physical_block_size));
        }
        if !block_size(self.request_alignment) {
            return Err(ConfigError::BlockSize("smallest backend", self.request_alignment));
        }
        // blk_size is the only limit that a driver agrees to respect, so the backend must not need
        // larger units.
        if self.request_alignment > self.logical_block_size {
            return Err(ConfigError::BlockSizeTooSmall {
                logical: self.logical_block_size,
                needed: self.request_alignment,
            });
        }
        // The size in bytes must fit an off_t. Then sector * 512 cannot overflow for any sector
        // below the capacity.
        if self.capacity_sectors > i64::MAX as u64 / SECTOR_SIZE {
            return Err(ConfigError::Capacity(self.capacity_sectors));
        }
        if !self.capacity_sectors.is_multiple_of(u64::from(self.logical_block_size) / SECTOR_SIZE) {
            return Err(ConfigError::PartOfBlock {
                sectors: self.capacity_sectors,
                logical: self.logical_block_size,
            });
        }
        if !self.queue_size.is_power_of_two() || !(4..=MAX_QUEUE_SIZE).contains(&self.queue_size) {
            return Err(ConfigError::QueueSize(self.queue_size));
        }
        if !(1..=MAX_QUEUES).contains(&self.num_queues) {
            return Err(ConfigError::NumQueues(self.num_queues));
        }
        Ok(())
    }

    pub(super) fn offered(&self) -> Features {
        let mut features = Features::VERSION_1
            | Features::INDIRECT_DESC
            | Features::EVENT_IDX
            | Features::SEG_MAX
            | Features::BLK_SIZE
            | Features::TOPOLOGY
            | Features::FLUSH
            | Features::CONFIG_WCE;
        let mut offer_if = |wanted, feature| {
            if wanted {
                features |= feature;
            }
        };
        offer_if(self.num_queues > 1, Features::MQ);
        offer_if(self.read_only, Features::RO);
        offer_if(self.discard && !self.read_only, Features::DISCARD);
        offer_if(self.write_zeroes && !self.read_only, Features::WRITE_ZEROES);
        features
    }

    /// Returns the configuration space. Fields of features that are not offered are zero.
    pub(super) fn space(&self, capacity_sectors: u64, writeback: bool) -> [u8; CONFIG_SPACE_SIZE] {
        let offered = self.offered();
        let logical = self.logical_block_size;
        let blocks = |bytes: u32| bytes / logical;
        let mut space = [0; CONFIG_SPACE_SIZE];
        let mut put =
            |offset: usize, bytes: &[u8]| space[offset..offset + bytes.len()].copy_from_slice(bytes);

        put(0, &capacity_sectors.to_le_bytes());
        // 8 size_max: not offered. A chain of queue_size descriptors contains a header and a status
        // in addition to the data.
        put(12, &u32::from(self.queue_size - 2).to_le_bytes());
        // 16 geometry: not offered.
        put(20, &logical.to_le_bytes());
        put(24, &[blocks(self.physical_block_size).ilog2() as u8, 0]);
        put(26, &(blocks(self.physical_block_size) as u16).to_le_bytes());
        put(28, &blocks(self.optimal_io_size).to_le_bytes());
        put(WRITEBACK_OFFSET, &[u8::from(writeback)]);
        put(34, &self.num_queues.to_le_bytes());
        if offered.contains(Features::DISCARD) {
            put(36, &MAX_DISCARD_SECTORS.to_le_bytes());
            put(40, &(MAX_RANGES as u32).to_le_bytes());
            put(44, &(logical / SECTOR_SIZE as u32).to_le_bytes());
        }
        if offered.contains(Features::WRITE_ZEROES) {
            put(48, &MAX_WRITE_ZEROES_SECTORS.to_le_bytes());
            put(52, &(MAX_RANGES as u32).to_le_bytes());
            put(56, &[1]); // write_zeroes_may_unmap
        }
        // 60 secure erase: not offered.
        space
    }
}

/// Why a [`DeviceConfig`] was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// This kind of block size (logical, physical, smallest backend) has an invalid value.
    #[error(
        "the {0} block size is {1}; it must be a power of two from 512 to 65536, physical not below logical"
    )]
    BlockSize(&'static str, u32),
    /// The backend needs larger units than the configured logical block size.
    #[error(
        "the logical block size is {logical}, but the backend needs requests in units of {needed}; raise it"
    )]
    BlockSizeTooSmall {
        /// The configured size.
        logical: u32,
        /// The size that the backend needs.
        needed: u32,
    },
    /// The disk would have more bytes than a file can have.
    #[error("a disk of {0} sectors is larger than a file can be")]
    Capacity(u64),
    /// The last block is incomplete. Drivers round the size down or do not show the disk.
    #[error(
        "a disk of {sectors} sectors of 512 bytes cannot have blocks of {logical} bytes: the last one is incomplete"
    )]
    PartOfBlock {
        /// The size of the disk.
        sectors: u64,
        /// The logical block size.
        logical: u32,
    },
    /// The queue size is out of range.
    #[error("the queue size is {0}; it must be a power of two from 4 to {max}", max = MAX_QUEUE_SIZE)]
    QueueSize(u16),
    /// The number of queues is out of range.
    #[error("the number of queues is {0}; it must be from 1 to {max}", max = MAX_QUEUES)]
    NumQueues(u16),
    /// More than 20 bytes.
    #[error("the serial number has {0} characters; at most 20 are allowed")]
    SerialTooLong(usize),
    /// The serial number has a control character, or a character that is not ASCII.
    #[error("the serial number may contain only printable ASCII characters")]
    SerialCharacters,
}

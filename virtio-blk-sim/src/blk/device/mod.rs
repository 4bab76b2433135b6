//! The virtio-blk device, independent of the transport: the meaning of a request, not how it
//! arrives.
//!
//! ```text
//! DeviceQueue::pop ─► RequestSlot ─begin(&BlockDevice)─► PendingRequest ─► backend
//!                          ▲                │ (refused, GET_ID, no data)       │ finish(result)
//!                          │                ▼                                  ▼
//! DeviceQueue::push ◄── FinishedRequest ◄───────────────────────────────────────
//! ```
//!
//! * [`BlockDevice`]: the disk as the driver sees it: features, configuration space, cache mode.
//! * [`Request`]: a chain's bytes parsed into an enum. All checks are done before anything is
//!   executed.
//! * [`PendingRequest`], [`FinishedRequest`]: a request in flight, and its answer. Each owns its
//!   chain, so the guest's memory stays mapped. Finishing consumes the request, so nothing is
//!   completed twice.
//!
//! Nothing here blocks, allocates per request, or depends on threads.
//!
//! # What a driver may do wrong
//!
//! Each mistake costs only its request. See [`virtqueue`](crate::virtqueue) for mistakes in the
//! rings.
//!
//! | what the driver does | the answer |
//! |---|---|
//! | any framing: header, data and status cut anywhere | served |
//! | more data segments than `seg_max`, up to what a chain may have | served |
//! | a chain that the queue [refuses](crate::virtqueue::QueueError::is_of_one_chain) | IOERR |
//! | a header of less than 16 bytes, data in the wrong direction | IOERR |
//! | sectors outside the disk, a length that is not whole blocks, a change of a read-only disk | IOERR |
//! | an empty or cut list of ranges, a range that is too long | IOERR |
//! | an unknown type, a type without its feature, unknown range flags, too many ranges | UNSUPP |
//! | no device-writable byte | returned with a used length of 0 |

mod config;
mod features;
mod pending;
mod request;
mod status;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

pub use config::{
    CONFIG_SPACE_SIZE, ConfigError, DeviceConfig, MAX_DISCARD_SECTORS, MAX_QUEUE_SIZE, MAX_QUEUES,
    MAX_RANGES, MAX_WRITE_ZEROES_SECTORS, SECTOR_SIZE, Serial,
};
pub use features::{FeatureError, Features};
pub use pending::{FinishedRequest, PendingRequest, RequestSlot, Started, Transfer};
pub use request::{Operation, Request, RequestError, SectorRange, SectorRanges};
pub use status::Status;

use crate::queue::SERVES_LEGACY;

/// A disk and the features that its driver negotiated.
///
/// The queues' threads share it by reference. The features change only while no queue runs; the
/// capacity may change at any time.
#[derive(Debug)]
pub struct BlockDevice {
    config: DeviceConfig,
    /// Current size of the disk in sectors. Relaxed ordering is enough for it and for the next two
    /// fields: each is an independent value, and a change applies to requests that are parsed
    /// later.
    capacity: AtomicU64,
    negotiated: AtomicU64,
    /// The `writeback` byte of the configuration space.
    writeback: AtomicBool,
}

impl BlockDevice {
    /// Creates a disk in its reset state, with no features negotiated.
    pub fn new(config: DeviceConfig) -> Result<Self, ConfigError> {
        config.check()?;
        Ok(Self {
            capacity: AtomicU64::new(config.capacity_sectors),
            negotiated: AtomicU64::new(Features::NONE.bits()),
            writeback: AtomicBool::new(config.writeback),
            config,
        })
    }

    /// The configuration that the device was created with.
    pub fn config(&self) -> &DeviceConfig {
        &self.config
    }

    /// Current size of the disk, in sectors of 512 bytes.
    pub fn capacity_sectors(&self) -> u64 {
        self.capacity.load(Ordering::Relaxed)
    }

    /// Changes the size of the disk. The transport must notify the driver (a configuration change).
    /// Requests that were parsed before are carried out on the disk as it was.
    ///
    /// # Errors
    /// [`ConfigError::Capacity`] if the size in bytes would overflow, and
    /// [`ConfigError::PartOfBlock`] if it is not a whole number of blocks.
    pub fn resize(&self, sectors: u64) -> Result<(), ConfigError> {
        DeviceConfig { capacity_sectors: sectors, ..self.config.clone() }.check()?;
        self.capacity.store(sectors, Ordering::Relaxed);
        Ok(())
    }

    /// The features that a driver may accept.
    pub fn offered(&self) -> Features {
        self.config.offered()
    }

    /// The features that the driver accepted. Empty after reset.
    pub fn negotiated(&self) -> Features {
        Features::from_bits(self.negotiated.load(Ordering::Relaxed))
    }

    /// Sets the features that the driver accepted. They must be a subset of the offered features.
    /// On a big-endian host they must include VERSION_1 (see
    /// [`check_features`](crate::queue::check_features)). On error the previous features stay. The
    /// transport must first remove the bits of its own protocol.
    pub fn negotiate(&self, driver: Features) -> Result<(), FeatureError> {
        self.check_features(driver)?;
        self.negotiated.store(driver.bits(), Ordering::Relaxed);
        if !driver.contains(Features::CONFIG_WCE) {
            // What was written before, see `write_config`.
            self.writeback.store(self.config.writeback, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Checks whether [`negotiate`](Self::negotiate) would accept these features.
    pub fn check_features(&self, driver: Features) -> Result<(), FeatureError> {
        let foreign = driver.without(self.offered());
        if foreign != Features::NONE {
            return Err(FeatureError::NotOffered(foreign));
        }
        if driver.contains(Features::VERSION_1) || SERVES_LEGACY { Ok(()) } else { Err(FeatureError::Legacy) }
    }

    /// Device reset: clears the driver's features and restores the configured cache mode.
    pub fn reset(&self) {
        self.negotiated.store(Features::NONE.bits(), Ordering::Relaxed);
        self.writeback.store(self.config.writeback, Ordering::Relaxed);
    }

    /// Reads the configuration space. Bytes beyond its end are zero, for any offset.
    pub fn read_config(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        let space = self.config.space(self.capacity_sectors(), self.writeback.load(Ordering::Relaxed));
        let tail = usize::try_from(offset).ok().and_then(|start| space.get(start..)).unwrap_or_default();
        for (byte, value) in data.iter_mut().zip(tail) {
            *byte = *value;
        }
    }

    /// Writes the configuration space. Only the `writeback` byte can be written, and only if
    /// CONFIG_WCE is negotiated. Other writes are ignored; a driver MUST NOT do them. Any nonzero
    /// value means write-back.
    ///
    /// A write before the features are known is kept: a vhost-user frontend passes a driver's write
    /// on at once, but its features only when it starts the rings. If the features turn out not to
    /// include CONFIG_WCE, [`negotiate`](Self::negotiate) undoes it.
    pub fn write_config(&self, offset: u64, data: &[u8]) {
        let negotiated = self.negotiated();
        if negotiated != Features::NONE && !negotiated.contains(Features::CONFIG_WCE) {
            return;
        }
        let index =
            (config::WRITEBACK_OFFSET as u64).checked_sub(offset).and_then(|at| usize::try_from(at).ok());
        if let Some(byte) = index.and_then(|at| data.get(at)) {
            self.writeback.store(*byte != 0, Ordering::Relaxed);
        }
    }

    /// Returns true if a write must be on the medium before it completes.
    ///
    /// This is the case if the driver turned the cache off. It is also the case for a driver that
    /// negotiated neither FLUSH nor CONFIG_WCE, because it has no way to request a flush (virtio
    /// 1.2 section 5.2.6.2, cases 1 and 2 of a stable write).
    pub fn is_write_through(&self) -> bool {
        let can_flush = self.negotiated().intersects(Features::FLUSH | Features::CONFIG_WCE);
        !(can_flush && self.writeback.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
pub(crate) mod test_rig;
#[cfg(test)]
mod tests;

//! virtio-blk without a transport: what a request means, never how it came.
//!
//! ```text
//! DeviceQueue::pop ─► RequestSlot ─begin(&BlockDevice)─► PendingRequest ─► backend
//!                          ▲                │ (refused, GET_ID, no data)       │ finish(result)
//!                          │                ▼                                  ▼
//! DeviceQueue::push ◄── FinishedRequest ◄───────────────────────────────────────
//! ```
//!
//! * [`BlockDevice`]: the disk as the driver sees it: features, configuration space, cache mode.
//! * [`Request`]: a chain's bytes parsed to an enum, with every check made before anything is done.
//! * [`PendingRequest`], [`FinishedRequest`]: a request in flight and its answer. Each owns its chain, so the
//!   guest's memory stays mapped, and finishing consumes it, so nothing is completed twice.
//!
//! Nothing here blocks, allocates for a request, or knows a thread.

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

/// A disk and what its driver negotiated.
///
/// The queues' threads share it by reference. Features change while no queue runs; the capacity may change at any time.
#[derive(Debug)]
pub struct BlockDevice {
    config: DeviceConfig,
    /// Size of the disk now, in sectors. Relaxed is enough, for it and for the next two: each is a number by itself, and
    /// a change applies to requests parsed later.
    capacity: AtomicU64,
    negotiated: AtomicU64,
    /// The `writeback` byte.
    writeback: AtomicBool,
}

impl BlockDevice {
    /// A disk in its reset state: no features negotiated.
    pub fn new(config: DeviceConfig) -> Result<Self, ConfigError> {
        config.check()?;
        Ok(Self {
            capacity: AtomicU64::new(config.capacity_sectors),
            negotiated: AtomicU64::new(Features::NONE.bits()),
            writeback: AtomicBool::new(config.writeback),
            config,
        })
    }

    /// What the operator decided when the device was made.
    pub fn config(&self) -> &DeviceConfig {
        &self.config
    }

    /// Size of the disk now, in sectors of 512 bytes.
    pub fn capacity_sectors(&self) -> u64 {
        self.capacity.load(Ordering::Relaxed)
    }

    /// Changes the size of the disk. Telling the driver (a configuration change) is the transport's to do; what was parsed
    /// before is carried out on the disk as it was.
    ///
    /// # Errors
    /// [`ConfigError::Capacity`] for more sectors than bytes can be counted for.
    pub fn resize(&self, sectors: u64) -> Result<(), ConfigError> {
        DeviceConfig { capacity_sectors: sectors, ..self.config.clone() }.check()?;
        self.capacity.store(sectors, Ordering::Relaxed);
        Ok(())
    }

    /// The features a driver may accept.
    pub fn offered(&self) -> Features {
        self.config.offered()
    }

    /// The features the driver accepted; none after reset.
    pub fn negotiated(&self) -> Features {
        Features::from_bits(self.negotiated.load(Ordering::Relaxed))
    }

    /// Takes the driver's choice, which must be a part of what is offered and contain VERSION_1. On error the
    /// previous choice stands. Bits of the transport's own protocol are the transport's to remove.
    pub fn negotiate(&self, driver: Features) -> Result<(), FeatureError> {
        self.check_features(driver)?;
        self.negotiated.store(driver.bits(), Ordering::Relaxed);
        Ok(())
    }

    /// Whether [`negotiate`](Self::negotiate) would take the driver's choice.
    pub fn check_features(&self, driver: Features) -> Result<(), FeatureError> {
        let foreign = driver.without(self.offered());
        if foreign != Features::NONE {
            return Err(FeatureError::NotOffered(foreign));
        }
        if driver.contains(Features::VERSION_1) { Ok(()) } else { Err(FeatureError::Legacy) }
    }

    /// Device reset: forgets the driver's features and cache mode.
    pub fn reset(&self) {
        self.negotiated.store(Features::NONE.bits(), Ordering::Relaxed);
        self.writeback.store(self.config.writeback, Ordering::Relaxed);
    }

    /// Reads the configuration space. Bytes beyond its end are zero, whatever the offset.
    pub fn read_config(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        let space = self.config.space(self.capacity_sectors(), self.writeback.load(Ordering::Relaxed));
        let tail = usize::try_from(offset).ok().and_then(|start| space.get(start..)).unwrap_or_default();
        for (byte, value) in data.iter_mut().zip(tail) {
            *byte = *value;
        }
    }

    /// Writes the configuration space. Only the `writeback` byte can be written, and only with CONFIG_WCE
    /// negotiated; all else is ignored, as a driver MUST NOT do it. Any value but zero means write-back.
    pub fn write_config(&self, offset: u64, data: &[u8]) {
        if !self.negotiated().contains(Features::CONFIG_WCE) {
            return;
        }
        let index =
            (config::WRITEBACK_OFFSET as u64).checked_sub(offset).and_then(|at| usize::try_from(at).ok());
        if let Some(byte) = index.and_then(|at| data.get(at)) {
            self.writeback.store(*byte != 0, Ordering::Relaxed);
        }
    }

    /// True if a write must be on the medium before it completes.
    ///
    /// That is so when the driver turned the cache off, and for a driver that negotiated neither FLUSH nor
    /// CONFIG_WCE and so has no way to ask for it (virtio 1.2 section 5.2.6.2, cases 1 and 2 of a stable
    /// write).
    pub fn is_write_through(&self) -> bool {
        let can_flush = self.negotiated().intersects(Features::FLUSH | Features::CONFIG_WCE);
        !(can_flush && self.writeback.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
pub(crate) mod test_rig;
#[cfg(test)]
mod tests;

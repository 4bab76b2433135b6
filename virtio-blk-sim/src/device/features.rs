//! Feature bits: what the device offers, what the driver took (virtio 1.2 sections 2.2 and 5.2.3).

use std::fmt;
use std::ops::{BitOr, BitOrAssign};

use virtio_bindings::{virtio_blk, virtio_config, virtio_ring};

/// A set of feature bits.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Features(u64);

impl Features {
    /// No feature at all.
    pub const NONE: Self = Self(0);
    /// `seg_max` in the configuration space holds.
    pub const SEG_MAX: Self = Self::bit(virtio_blk::VIRTIO_BLK_F_SEG_MAX);
    /// The disk cannot be written.
    pub const RO: Self = Self::bit(virtio_blk::VIRTIO_BLK_F_RO);
    /// `blk_size` holds.
    pub const BLK_SIZE: Self = Self::bit(virtio_blk::VIRTIO_BLK_F_BLK_SIZE);
    /// The flush request is understood.
    pub const FLUSH: Self = Self::bit(virtio_blk::VIRTIO_BLK_F_FLUSH);
    /// The topology fields hold.
    pub const TOPOLOGY: Self = Self::bit(virtio_blk::VIRTIO_BLK_F_TOPOLOGY);
    /// The driver may switch between write-back and write-through.
    pub const CONFIG_WCE: Self = Self::bit(virtio_blk::VIRTIO_BLK_F_CONFIG_WCE);
    /// There are `num_queues` request queues.
    pub const MQ: Self = Self::bit(virtio_blk::VIRTIO_BLK_F_MQ);
    /// The discard request is understood.
    pub const DISCARD: Self = Self::bit(virtio_blk::VIRTIO_BLK_F_DISCARD);
    /// The write zeroes request is understood.
    pub const WRITE_ZEROES: Self = Self::bit(virtio_blk::VIRTIO_BLK_F_WRITE_ZEROES);
    /// A descriptor may refer to a table of descriptors.
    pub const INDIRECT_DESC: Self = Self::bit(virtio_ring::VIRTIO_RING_F_INDIRECT_DESC);
    /// Kicks and interrupts are asked for by ring index.
    pub const EVENT_IDX: Self = Self::bit(virtio_ring::VIRTIO_RING_F_EVENT_IDX);
    /// The driver is not a legacy one.
    pub const VERSION_1: Self = Self::bit(virtio_config::VIRTIO_F_VERSION_1);

    const NAMES: [(Self, &'static str); 12] = [
        (Self::SEG_MAX, "SEG_MAX"),
        (Self::RO, "RO"),
        (Self::BLK_SIZE, "BLK_SIZE"),
        (Self::FLUSH, "FLUSH"),
        (Self::TOPOLOGY, "TOPOLOGY"),
        (Self::CONFIG_WCE, "CONFIG_WCE"),
        (Self::MQ, "MQ"),
        (Self::DISCARD, "DISCARD"),
        (Self::WRITE_ZEROES, "WRITE_ZEROES"),
        (Self::INDIRECT_DESC, "INDIRECT_DESC"),
        (Self::EVENT_IDX, "EVENT_IDX"),
        (Self::VERSION_1, "VERSION_1"),
    ];

    const fn bit(number: u32) -> Self {
        Self(1 << number)
    }

    /// The set with these bits, known or not.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The set as the bits of the protocol.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// True if every feature of `other` is in this set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// True if at least one feature of `other` is in this set.
    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// This set less the features of `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

impl BitOr for Features {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitOrAssign for Features {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

impl fmt::Debug for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut set = f.debug_set();
        let mut rest = *self;
        for (feature, name) in Self::NAMES {
            if self.contains(feature) {
                set.entry(&format_args!("{name}"));
                rest = rest.without(feature);
            }
        }
        if rest != Self::NONE {
            set.entry(&format_args!("{:#x}", rest.0));
        }
        set.finish()
    }
}

/// Why a driver's choice of features is refused (FEATURES_OK stays clear).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FeatureError {
    /// The driver took what was not offered.
    #[error("the driver accepted features that were not offered: {0:?}")]
    NotOffered(Features),
    /// A legacy driver: its ring and configuration layouts are others than ours.
    #[error("the driver did not accept VERSION_1; legacy drivers are not supported")]
    Legacy,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_names_known_bits_and_shows_the_rest() {
        let features = Features::RO | Features::VERSION_1 | Features::from_bits(1 << 40);
        assert_eq!(format!("{features:?}"), "{RO, VERSION_1, 0x10000000000}");
    }

    #[test]
    fn sets_behave_as_sets() {
        let both = Features::FLUSH | Features::MQ;
        assert!(both.contains(Features::MQ) && both.intersects(Features::MQ | Features::RO));
        assert!(
            !both.contains(Features::MQ | Features::RO) && !both.without(Features::MQ).contains(Features::MQ)
        );
        assert!(both.contains(Features::NONE) && !both.intersects(Features::NONE));
    }
}

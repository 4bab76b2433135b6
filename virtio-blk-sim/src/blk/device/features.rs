//! Feature bits: what the device offers, what the driver took (virtio 1.2 sections 2.2 and 5.2.3).

use crate::bit_set::bit_set;
use virtio_bindings::{virtio_blk, virtio_config, virtio_ring};

bit_set! {
    /// A set of feature bits.
    pub struct Features {
        /// `seg_max` in the configuration space holds.
        SEG_MAX = virtio_blk::VIRTIO_BLK_F_SEG_MAX;
        /// The disk cannot be written.
        RO = virtio_blk::VIRTIO_BLK_F_RO;
        /// `blk_size` holds.
        BLK_SIZE = virtio_blk::VIRTIO_BLK_F_BLK_SIZE;
        /// The flush request is understood.
        FLUSH = virtio_blk::VIRTIO_BLK_F_FLUSH;
        /// The topology fields hold.
        TOPOLOGY = virtio_blk::VIRTIO_BLK_F_TOPOLOGY;
        /// The driver may switch between write-back and write-through.
        CONFIG_WCE = virtio_blk::VIRTIO_BLK_F_CONFIG_WCE;
        /// There are `num_queues` request queues.
        MQ = virtio_blk::VIRTIO_BLK_F_MQ;
        /// The discard request is understood.
        DISCARD = virtio_blk::VIRTIO_BLK_F_DISCARD;
        /// The write zeroes request is understood.
        WRITE_ZEROES = virtio_blk::VIRTIO_BLK_F_WRITE_ZEROES;
        /// A descriptor may refer to a table of descriptors.
        INDIRECT_DESC = virtio_ring::VIRTIO_RING_F_INDIRECT_DESC;
        /// Kicks and interrupts are asked for by ring index.
        EVENT_IDX = virtio_ring::VIRTIO_RING_F_EVENT_IDX;
        /// The driver is not a legacy one.
        VERSION_1 = virtio_config::VIRTIO_F_VERSION_1;
    }
}

impl Features {
    /// True if at least one feature of `other` is in this set.
    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
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
    fn sets_intersect_in_what_both_have() {
        let both = Features::FLUSH | Features::MQ;
        assert!(both.intersects(Features::MQ | Features::RO) && !both.intersects(Features::RO));
        assert!(!both.intersects(Features::NONE));
    }
}

//! Feature bits that the device offers and the driver accepts (virtio 1.2 sections 2.2 and 5.2.3).

use crate::bit_set::bit_set;
use virtio_bindings::{virtio_blk, virtio_config, virtio_ring};

bit_set! {
    /// A set of feature bits.
    pub struct Features {
        /// `seg_max` in the configuration space is valid.
        SEG_MAX = virtio_blk::VIRTIO_BLK_F_SEG_MAX;
        /// The disk is read-only.
        RO = virtio_blk::VIRTIO_BLK_F_RO;
        /// `blk_size` is valid.
        BLK_SIZE = virtio_blk::VIRTIO_BLK_F_BLK_SIZE;
        /// The flush request is supported.
        FLUSH = virtio_blk::VIRTIO_BLK_F_FLUSH;
        /// The topology fields are valid.
        TOPOLOGY = virtio_blk::VIRTIO_BLK_F_TOPOLOGY;
        /// The driver may switch the cache between write-back and write-through.
        CONFIG_WCE = virtio_blk::VIRTIO_BLK_F_CONFIG_WCE;
        /// The device has several request queues; the field `num_queues` is their number.
        MQ = virtio_blk::VIRTIO_BLK_F_MQ;
        /// The discard request is supported.
        DISCARD = virtio_blk::VIRTIO_BLK_F_DISCARD;
        /// The write zeroes request is supported.
        WRITE_ZEROES = virtio_blk::VIRTIO_BLK_F_WRITE_ZEROES;
        /// A descriptor may refer to a table of descriptors.
        INDIRECT_DESC = virtio_ring::VIRTIO_RING_F_INDIRECT_DESC;
        /// Kicks and interrupts are requested by ring index.
        EVENT_IDX = virtio_ring::VIRTIO_RING_F_EVENT_IDX;
        /// The device follows virtio 1.0 or later; it is not a legacy device.
        VERSION_1 = virtio_config::VIRTIO_F_VERSION_1;
    }
}

impl Features {
    /// Returns true if at least one feature of `other` is in this set.
    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

/// Why the device refused the features that the driver accepted (FEATURES_OK stays clear).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FeatureError {
    /// The driver accepted features that were not offered.
    #[error("the driver accepted features that were not offered: {0:?}")]
    NotOffered(Features),
    /// A legacy driver on a host where it is not served
    /// ([`SERVES_LEGACY`](crate::queue::SERVES_LEGACY)).
    #[error("the driver did not accept VERSION_1; this host does not serve legacy drivers")]
    Legacy,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_intersect_if_they_share_a_feature() {
        let both = Features::FLUSH | Features::MQ;
        assert!(both.intersects(Features::MQ | Features::RO) && !both.intersects(Features::RO));
        assert!(!both.intersects(Features::NONE));
    }
}

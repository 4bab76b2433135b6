//! Protocol features: what frontend and backend understand of vhost-user itself (specification, "Protocol features").

use std::fmt;
use std::ops::{BitOr, BitOrAssign};

/// `VHOST_USER_F_PROTOCOL_FEATURES`: the bit among the *virtio* features by which a backend says that it can be asked for
/// its protocol features. No driver ever sees it.
pub const F_PROTOCOL_FEATURES: u64 = 1 << 30;

/// A set of protocol features.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct ProtocolFeatures(u64);

impl ProtocolFeatures {
    /// No feature at all.
    pub const NONE: Self = Self(0);
    /// The frontend may ask how many queues there are.
    pub const MQ: Self = Self(1 << 0);
    /// The log of dirty pages is shared memory.
    pub const LOG_SHMFD: Self = Self(1 << 1);
    /// A request may ask to be acknowledged.
    pub const REPLY_ACK: Self = Self(1 << 3);
    /// The backend may send requests of its own, on a socket that the frontend gives it.
    pub const BACKEND_REQ: Self = Self(1 << 5);
    /// The configuration space is the backend's.
    pub const CONFIG: Self = Self(1 << 9);
    /// The backend may send file descriptors with its own requests.
    pub const BACKEND_SEND_FD: Self = Self(1 << 10);
    /// Requests in flight are noted in shared memory.
    pub const INFLIGHT_SHMFD: Self = Self(1 << 12);
    /// The device can be reset without a new connection.
    pub const RESET_DEVICE: Self = Self(1 << 13);
    /// Kicks and calls may be messages on the socket.
    pub const INBAND_NOTIFICATIONS: Self = Self(1 << 14);
    /// Memory regions can be added and removed one by one.
    pub const CONFIGURE_MEM_SLOTS: Self = Self(1 << 15);
    /// The backend learns the device status register.
    pub const STATUS: Self = Self(1 << 16);

    const NAMES: [(Self, &'static str); 11] = [
        (Self::MQ, "MQ"),
        (Self::LOG_SHMFD, "LOG_SHMFD"),
        (Self::REPLY_ACK, "REPLY_ACK"),
        (Self::BACKEND_REQ, "BACKEND_REQ"),
        (Self::CONFIG, "CONFIG"),
        (Self::BACKEND_SEND_FD, "BACKEND_SEND_FD"),
        (Self::INFLIGHT_SHMFD, "INFLIGHT_SHMFD"),
        (Self::RESET_DEVICE, "RESET_DEVICE"),
        (Self::INBAND_NOTIFICATIONS, "INBAND_NOTIFICATIONS"),
        (Self::CONFIGURE_MEM_SLOTS, "CONFIGURE_MEM_SLOTS"),
        (Self::STATUS, "STATUS"),
    ];

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

    /// The features that are in both sets.
    #[must_use]
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// This set less the features of `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

impl BitOr for ProtocolFeatures {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitOrAssign for ProtocolFeatures {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

impl fmt::Debug for ProtocolFeatures {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_names_known_bits_and_shows_the_rest() {
        let features = ProtocolFeatures::MQ | ProtocolFeatures::STATUS | ProtocolFeatures::from_bits(1 << 63);
        assert_eq!(format!("{features:?}"), "{MQ, STATUS, 0x8000000000000000}");
    }
}

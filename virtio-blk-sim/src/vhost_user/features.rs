//! Protocol features: what frontend and backend understand of vhost-user itself (specification,
//! "Protocol features").

use crate::bit_set::bit_set;

/// `VHOST_USER_F_PROTOCOL_FEATURES`: the bit among the *virtio* features by which a backend says
/// that it can be asked for its protocol features. No driver ever sees it.
pub const F_PROTOCOL_FEATURES: u64 = 1 << 30;

bit_set! {
    /// A set of protocol features.
    pub struct ProtocolFeatures {
        /// The frontend may ask how many queues there are.
        MQ = 0;
        /// The log of dirty pages is shared memory.
        LOG_SHMFD = 1;
        /// A request may ask to be acknowledged.
        REPLY_ACK = 3;
        /// The backend may send requests of its own, on a socket that the frontend gives it.
        BACKEND_REQ = 5;
        /// The configuration space is the backend's.
        CONFIG = 9;
        /// The backend may send file descriptors with its own requests.
        BACKEND_SEND_FD = 10;
        /// Requests in flight are noted in shared memory.
        INFLIGHT_SHMFD = 12;
        /// The device can be reset without a new connection.
        RESET_DEVICE = 13;
        /// Kicks and calls may be messages on the socket.
        INBAND_NOTIFICATIONS = 14;
        /// Memory regions can be added and removed one by one.
        CONFIGURE_MEM_SLOTS = 15;
        /// The backend learns the device status register.
        STATUS = 16;
    }
}

impl ProtocolFeatures {
    /// The features that are in both sets.
    #[must_use]
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

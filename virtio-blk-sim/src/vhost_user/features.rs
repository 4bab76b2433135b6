//! Protocol features: which parts of vhost-user itself frontend and backend support (specification,
//! "Protocol features").

use crate::bit_set::bit_set;

/// `VHOST_USER_F_PROTOCOL_FEATURES`: a bit among the *virtio* features. With it a backend announces
/// that it supports protocol features. It is never passed on to the driver.
pub const F_PROTOCOL_FEATURES: u64 = 1 << 30;

/// `VHOST_F_LOG_ALL`: a bit among the *virtio* features. A frontend enables it while the pages that
/// the device writes are to be recorded. It is never passed on to the driver or the device.
pub const F_LOG_ALL: u64 = 1 << 26;

bit_set! {
    /// A set of protocol features.
    pub struct ProtocolFeatures {
        /// The frontend may ask for the number of queues.
        MQ = 0;
        /// The log of dirty pages is shared memory.
        LOG_SHMFD = 1;
        /// A request may ask for an acknowledgement.
        REPLY_ACK = 3;
        /// The backend may send its own requests, on a socket that the frontend passes to it.
        BACKEND_REQ = 5;
        /// The backend provides the configuration space.
        CONFIG = 9;
        /// The backend may send file descriptors with its own requests.
        BACKEND_SEND_FD = 10;
        /// Requests in flight are recorded in shared memory.
        INFLIGHT_SHMFD = 12;
        /// The device can be reset without a new connection.
        RESET_DEVICE = 13;
        /// Kicks and interrupts may be messages on the socket.
        INBAND_NOTIFICATIONS = 14;
        /// Memory regions can be added and removed one by one.
        CONFIGURE_MEM_SLOTS = 15;
        /// The frontend sends the device status register to the backend.
        STATUS = 16;
    }
}

impl ProtocolFeatures {
    /// Returns the features that are in both sets.
    #[must_use]
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

//! Tests the vhost-user server with a frontend that sends any bytes in any pieces with any
//! descriptors. Its guest does anything, truncates its memory, disconnects and reconnects. The
//! socket, the codec, the session, the event loop and the queues are all real, on one thread.
//!
//! Checked:
//!
//! - nothing panics;
//! - a request that expects a reply gets one with its own number, in order, or the frontend is
//!   disconnected;
//! - there is no reply without a request;
//! - every parse error has a message;
//! - at the end, the same file descriptors are open as before.

mod input;
mod oracle;
mod peer;

use arbitrary::{Arbitrary, Unstructured};
use virtio_blk_sim::vhost_user::ProtocolFeatures;

use crate::descriptors::Descriptors;
use input::Input;
use peer::Peer;

const QUEUES: u16 = 2;
/// User addresses of guest memory: the start, and the distance between regions.
const USER: u64 = 0x7f00_0000_0000;
const REGION_STEP: u64 = 0x10_0000;

/// Runs the input in `data`.
pub(crate) fn run(data: &[u8]) {
    // Ignore data that is too short for an input.
    let Ok(input) = Input::arbitrary_take_rest(Unstructured::new(data)) else { return };
    let before = Descriptors::open_now();
    {
        let mut peer = Peer::new(&input);
        for step in input.steps {
            peer.step(step);
        }
        peer.leave();
    }
    before.assert_no_others();
}

/// The protocol features that the server offers.
fn all_protocol() -> ProtocolFeatures {
    ProtocolFeatures::MQ
        | ProtocolFeatures::LOG_SHMFD
        | ProtocolFeatures::REPLY_ACK
        | ProtocolFeatures::BACKEND_REQ
        | ProtocolFeatures::CONFIG
        | ProtocolFeatures::INFLIGHT_SHMFD
        | ProtocolFeatures::RESET_DEVICE
        | ProtocolFeatures::CONFIGURE_MEM_SLOTS
}

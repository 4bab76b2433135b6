//! How fast the messages of a disk's frontends are served.
//!
//! The main loop serves the frontends of all disks. A frontend that follows the protocol sends its
//! messages in bursts: a few dozen when it connects and at each start of the device, up to ten for
//! each ring, a few for each piece of memory that is plugged in, and some for each ring when a
//! migration begins or ends. In between it sends next to nothing. So the allowance of a disk is
//! large for a moment and small in the long run. It belongs to the disk: a frontend that connects
//! again gets no new one.
//!
//! A lower priority of the main loop would be no substitute. A flood would still use all the time
//! that the I/O threads leave, and the good frontends would pay for it: a reset or a migration of
//! their guests waits for messages that the main loop has not served yet.

use super::request::Request;
use crate::allowance::{Allowance, Terms};

/// Tokens per second.
const RATE: u64 = 500;

/// The burst without rings, and for each ring: three starts of all rings in a row, such as that of
/// the firmware and that of the kernel.
const BURST: u64 = 1_000;
const BURST_OF_RING: u64 = 200;

/// Messages of one frontend that are handled before the loop looks at everything else.
pub(super) const MESSAGES_PER_TURN: u64 = 16;

/// What a message costs that maps or unmaps memory, or asks the threads of the rings for something.
/// It keeps the threads busy for several times as long as another one.
const HEAVY: u64 = 8;

/// A full allowance for the messages of a disk.
pub(super) fn of_messages(queues: u16) -> Allowance {
    let burst = BURST + BURST_OF_RING * u64::from(queues);
    Allowance::new(Terms { rate: RATE, burst, pause: MESSAGES_PER_TURN })
}

/// What a message costs. One that cannot be read costs one token.
pub(super) fn tokens(request: &Request) -> u64 {
    match request {
        Request::SetOwner
        | Request::SetFeatures(_)
        | Request::SetMemTable(_)
        | Request::AddMemReg(..)
        | Request::RemMemReg(_)
        | Request::SetLogBase(..)
        | Request::SetVringAddr(_)
        | Request::GetVringBase { .. }
        | Request::SetVringKick(_)
        | Request::SetVringCall(_)
        | Request::SetVringEnable { .. }
        | Request::GetInflightFd(_)
        | Request::SetInflightFd(..)
        | Request::ResetDevice
        | Request::SetStatus(_) => HEAVY,
        _ => 1,
    }
}

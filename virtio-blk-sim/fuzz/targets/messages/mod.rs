//! The vhost-user server under a frontend that sends any bytes in any pieces with any descriptors, while its guest does what
//! it likes, takes memory away, hangs up and comes back. All of it is real: the socket, the codec, the session, the event
//! loop, the queues; one thread.
//!
//! Checked: nothing panics; a request that waits for an answer gets one, of its own number, in order, or the frontend is hung
//! up on; nobody is answered who has not asked; what makes no sense is refused in words; when all is over, as many file
//! descriptors are open as before.

mod input;
mod oracle;
mod peer;

use arbitrary::{Arbitrary, Unstructured};
use virtio_blk_sim::vhost_user::ProtocolFeatures;

use input::Input;
use peer::Peer;

const QUEUES: u16 = 2;
/// Where the frontend sees the guest's memory, by region.
const USER: u64 = 0x7f00_0000_0000;
const REGION_STEP: u64 = 0x10_0000;

/// Carries out what `data` says.
pub(crate) fn run(data: &[u8]) {
    // Too short to say anything: as good as nothing.
    let Ok(input) = Input::arbitrary_take_rest(Unstructured::new(data)) else { return };
    let before = open_descriptors();
    {
        let mut peer = Peer::new(&input);
        for step in input.steps {
            peer.step(step);
        }
        peer.leave();
    }
    // What another thread of a test process has open for a moment is none of ours.
    let leaked = |_| open_descriptors().into_iter().filter(|fd| !before.contains(fd)).collect::<Vec<_>>();
    let leaked = (0..100).map(leaked).find(Vec::is_empty).unwrap_or_else(|| leaked(100));
    assert!(leaked.is_empty(), "file descriptors leak: {leaked:?} are open, {before:?} were");
}

/// What /proc/self/fd shows, the directory itself included.
fn open_descriptors() -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir("/proc/self/fd")
        .expect("/proc is mounted")
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}

/// What the server says that it understands.
fn all_protocol() -> ProtocolFeatures {
    ProtocolFeatures::MQ
        | ProtocolFeatures::REPLY_ACK
        | ProtocolFeatures::BACKEND_REQ
        | ProtocolFeatures::CONFIG
        | ProtocolFeatures::INFLIGHT_SHMFD
        | ProtocolFeatures::RESET_DEVICE
        | ProtocolFeatures::CONFIGURE_MEM_SLOTS
}

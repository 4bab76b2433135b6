//! Mistakes of a guest, and of a VMM that asks for no acknowledgement: each is refused, and the
//! session continues. The guest can try again.

use std::os::fd::AsFd;

use virtio_blk_sim::blk::device::Features;
use virtio_blk_sim::vhost_user::{Code, F_LOG_ALL, FrontendError, Header, ProtocolFeatures, VringAddr};

use super::Watchdog;
use super::server::{Setup, TestServer};
use super::setup_order::Step::*;
use super::setup_order::Vmm;

/// What a VMM that gets acknowledgements, one that does not, and one that knows no protocol
/// features negotiates.
const PROTOCOLS: [Option<ProtocolFeatures>; 3] =
    [Some(ProtocolFeatures::REPLY_ACK), Some(ProtocolFeatures::MQ), None];

/// Makes a mistake.
type Mistake = fn(&mut Vmm) -> Result<(), FrontendError>;

fn raw(vmm: &mut Vmm, code: Code, body: &[u8]) -> Result<(), FrontendError> {
    let header = Header::request(code.number(), body.len() as u32);
    vmm.frontend.send_raw(&[header.encode().as_slice(), body].concat(), &[])
}

/// Mistakes, each followed by whether the ring's error eventfd is signalled.
const MISTAKES: [(&str, Mistake, bool); 15] = [
    ("an unknown feature", |vmm| vmm.frontend.set_features(1 << 32 | 1 << 63), false),
    ("a feature of another device", |vmm| vmm.frontend.set_features(1 << 32 | 1 << 24), false),
    ("rings outside the memory", |vmm| complete(vmm, |addr| addr.descriptor += 1 << 40), true),
    ("rings over the end of memory", |vmm| complete(vmm, |addr| addr.used |= 0xfffc), true),
    ("misaligned rings", |vmm| complete(vmm, |addr| addr.available += 1), true),
    ("a size that is no power of two", |vmm| vmm.frontend.set_vring_num(0, 7), false),
    ("a size of 0", |vmm| vmm.frontend.set_vring_num(0, 0), false),
    ("a ring that does not exist", |vmm| vmm.frontend.set_vring_base(9, 0), false),
    ("a message of the wrong size", |vmm| raw(vmm, Code::SetVringNum, &[0; 3]), false),
    ("a log message without a descriptor", |vmm| raw(vmm, Code::SetLogBase, &[0; 16]), false),
    ("a log message of another kind", |vmm| raw(vmm, Code::SetLogBase, &[0; 8]), false),
    ("a message with a log eventfd and a body", |vmm| raw(vmm, Code::SetLogFd, &[0; 8]), false),
    ("LOG_ALL without a log", |vmm| vmm.frontend.set_features(1 << 32 | F_LOG_ALL | 1 << 63), false),
    ("an unsupported request", |vmm| raw(vmm, Code::SendRarp, &[0; 8]), false),
    ("no memory at all", |vmm| raw(vmm, Code::SetMemTable, &[0; 8]), false),
];

/// Sets a ring up with a wrong address.
fn complete(vmm: &mut Vmm, wrong: fn(&mut VringAddr)) -> Result<(), FrontendError> {
    vmm.send_all(&[SetFeatures, Memory, Num, Base, Call, ErrFd, Kick]);
    let mut addr = vmm.addr();
    wrong(&mut addr);
    let set = vmm.frontend.set_vring_addr(addr);
    let enabled = vmm.frontend.set_vring_enable(0, true);
    set.and(enabled)
}

/// Sets the ring up as it should be, and lets it serve a request.
fn works(vmm: &mut Vmm, name: &str) {
    vmm.post();
    vmm.send_all(&[SetFeatures, Memory, Num, Base]);
    // With these, a ring that was complete is tried again, at its wrong place.
    vmm.frontend.get_features().unwrap();
    vmm.failed();
    vmm.send_all(&[Addr, Call, ErrFd, Kick]);
    let _ = vmm.frontend.set_vring_enable(0, true);
    vmm.frontend.get_features().unwrap();
    vmm.finish(name);
}

#[test]
fn a_mistake_is_refused_and_the_session_continues() {
    let _watchdog = Watchdog::new("a_mistake_is_refused_and_the_session_continues");
    for protocol in PROTOCOLS {
        let server = TestServer::new(Setup::default());
        for (name, mistake, fails) in MISTAKES {
            println!("{name}, {protocol:?}"); // printed when the test fails
            let mut vmm = Vmm::new(&server, 0, protocol);
            vmm.frontend.get_features().unwrap();
            let sessions = server.ask(|server, _| server.sessions());
            let outcome = mistake(&mut vmm);
            let wants_ack = protocol.is_some_and(|features| features.contains(ProtocolFeatures::REPLY_ACK));
            let raw = name.contains("message") || name.contains("request") || name.contains("no memory");
            let refused = matches!(outcome, Err(FrontendError::Refused { .. }));
            assert_eq!(refused, wants_ack && !raw, "{outcome:?}");
            // Requests are handled in order: with this answer, the mistake has been handled.
            vmm.frontend.get_features().unwrap();
            assert_eq!(vmm.failed(), fails);
            assert_eq!(server.ask(|server, _| server.stats()), [], "no ring may run");
            works(&mut vmm, name);
            // On a ring that runs it is no more than that either.
            if !fails {
                let _ = mistake(&mut vmm);
                vmm.post();
                vmm.kick();
                vmm.finish(name);
            }
            assert_eq!(server.ask(|server, _| server.sessions()), sessions, "the session must be the same");
            drop(vmm);
            server.wait_disconnected();
        }
    }
}

/// After features that were refused it is not known what the driver relies on.
#[test]
fn no_ring_starts_with_the_features_of_before() {
    let _watchdog = Watchdog::new("no_ring_starts_with_the_features_of_before");
    let server = TestServer::new(Setup::default());
    let mut vmm = Vmm::new(&server, 0, Some(ProtocolFeatures::MQ));
    works(&mut vmm, "the first driver");
    vmm.stop();
    vmm.frontend.set_features(1 << 32 | 1 << 63).unwrap();
    vmm.post();
    vmm.send_all(&[Num, Base, Addr, Kick]);
    vmm.frontend.get_features().unwrap();
    assert_eq!(server.ask(|server, _| server.stats()), []);
    vmm.send_all(&[SetFeatures]);
    vmm.finish("the second driver");
}

/// One ring that cannot be started must not keep the others from it.
#[test]
fn a_ring_that_cannot_start_stops_no_other() {
    let _watchdog = Watchdog::new("a_ring_that_cannot_start_stops_no_other");
    let server = TestServer::new(Setup { queues: 3, ..Setup::default() });
    for protocol in [ProtocolFeatures::REPLY_ACK, ProtocolFeatures::MQ] {
        let protocol = protocol | ProtocolFeatures::CONFIGURE_MEM_SLOTS;
        let mut vmm = Vmm::new(&server, 1, Some(protocol));
        vmm.send_all(&[Num, Base, Addr, Call, ErrFd, Kick, Enable]);
        // Ring 0 is complete, and outside the memory.
        let kick = vmm.kick_eventfd();
        vmm.frontend.set_vring_num(0, 8).unwrap();
        vmm.frontend.set_vring_addr(VringAddr { index: 0, descriptor: 1 << 50, ..vmm.addr() }).unwrap();
        vmm.frontend.set_vring_kick(0, Some(kick.as_fd())).unwrap();
        vmm.frontend.set_vring_enable(0, true).unwrap();
        let _ = vmm.send(Memory);
        let _ = vmm.send(SetFeatures);
        vmm.post();
        vmm.kick();
        vmm.finish("ring 1 runs");
        // The same when the rings are restarted.
        let _ = vmm.send(Memory);
        vmm.post();
        vmm.kick();
        vmm.finish("ring 1 runs again");
        drop(vmm);
        server.wait_disconnected();
    }
}

/// A driver that does not accept VERSION_1: old Linux, or OVMF on a transitional device.
#[test]
fn a_legacy_driver_is_served() {
    let _watchdog = Watchdog::new("a_legacy_driver_is_served");
    let server = TestServer::new(Setup::default());
    for protocol in PROTOCOLS {
        for features in [Features::NONE, Features::FLUSH | Features::BLK_SIZE] {
            let mut vmm = Vmm::new(&server, 0, protocol);
            vmm.features = features;
            works(&mut vmm, "legacy");
            drop(vmm);
            server.wait_disconnected();
        }
    }
}

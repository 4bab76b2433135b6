//! Logs that cannot be used: the migration fails, and neither the guest nor the server.

use std::fs::File;
use std::os::fd::AsFd;

use virtio_blk_sim::memory::{GuestAddress, GuestRam};
use virtio_blk_sim::vhost_user::{
    Ack, Frontend, FrontendError, LogArea, MemoryRegion, ProtocolFeatures, Reply, Request,
};
use vm_memory::Bytes;

use super::rig::{ALL, DATA, FAR, Log, PAGE, Vmm};
use crate::server::{Setup, TempPath, TestServer};
use crate::{Watchdog, default_options};

fn is_refused<T: std::fmt::Debug>(outcome: &Result<T, FrontendError>) -> bool {
    matches!(outcome, Err(FrontendError::Refused { .. }))
}

#[test]
fn a_refused_log_refuses_logging_and_the_ring_keeps_running() {
    let _watchdog = Watchdog::new("a_refused_log_refuses_logging_and_the_ring_keeps_running");
    let server = TestServer::new(Setup::default());
    let mut vmm = Vmm::new(server.socket(), 1, true);
    let mut guest = vmm.start(0);
    let file = GuestRam::new(2 * ALL as usize).unwrap();
    let area = |mmap_size, mmap_offset| LogArea { mmap_size, mmap_offset };
    let rows = [
        ("too small by a byte", area(ALL - 1, 0)),
        ("of one byte", area(1, 0)),
        ("empty", area(0, 0)),
        ("past the end of the file", area(ALL, ALL + PAGE)),
        ("more than a file can have", area(u64::MAX, PAGE)),
        ("at a negative offset", area(ALL, u64::MAX - 7)),
        ("misaligned", area(ALL, 4)),
    ];
    for (name, area) in rows {
        let shared = vmm.frontend.set_log_base(area, file.as_fd());
        assert!(is_refused(&shared), "{name}: {shared:?}");
        let enabled = vmm.set_features(true);
        assert!(is_refused(&enabled), "{name}: {enabled:?}");
        guest.read(0, DATA, 512);
        guest.kick();
        guest.wait(1);
        // A good log makes it good.
        let log = Log::new(ALL);
        log.share(&mut vmm.frontend).unwrap();
        vmm.switch(true);
        guest.read(0, DATA, 512);
        guest.kick();
        guest.wait(1);
        assert!(log.take().contains(&(DATA / PAGE)), "{name}");
        vmm.switch(false);
    }
    let pipe = std::io::pipe().unwrap();
    assert!(is_refused(&vmm.frontend.set_log_base(area(ALL, 0), pipe.1.as_fd())));
    // The place of the used ring must be in the log, up to its last byte.
    let log = Log::new(ALL);
    log.share(&mut vmm.frontend).unwrap();
    let used_bytes = 4 + 8 * 64 + 2;
    let end = ALL * 8 * PAGE;
    assert!(is_refused(&vmm.set_addr(0, Some(end - used_bytes + 1))));
    assert!(is_refused(&vmm.set_addr(0, Some(u64::MAX))));
    vmm.set_addr(0, Some(end - used_bytes)).unwrap();
    // And that of a ring in a new log.
    let shared = Log::new(ALL).share(&mut vmm.frontend);
    assert!(shared.is_ok(), "{shared:?}");
    guest.read(0, DATA, 512);
    guest.kick();
    guest.wait(1);
    assert_eq!(vmm.frontend.get_vring_base(0).unwrap(), 15);
}

#[test]
fn a_log_needs_its_protocol_feature() {
    let _watchdog = Watchdog::new("a_log_needs_its_protocol_feature");
    let server = TestServer::new(Setup::default());
    let mut frontend = Frontend::connect(server.socket(), default_options().timeout).unwrap();
    let file = GuestRam::new(ALL as usize).unwrap();
    let area = LogArea { mmap_size: ALL, mmap_offset: 0 };
    for (protocol, need_reply) in [
        (ProtocolFeatures::NONE, false),
        (ProtocolFeatures::NONE, true),
        (ProtocolFeatures::REPLY_ACK, false),
        (ProtocolFeatures::REPLY_ACK, true),
    ] {
        frontend.set_protocol_features(protocol).unwrap();
        let frame = Request::SetLogBase(area, file.as_fd().try_clone_to_owned().unwrap()).encode(need_reply);
        frontend.send_raw(frame.bytes(), &[file.as_fd()]).unwrap();
        if need_reply && protocol == ProtocolFeatures::REPLY_ACK {
            let answer = frontend.receive_raw().unwrap();
            let reply = Reply::parse(6, &answer.header, &answer.body, answer.fds);
            assert!(matches!(reply, Ok(Reply::Ack(Ack { request: 6, ok: false }))), "{reply:?}");
        }
        // It would be taken for this reply if it were answered.
        frontend.get_features().unwrap();
    }
    // With it, there is a reply, whether or not one is asked for.
    for protocol in [ProtocolFeatures::NONE, ProtocolFeatures::REPLY_ACK] {
        frontend.set_protocol_features(protocol | ProtocolFeatures::LOG_SHMFD).unwrap();
        frontend.set_log_base(area, file.as_fd()).unwrap();
        let empty = frontend.set_log_base(LogArea::NONE, file.as_fd());
        assert!(is_refused(&empty), "{empty:?}");
        frontend.set_log_fd(std::io::pipe().unwrap().1.as_fd()).unwrap();
    }
}

/// A frontend that does not look at the answer would migrate without the pages that follow.
#[test]
fn a_log_that_is_refused_while_logging_ends_the_session() {
    let _watchdog = Watchdog::new("a_log_that_is_refused_while_logging_ends_the_session");
    let server = TestServer::new(Setup::default());
    let mut vmm = Vmm::new(server.socket(), 1, true);
    let _guest = vmm.start(0);
    Log::new(ALL).share(&mut vmm.frontend).unwrap();
    vmm.switch(true);
    assert!(Log::new(16).share(&mut vmm.frontend).is_err());
    server.wait_disconnected();
    let mut vmm = Vmm::new(server.socket(), 1, true);
    vmm.start(0).read(0, DATA, 512);
}

#[test]
fn memory_that_grows_beyond_the_log_stops_the_ring_that_writes_there() {
    let _watchdog = Watchdog::new("memory_that_grows_beyond_the_log_stops_the_ring_that_writes_there");
    for threads in [0, 1] {
        let server = TestServer::new(Setup { threads, queues: 2, ..Setup::default() });
        let mut vmm = Vmm::new(server.socket(), 2, true);
        let mut guests = [vmm.start(0), vmm.start(1)];
        let log = Log::new(ALL);
        log.share(&mut vmm.frontend).unwrap();
        vmm.switch(true);
        let (place, size) = (2 * FAR, 1 << 16);
        let more = GuestRam::new(size).unwrap();
        let region = MemoryRegion { guest_addr: place, size: size as u64, user_addr: place, mmap_offset: 0 };
        vmm.frontend.add_mem_region(region, more.as_fd()).unwrap();
        // A request that does not write there is served.
        for guest in &mut guests {
            guest.read(0, DATA, 512);
            guest.kick();
            guest.wait(1);
        }
        log.take();
        let before = guests[0].driver.used_idx();
        guests[0].read(0, place, 512);
        guests[0].kick();
        while !vmm.errors[0].test_and_clear().unwrap() {
            std::thread::yield_now();
        }
        assert_eq!(guests[0].driver.used_idx(), before, "the guest gets no answer");
        assert!(!log.take().contains(&u64::MAX), "nothing is written outside the log");
        // The other ring, and the session.
        guests[1].read(0, DATA, 512);
        guests[1].kick();
        guests[1].wait(1);
        assert!(!vmm.errors[1].test_and_clear().unwrap());
        vmm.frontend.get_features().unwrap();
    }
}

/// The log is memory of the frontend too.
#[test]
fn a_truncated_log_ends_the_session_and_not_the_server() {
    let _watchdog = Watchdog::new("a_truncated_log_ends_the_session_and_not_the_server");
    for threads in [0, 1] {
        let server = TestServer::new(Setup { threads, ..Setup::default() });
        let path = TempPath::zeroes(ALL);
        let file = File::options().read(true).write(true).open(&path).unwrap();
        let mut vmm = Vmm::new(server.socket(), 1, true);
        let mut guest = vmm.start(0);
        vmm.frontend.set_log_base(LogArea { mmap_size: ALL, mmap_offset: 0 }, file.as_fd()).unwrap();
        vmm.switch(true);
        guest.read(0, DATA, 512);
        guest.kick();
        guest.wait(1);
        file.set_len(0).unwrap();
        let before = guest.driver.used_idx();
        guest.read(0, DATA, 512);
        guest.kick();
        server.wait_disconnected();
        assert_eq!(guest.driver.used_idx(), before, "the guest gets no answer");
        drop(vmm);
        let mut vmm = Vmm::new(server.socket(), 1, true);
        let mut guest = vmm.start(0);
        guest.memory.write_obj(7_u8, GuestAddress(DATA)).unwrap();
        guest.read(0, DATA, 512);
        guest.kick();
        guest.wait(1);
    }
}

//! A frontend that violates the protocol: it is refused or disconnected, and the next frontend is
//! served as usual.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use virtio_blk_sim::memory::GuestRam;
use virtio_blk_sim::vhost_user::{
    Code, F_PROTOCOL_FEATURES, Frontend, FrontendError, HEADER_SIZE, Header, Inflight, MemoryRegion, Reply,
    Request, VringAddr,
};

use super::client::Client;
use super::process::Process;
use super::server::{Setup, TempPath, TestServer};
use super::vring::hang_up;
use super::{Watchdog, default_options, driver, exercise, finish};

/// The server's reaction to an invalid request.
#[derive(Debug, PartialEq)]
enum Fate {
    Refused,
    HungUp,
}

/// Sends a message unchanged, asks for an acknowledgement, and returns the server's reaction.
fn fate(frontend: &mut Frontend, number: u32, body: &[u8], fds: &[BorrowedFd<'_>]) -> Fate {
    let header = Header::request(number, body.len() as u32).with_need_reply();
    // The server may close the connection before everything is sent.
    let sent = frontend.send_raw(&[header.encode().as_slice(), body].concat(), fds);
    match sent.and_then(|()| frontend.receive_raw()) {
        Ok(message) => {
            let reply = Reply::parse(number, &message.header, &message.body, message.fds).unwrap();
            match reply {
                Reply::Ack(ack) => assert!(!ack.ok, "request {number} must not be accepted"),
                Reply::Config(config) => assert!(config.data.is_empty(), "{config:?}"),
                Reply::Inflight(inflight, None) => assert_eq!(inflight.mmap_size, 0),
                other => panic!("{other:?}"),
            }
            Fate::Refused
        }
        Err(FrontendError::Connection(_)) => Fate::HungUp,
        Err(error) => panic!("request {number}: {error}"),
    }
}

fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

#[test]
fn invalid_messages_are_refused() {
    let _watchdog = Watchdog::new("invalid_messages_are_refused");
    let server = TestServer::new(Setup::default());
    let mut client = Client::connect(server.socket(), default_options()).unwrap();
    let mut driver = driver(&mut client, 0);
    exercise(&mut driver, 10);
    let null = File::open("/dev/null").unwrap();
    let fds = [null.as_fd(); 8];
    let number = Code::number;
    // A request, its body, and the number of descriptors sent with it.
    let mut rows: Vec<(u32, Vec<u8>, usize)> = vec![
        // Unknown requests, requests for other devices, and requests of features that are not
        // offered.
        (0, vec![], 0),
        (45, words(&[0]), 0),
        (u32::MAX, words(&[1, 2, 3]), 2),
        (number(Code::SetLogBase), words(&[0, 0]), 1),
        (number(Code::SetLogBase), words(&[4096, 0]), 0),
        (number(Code::SetLogBase), words(&[4096]), 1),
        (number(Code::SetLogFd), vec![], 0),
        (number(Code::SetLogFd), vec![], 2),
        (number(Code::SetLogFd), words(&[0]), 1),
        (number(Code::SendRarp), words(&[0]), 0),
        (number(Code::IotlbMsg), vec![0; 40], 0),
        (number(Code::VringKick), words(&[0]), 0),
        (number(Code::SetStatus), words(&[0]), 0),
        (number(Code::CheckDeviceState), vec![], 0),
        // Wrong sizes.
        (number(Code::SetFeatures), vec![], 0),
        (number(Code::SetFeatures), vec![0; 7], 0),
        (number(Code::SetFeatures), vec![0; 4096], 0),
        (number(Code::SetOwner), vec![0; 1], 0),
        (number(Code::SetVringNum), vec![0; 9], 0),
        (number(Code::SetMemTable), vec![0; 7], 1),
        (number(Code::GetConfig), vec![0; 11], 0),
        // Missing and surplus descriptors.
        (number(Code::SetFeatures), words(&[0]), 3),
        (number(Code::SetVringKick), words(&[0]), 0),
        (number(Code::SetVringKick), words(&[0]), 2),
        (number(Code::SetVringCall), words(&[1 << 8]), 1),
        (number(Code::AddMemReg), vec![0; 40], 0),
        (number(Code::SetInflightFd), vec![0; 24], 0),
        (number(Code::SetMemTable), [words(&[1]), vec![0; 32]].concat(), 0),
        (number(Code::SetMemTable), [words(&[1]), vec![0; 32]].concat(), 8),
        (number(Code::GetConfig), words(&[8 << 32, 0])[..12].to_vec(), 8),
        // Invalid values.
        (number(Code::SetFeatures), words(&[u64::MAX]), 0),
        (number(Code::SetProtocolFeatures), words(&[1 << 60]), 0),
        (number(Code::SetVringEnable), words(&[2 << 32]), 0),
        // Descriptors that are not an eventfd, not memory, not a socket.
        (number(Code::SetVringKick), words(&[0]), 1),
        (number(Code::SetVringCall), words(&[0]), 1),
        (number(Code::SetVringErr), words(&[0]), 1),
        (number(Code::AddMemReg), words(&[0, 1 << 40, 4096, 1 << 40, 0]), 1),
        (number(Code::SetInflightFd), words(&[4096, 0, 64 << 16 | 1]), 1),
        (number(Code::GetInflightFd), words(&[0, 0, 64 << 16 | 2]), 0),
        (number(Code::GetInflightFd), words(&[0, 0, 1]), 0),
        // A ring without a kick eventfd that does not exist, and one that has one after all.
        (number(Code::SetVringKick), words(&[1 << 8 | 5]), 0),
        (number(Code::SetVringKick), words(&[1 << 8]), 1),
    ];
    // Rings that do not exist.
    for index in [1, 256, u64::from(u32::MAX)] {
        rows.push((number(Code::SetVringNum), words(&[index | 64 << 32]), 0));
        rows.push((number(Code::SetVringBase), words(&[index]), 0));
        rows.push((number(Code::SetVringEnable), words(&[index | 1 << 32]), 0));
        rows.push((number(Code::SetVringAddr), words(&[index, 0, 0, 0, 0]), 0));
    }
    // Requests that may not change a running ring.
    rows.push((number(Code::SetVringNum), words(&[64 << 32]), 0));
    rows.push((number(Code::SetVringBase), words(&[7 << 32]), 0));
    rows.push((number(Code::SetVringAddr), words(&[0, 4096, 8192, 12288, 0]), 0));
    for (at, (number, body, count)) in rows.iter().enumerate() {
        assert_eq!(
            fate(client.frontend(), *number, body, &fds[..*count]),
            Fate::Refused,
            "row {at}: {number} {body:?}"
        );
    }
    // The running ring was not affected.
    exercise(&mut driver, 300);

    // Requests whose reply cannot express an error, and a body that is larger than allowed.
    let fatal: [(u32, Vec<u8>, usize); 4] = [
        (number(Code::GetVringBase), words(&[9]), 0),
        (number(Code::GetFeatures), vec![0; 8], 0),
        (number(Code::GetStatus), vec![], 0),
        (number(Code::SetFeatures), vec![0; 4097], 0),
    ];
    for (number, body, count) in fatal {
        assert_eq!(fate(client.frontend(), number, &body, &fds[..count]), Fate::HungUp, "{number}");
        client.reconnect(server.socket()).unwrap();
        driver.set_irq(client.ports(0).unwrap().irq);
        exercise(&mut driver, 20);
    }
    for header in [Header { request: 1, flags: 0, size: 0 }, Header { request: 1, flags: 5, size: 0 }] {
        client.frontend().send_raw(&header.encode(), &[]).unwrap();
        let answer = client.frontend().receive_raw();
        assert!(matches!(answer, Err(FrontendError::Connection(_))), "{answer:?}");
        client.reconnect(server.socket()).unwrap();
        driver.set_irq(client.ports(0).unwrap().irq);
        exercise(&mut driver, 20);
    }
}

#[test]
fn invalid_memory_is_refused_and_the_old_table_stays() {
    let _watchdog = Watchdog::new("invalid_memory_is_refused_and_the_old_table_stays");
    let server = TestServer::new(Setup::default());
    let mut client = Client::connect(server.socket(), default_options()).unwrap();
    let mut driver = driver(&mut client, 0);
    let ram = GuestRam::new(1 << 16).unwrap();
    let far = MemoryRegion { guest_addr: 1 << 40, size: 1 << 16, user_addr: 1 << 40, mmap_offset: 0 };
    let wrong = [
        MemoryRegion { size: 0, ..far },
        MemoryRegion { guest_addr: u64::MAX - 4096, ..far },
        MemoryRegion { user_addr: u64::MAX - 4096, ..far },
        MemoryRegion { size: u64::MAX, ..far },
        MemoryRegion { mmap_offset: u64::MAX - 4095, ..far },
        MemoryRegion { mmap_offset: 1 << 16, ..far },
        MemoryRegion { size: (1 << 16) + 1, ..far },
        // Regions that overlap an existing one.
        MemoryRegion { guest_addr: client.region().size - 1, ..far },
        MemoryRegion { user_addr: client.region().user_addr, ..far },
    ];
    for region in wrong {
        let refused = client.frontend().add_mem_region(region, ram.as_fd());
        assert!(matches!(refused, Err(FrontendError::Refused { .. })), "{region:?} {refused:?}");
        let refused = client.frontend().remove_mem_region(region);
        assert!(matches!(refused, Err(FrontendError::Refused { .. })), "{region:?} {refused:?}");
    }
    for second in [far, MemoryRegion { guest_addr: (1 << 40) + 0xffff, user_addr: 1 << 41, ..far }] {
        let refused = client.frontend().set_mem_table(&[(far, ram.as_fd()), (second, ram.as_fd())]);
        assert!(matches!(refused, Err(FrontendError::Refused { .. })), "{second:?} {refused:?}");
    }
    exercise(&mut driver, 300);
    // Add as many regions as allowed, and then one more.
    let slots = client.frontend().get_max_mem_slots().unwrap();
    let region = |n: u64| MemoryRegion { guest_addr: n << 40, user_addr: n << 40, ..far };
    (1..slots).for_each(|n| client.frontend().add_mem_region(region(n), ram.as_fd()).unwrap());
    assert!(client.frontend().add_mem_region(region(slots), ram.as_fd()).is_err());
    exercise(&mut driver, 100);
}

/// Cases 31 to 33 of the list of malformed guests.
pub(crate) fn rings_that_cannot_be_do_not_start() {
    let server = TestServer::new(Setup::default());
    let mut client = Client::connect(server.socket(), default_options()).unwrap();
    let ports = client.ports(0).unwrap();
    let base = client.region().user_addr;
    let good = VringAddr {
        index: 0,
        flags: 0,
        descriptor: base,
        available: base + ports.queue.avail_ring.0,
        used: base + ports.queue.used_ring.0,
        log: 0,
    };
    let size = u32::from(ports.queue.size);
    let end = base + client.region().size;
    let rows = [
        (0, good),
        (3, good),
        (65_535, good),
        (size, VringAddr { descriptor: base + 8, ..good }),
        (size, VringAddr { available: good.available + 1, ..good }),
        (size, VringAddr { used: good.used + 2, ..good }),
        (size, VringAddr { used: end - 4, ..good }),
        (size, VringAddr { descriptor: 0, ..good }),
        (size, VringAddr { available: u64::MAX, ..good }),
        (32_768, good),
    ];
    for (size, addr) in rows {
        let frontend = client.frontend();
        // Any of these requests may be the one that is refused, but the ring must not run.
        let outcome = frontend
            .set_vring_num(0, size)
            .and_then(|()| frontend.set_vring_base(0, 0))
            .and_then(|()| frontend.set_vring_addr(addr))
            .and_then(|()| frontend.set_vring_enable(0, true))
            .and_then(|()| frontend.set_vring_kick(0, ports.kick.fd()));
        assert!(matches!(outcome, Err(FrontendError::Refused { .. })), "{size} {addr:?}: {outcome:?}");
        assert_eq!(server.ask(|server, _| server.stats()), []);
    }
    exercise(&mut driver(&mut client, 0), 100);
}

#[test]
fn an_invalid_inflight_region_affects_only_its_own_guest() {
    let _watchdog = Watchdog::new("an_invalid_inflight_region_affects_only_its_own_guest");
    let server = TestServer::new(Setup::default());
    for fill in [0xff_u8, 0x01, 0xa5] {
        let mut client = Client::connect(server.socket(), default_options()).unwrap();
        let ram = GuestRam::new(1 << 16).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&**ram.file(), &vec![fill; 1 << 16], 0).unwrap();
        let inflight = Inflight { mmap_size: 1 << 16, mmap_offset: 0, num_queues: 1, queue_size: 64 };
        client.frontend().set_inflight_fd(inflight, ram.as_fd()).unwrap();
        assert!(client.start(0).is_err(), "{fill:#x}");
        assert_eq!(server.ask(|server, _| server.stats()), []);
    }
    let mut client = Client::connect(server.socket(), default_options()).unwrap();
    exercise(&mut driver(&mut client, 0), 100);
}

#[test]
fn an_incomplete_message_does_not_stop_the_queues() {
    let _watchdog = Watchdog::new("an_incomplete_message_does_not_stop_the_queues");
    let server = TestServer::new(Setup::default());
    let mut client = Client::connect(server.socket(), default_options()).unwrap();
    let mut driver = driver(&mut client, 0);
    let (bits, header) =
        (client.features().bits() | F_PROTOCOL_FEATURES, Header::request(2, 8).with_need_reply());
    let message = [header.encode().as_slice(), &bits.to_ne_bytes()].concat();
    for cut in [1, HEADER_SIZE - 1, HEADER_SIZE, HEADER_SIZE + 3] {
        let (first, rest) = message.split_at(cut);
        client.frontend().send_raw(first, &[]).unwrap();
        exercise(&mut driver, 100);
        client.frontend().send_raw(rest, &[]).unwrap();
        let reply = client.frontend().receive_raw().unwrap();
        assert_eq!((reply.header.request, reply.body), (2, vec![0; 8]));
    }
    // The connection ends in the middle of a message with a descriptor.
    let null = File::open("/dev/null").unwrap();
    client.frontend().send_raw(&message[..5], &[null.as_fd()]).unwrap();
    client.reconnect(server.socket()).unwrap();
    driver.set_irq(client.ports(0).unwrap().irq);
    exercise(&mut driver, 100);
}

#[test]
fn a_frontend_that_does_not_read_replies_waits_but_its_guest_is_served() {
    let _watchdog = Watchdog::new("a_frontend_that_does_not_read_replies_waits_but_its_guest_is_served");
    let server = TestServer::new(Setup::default());
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut client = Client::connect(server.socket(), default_options()).unwrap();
    let mut driver = driver(&mut client, 0);
    drop((ours, theirs));
    let ask = Header::request(Code::GetFeatures.number(), 0).encode();
    let mut sent = 0;
    // Until both directions of the socket are full.
    while nonblocking_send(client.frontend().as_fd(), &ask) {
        sent += 1;
        assert!(sent < 1_000_000, "replies are queued without limit");
    }
    exercise(&mut driver, 100);
    for _ in 0..sent {
        client.frontend().receive_raw().unwrap();
    }
    exercise(&mut driver, 100);
}

/// The last of many unread replies finds the socket full, and no later message wakes the server.
#[test]
fn a_reply_that_waits_for_room_is_sent_when_there_is_room() {
    let _watchdog = Watchdog::new("a_reply_that_waits_for_room_is_sent_when_there_is_room");
    let server = TestServer::new(Setup::default());
    let mut client = Client::connect(server.socket(), default_options()).unwrap();
    // Count how many replies fit into a socket.
    let (ours, _theirs) = UnixStream::pair().unwrap();
    let mut room = 0;
    while nonblocking_send(ours.as_fd(), &[0; HEADER_SIZE + 8]) {
        room += 1;
    }
    let ask = Header::request(Code::GetFeatures.number(), 0).encode();
    for count in room - 20..room + 20 {
        (0..count).for_each(|_| client.frontend().send_raw(&ask, &[]).unwrap());
        server.ask(|_, _| ());
        for _ in 0..count {
            assert_eq!(client.frontend().receive_raw().unwrap().body.len(), 8);
        }
    }
}

/// Returns false if the socket stays full for 50 ms, although the server had time to read.
fn nonblocking_send(socket: BorrowedFd<'_>, bytes: &[u8]) -> bool {
    use std::io::{ErrorKind, Write};
    let mut stream = UnixStream::from(socket.try_clone_to_owned().unwrap());
    stream.set_nonblocking(true).unwrap();
    for _ in 0..50 {
        match stream.write(bytes) {
            Ok(n) => {
                assert_eq!(n, bytes.len());
                return true;
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    false
}

/// Returns the number of open descriptors, and the resident memory in KiB.
fn usage(server: &Process) -> (usize, u64) {
    let proc = format!("/proc/{}", server.id());
    let fds = std::fs::read_dir(format!("{proc}/fd")).unwrap().count();
    let status = std::fs::read_to_string(format!("{proc}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    (fds, line.trim().trim_end_matches(" kB").parse().unwrap())
}

#[test]
fn hundreds_of_frontends_leave_nothing_behind() {
    let _watchdog = Watchdog::new("hundreds_of_frontends_leave_nothing_behind");
    let (socket, image) = (TempPath::new("sock"), TempPath::image());
    let mut server = Process::start(&socket, &image, &["--queues", "2"]);
    let null: OwnedFd = File::open("/dev/null").unwrap().into();
    let cycle = |n: u32| {
        let visit = |act: &dyn Fn(&mut Frontend)| {
            let mut frontend = Frontend::connect(&socket, default_options().timeout).unwrap();
            act(&mut frontend);
            hang_up(&frontend);
        };
        match n % 5 {
            // No message; one request; garbage; an incomplete message with descriptors; a session
            // with requests.
            0 => visit(&|_| ()),
            1 => visit(&|frontend| assert!(frontend.get_features().is_ok())),
            2 => visit(&|frontend| frontend.send_raw(&[0xee; 64], &[null.as_fd(); 3]).unwrap()),
            3 => visit(&|frontend| {
                frontend.send_raw(&Header::request(5, 40).encode(), &[null.as_fd(); 8]).unwrap();
            }),
            _ => {
                let mut client = Client::connect(&socket, default_options()).unwrap();
                let mut driver = driver(&mut client, 0);
                (0..4).for_each(|slot| driver.write(slot, u64::from(slot) * 8).unwrap());
                driver.kick().unwrap();
                if n.is_multiple_of(2) {
                    finish(&mut driver, &mut Vec::new(), 4);
                }
            }
        }
    };
    // Connects and waits for a reply: all earlier sessions have been handled by then.
    let settle = || {
        let mut last = Frontend::connect(&socket, default_options().timeout).unwrap();
        assert!(matches!(last.exchange(Request::GetFeatures), Ok(Some(Reply::Features(_)))));
        last
    };
    (0..100).for_each(cycle);
    let (fds, rss) = {
        let _last = settle();
        usage(&server)
    };
    (0..300).for_each(cycle);
    let (fds_after, rss_after) = {
        let _last = settle();
        usage(&server)
    };
    assert!(server.is_alive());
    assert_eq!(fds_after, fds, "the server leaks descriptors");
    assert!(rss_after <= rss + 256, "resident memory grew from {rss} KiB to {rss_after} KiB");
}

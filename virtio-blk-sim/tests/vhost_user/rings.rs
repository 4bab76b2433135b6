//! The table of malformed rings, posted by a guest behind the socket: the frontend learns that its queue is broken, nothing
//! beside the posted buffers changes, and after a reset the device works.

use std::os::fd::AsFd;

use aio::{EventNotifier, Reset};
use virtio_blk_sim::device::Features;
use virtio_blk_sim::memory::{GuestAddress, GuestRam};
use virtio_blk_sim::transport::vhost_user::{
    F_PROTOCOL_FEATURES, Frontend, MemoryRegion, ProtocolFeatures, VringAddr,
};
use virtio_blk_sim::virtqueue::{Descriptor, DriverQueue, QueueConfig, QueueError};
use vm_memory::{Bytes, GuestMemoryBackend, GuestMemoryRegion};

use super::server::{Setup, TestServer};
use super::{Watchdog, default_options};

#[path = "../../src/virtqueue/tests/malformed/cases.rs"]
#[expect(dead_code, reason = "the ring's own tests look closer than a frontend can")]
mod cases;
#[path = "../../src/virtqueue/tests/guest_map.rs"]
mod guest_map;

use cases::{CASES, Expect, Guest, INDIRECT, SIZE, TABLE, config};
use guest_map::{HIGH, HIGH_END, LOW, LOW_END, MIDDLE_END, RINGS, three_regions};

/// What a frontend adds to a guest address.
const USER_BASE: u64 = 0x7f00_0000_0000;

/// A frontend for one guest.
struct Session {
    frontend: Frontend,
    features: Features,
    kick: EventNotifier,
    call: EventNotifier,
    error: EventNotifier,
}

impl Session {
    fn new(server: &TestServer, ram: &GuestRam, features: Features) -> Self {
        let mut frontend = Frontend::connect(server.socket(), default_options().timeout).unwrap();
        frontend.set_owner().unwrap();
        frontend.set_protocol_features(ProtocolFeatures::REPLY_ACK | ProtocolFeatures::RESET_DEVICE).unwrap();
        let mut offset = 0;
        let regions = ram.memory().iter().map(|region| {
            let (guest_addr, size) = (region.start_addr().0, region.len());
            let mmap_offset = offset;
            offset += size.next_multiple_of(4096);
            (MemoryRegion { guest_addr, size, user_addr: USER_BASE + guest_addr, mmap_offset }, ram.as_fd())
        });
        frontend.set_mem_table(&regions.collect::<Vec<_>>()).unwrap();
        let [kick, call, error] = [(); 3].map(|()| EventNotifier::new(Reset::Classic).unwrap());
        Self { frontend, features: features | Features::VERSION_1, kick, call, error }
    }

    /// Starts the queue, and returns when the device has looked at its empty ring and sleeps.
    fn start(&mut self, server: &TestServer, queue: &QueueConfig) {
        let frontend = &mut self.frontend;
        frontend.set_features(self.features.bits() | F_PROTOCOL_FEATURES).unwrap();
        frontend.set_vring_num(0, queue.size.into()).unwrap();
        frontend.set_vring_base(0, 0).unwrap();
        let user = |address: GuestAddress| USER_BASE + address.0;
        let addr = VringAddr {
            index: 0,
            flags: 0,
            descriptor: user(queue.desc_table),
            used: user(queue.used_ring),
            available: user(queue.avail_ring),
            log: 0,
        };
        frontend.set_vring_addr(addr).unwrap();
        frontend.set_vring_err(0, Some(self.error.as_fd())).unwrap();
        frontend.set_vring_call(0, Some(self.call.as_fd())).unwrap();
        frontend.set_vring_kick(0, Some(self.kick.as_fd())).unwrap();
        frontend.set_vring_enable(0, true).unwrap();
        while server.ask(|server, _| server.stats().iter().all(|(_, stats)| stats.drains == 0)) {}
    }

    /// Kicks, and waits until the device has answered so many or says that the driver broke a rule: which is true then.
    fn kick(&self, driver: &DriverQueue, answers: u16) -> bool {
        self.kick.notify().unwrap();
        loop {
            // In this order: what comes before the error is seen with it.
            let broken = self.error.test_and_clear().unwrap();
            if broken || driver.used_idx() == answers {
                return broken;
            }
            std::thread::yield_now();
        }
    }
}

/// All bytes of guest memory, by region.
fn snapshot(ram: &GuestRam) -> Vec<(u64, Vec<u8>)> {
    let read = |start: GuestAddress, len: u64| {
        let mut bytes = vec![0; len as usize];
        ram.memory().read_slice(&mut bytes, start).unwrap();
        (start.0, bytes)
    };
    ram.memory().iter().map(|region| read(region.start_addr(), region.len())).collect()
}

/// Where they differ, but for the places that the device may write.
fn strays(before: &[(u64, Vec<u8>)], ram: &GuestRam, allowed: &[(u64, u64)]) -> Vec<u64> {
    let after = snapshot(ram);
    let may = |at: u64| allowed.iter().any(|&(addr, len)| (addr..addr + len).contains(&at));
    let mut strays = Vec::new();
    for ((start, old), (_, new)) in before.iter().zip(&after) {
        if old != new {
            let differs = (0..old.len()).filter(|&at| old[at] != new[at]).map(|at| start + at as u64);
            strays.extend(differs.filter(|&at| !may(at)));
        }
    }
    strays
}

/// Posts a read of the first sector on a ring that is laid out anew.
fn good_request(server: &TestServer, session: &mut Session, guest: &Guest) {
    let mut driver = DriverQueue::new(guest.ram.map().unwrap(), guest.config).unwrap();
    session.start(server, &guest.config);
    // What the broken queue before it said has been heard.
    session.error.test_and_clear().unwrap();
    let memory = guest.ram.memory();
    memory.write_slice(&[0; 16], GuestAddress(0x8000)).unwrap();
    driver
        .add(&[(GuestAddress(0x8000), 16)], &[(GuestAddress(0x9000), 512), (GuestAddress(0x9200), 1)])
        .unwrap()
        .unwrap();
    let _ = driver.publish();
    assert!(!session.kick(&driver, 1));
    assert_eq!(driver.pop_used(), Ok(Some((0, 513))));
    assert_eq!(
        memory.read_obj::<[u8; 2]>(GuestAddress(0x91ff)).unwrap(),
        [0, 0],
        "the last byte and the status"
    );
}

/// A session for one row; `answers`: how many chains are answered before the queue breaks, or in all.
fn row(
    server: &TestServer,
    name: &str,
    config: QueueConfig,
    set_up: impl FnOnce(&mut Guest),
    expect: Reaction,
) {
    println!("{name}, event_idx {}", config.event_idx); // shown when it fails
    let mut guest = Guest::new(config);
    let mut features = Features::NONE;
    for (on, feature) in [(config.event_idx, Features::EVENT_IDX), (config.indirect, Features::INDIRECT_DESC)]
    {
        features |= if on { feature } else { Features::NONE };
    }
    let mut session = Session::new(server, &guest.ram, features);
    session.start(server, &config);
    set_up(&mut guest);
    let before = snapshot(&guest.ram);
    // The device writes its ring, whose end is avail_event.
    let mut allowed = vec![(config.used_ring.0, QueueConfig::part_bytes(config.size).2)];
    let (answers, breaks) = match expect {
        Reaction::Breaks => (u16::MAX, true),
        Reaction::Answers(count, writable) => {
            allowed.extend(writable);
            (count, false)
        }
    };
    assert_eq!(session.kick(&guest.driver, answers), breaks, "{name}");
    let strays = strays(&before, &guest.ram, &allowed);
    assert_eq!(strays, [0_u64; 0], "{name}: written beside the posted buffers");
    session.frontend.reset_device().unwrap();
    good_request(server, &mut session, &guest);
}

enum Reaction {
    Breaks,
    /// So many answers, and where the device may write.
    Answers(u16, &'static [(u64, u64)]),
}

#[test]
fn each_malformed_ring_gets_its_reaction_over_the_socket() {
    let _watchdog = Watchdog::new("each_malformed_ring_gets_its_reaction_over_the_socket");
    let server = TestServer::new(Setup { queue_size: SIZE, ..Setup::default() });
    for event_idx in [true, false] {
        for case in CASES {
            let expect = match case.expect {
                // A head that comes twice is no violation once the first has been answered: this device does so at once.
                Expect::Breaks { with: QueueError::HeadInFlight { head: 0 }, .. } => {
                    Reaction::Answers(8, &[(0x8000, 16)])
                }
                Expect::Breaks { with: QueueError::HeadInFlight { .. }, .. } => Reaction::Answers(2, &[]),
                Expect::Breaks { .. } => Reaction::Breaks,
                Expect::Serves(_, writable) => Reaction::Answers(1, writable),
            };
            row(&server, case.name, QueueConfig { event_idx, ..config() }, case.set_up, expect);
        }
    }
}

#[test]
fn an_indirect_descriptor_that_was_not_negotiated_breaks_the_queue() {
    let _watchdog = Watchdog::new("an_indirect_descriptor_that_was_not_negotiated_breaks_the_queue");
    let server = TestServer::new(Setup { queue_size: SIZE, ..Setup::default() });
    let post = |guest: &mut Guest| {
        guest.desc(0, TABLE, 16, INDIRECT, 0);
        guest.table(TABLE, 0, 0x8000, 16, 0, 0);
        guest.avail(&[0]);
    };
    row(&server, "16", QueueConfig { indirect: false, ..config() }, post, Reaction::Breaks);
}

/// All three parts of the ring at one place: whatever the device makes of it, nobody else notices.
#[test]
fn rings_that_overlap_harm_only_their_guest() {
    let _watchdog = Watchdog::new("rings_that_overlap_harm_only_their_guest");
    let server = TestServer::new(Setup { queue_size: SIZE, ..Setup::default() });
    let base = GuestAddress(RINGS);
    let guest = Guest::new(config());
    let overlapping = QueueConfig { avail_ring: base, used_ring: base, ..config() };
    let mut session = Session::new(&server, &guest.ram, Features::EVENT_IDX | Features::INDIRECT_DESC);
    let before = snapshot(&guest.ram);
    session.start(&server, &overlapping);
    for word in 0..256_u32 {
        guest.ram.memory().write_obj(word.wrapping_mul(0x0101_0001), base).unwrap();
        session.kick.notify().unwrap();
        server.ask(|_, _| ());
    }
    session.frontend.get_vring_base(0).unwrap();
    let changed = strays(&before, &guest.ram, &[(RINGS, 0x1000)]);
    // Descriptors made of ring fields may lead anywhere in guest memory; a status is the most that they get.
    assert!(changed.len() <= 256, "{changed:x?}");
    session.frontend.reset_device().unwrap();
    good_request(&server, &mut session, &guest);
}

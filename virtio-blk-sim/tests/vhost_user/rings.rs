//! Posts the table of malformed rings from a guest behind the socket. The frontend must learn that
//! its queue is broken, nothing except the posted buffers may change, and the device must work
//! after a reset.

use virtio_blk_sim::blk::device::Features;
use virtio_blk_sim::memory::{GuestAddress, GuestRam};
use virtio_blk_sim::virtqueue::{Descriptor, DriverQueue, MAX_CHAIN, QueueConfig, QueueError};
use vm_memory::Bytes;

use super::Watchdog;
use super::server::{Setup, TestServer};
use super::session::{Session, snapshot, strays};

#[path = "../../src/virtqueue/tests/cases.rs"]
#[expect(dead_code, reason = "the ring's own tests check more than a frontend can see")]
mod cases;
#[path = "../../src/virtqueue/tests/guest_map.rs"]
#[expect(dead_code, reason = "the ring's own tests also have guests without canaries")]
mod guest_map;

use cases::{CASES, Expect, Guest, INDIRECT, SIZE, TABLE, config};
use guest_map::{CANARIES, HIGH, HIGH_END, LOW_END, MIDDLE_END, RINGS, three_regions_and_canaries};

/// The case numbers of the rows.
pub(crate) fn numbers() -> impl Iterator<Item = u32> {
    CASES.iter().filter_map(cases::Case::number)
}

/// Runs one row in a session of its own.
fn row(
    server: &TestServer,
    name: &str,
    config: QueueConfig,
    set_up: impl FnOnce(&mut Guest),
    expect: Reaction,
) {
    println!("{name}, event_idx {}", config.event_idx); // printed when the test fails
    let mut guest = Guest::new(config);
    let mut session = Session::new(server, &guest.ram, &CANARIES);
    session.start(server, &config, Features::NONE);
    set_up(&mut guest);
    let before = snapshot(&guest.ram);
    // The device writes the used ring, which ends with avail_event.
    let mut allowed = vec![(config.used_ring.0, QueueConfig::part_bytes(config.size).2)];
    let (answers, breaks) = match expect {
        Reaction::Breaks => (u16::MAX, true),
        Reaction::Answers(count, writable) => {
            allowed.extend(writable);
            (count, false)
        }
        Reaction::Refuses(status) => {
            allowed.extend(status.map(|at| (at, 1)));
            (1, false)
        }
    };
    assert_eq!(session.kick(&guest.driver, answers), breaks, "{name}");
    if let Reaction::Refuses(status) = expect {
        assert_eq!(guest.driver.used_entry(0).1, u32::from(status.is_some()), "{name}: the used length");
        if let Some(at) = status {
            let status: u8 = guest.ram.memory().read_obj(GuestAddress(at)).unwrap();
            assert_eq!(status, 1, "{name}: the status must be an I/O error");
        }
    }
    let strays = strays(&before, &guest.ram, &allowed);
    assert_eq!(strays, [0_u64; 0], "{name}: the device wrote outside the posted buffers");
    session.frontend.reset_device().unwrap();
    session.good_request(server, &guest.ram, config);
}

enum Reaction {
    Breaks,
    /// The number of completions, and the ranges that the device may write.
    Answers(u16, &'static [(u64, u64)]),
    /// One completion, with an I/O error at this address if there is a place for it.
    Refuses(Option<u64>),
}

fn server() -> TestServer {
    TestServer::new(Setup { queue_size: SIZE, ..Setup::default() })
}

#[test]
fn each_malformed_ring_gets_its_reaction_over_the_socket() {
    let _watchdog = Watchdog::new("each_malformed_ring_gets_its_reaction_over_the_socket");
    let server = server();
    for event_idx in [true, false] {
        for case in CASES {
            let expect = match case.expect {
                // Making a head available again is not a violation once its first use has
                // completed; this device completes it at once.
                Expect::Breaks { with: QueueError::HeadInFlight { head: 0 }, .. } => {
                    Reaction::Answers(8, &[(0x8000, 16)])
                }
                Expect::Breaks { with: QueueError::HeadInFlight { .. }, .. } => Reaction::Answers(2, &[]),
                Expect::Breaks { .. } => Reaction::Breaks,
                Expect::Refuses { status, .. } => Reaction::Refuses(status),
                Expect::Serves(_, writable) => Reaction::Answers(1, writable),
            };
            row(&server, case.name, QueueConfig { event_idx, ..config() }, case.set_up, expect);
        }
    }
}

/// Case 14. The RAM is small: the chain refers to the same 64 MiB many times.
pub(crate) fn a_chain_may_have_4_gib_and_not_a_byte_more() {
    const BUFFER: u32 = 64 << 20;
    let server = TestServer::new(Setup { queue_size: 128, ..Setup::default() });
    for extra in [None, Some(1), Some(BUFFER)] {
        let ram = GuestRam::new(BUFFER as usize + 0x1_0000).unwrap();
        let queue = QueueConfig::at(GuestAddress(BUFFER.into()), 128);
        let mut driver = DriverQueue::new(ram.map().unwrap(), queue).unwrap();
        let mut session = Session::new(&server, &ram, &[]);
        session.start(&server, &queue, Features::NONE);
        let mut buffers = vec![(GuestAddress(0), BUFFER); 64];
        buffers.extend(extra.map(|len| (GuestAddress(0), len)));
        driver.add(&buffers[..1], &buffers[1..]).unwrap().unwrap();
        let _ = driver.publish();
        assert!(!session.kick(&driver, 1), "and {extra:?} bytes");
        // A read with readable data is refused, and so is a chain that is too large. The status is
        // the last writable byte.
        let last = u64::from(extra.unwrap_or(BUFFER)) - 1;
        let status: u8 = ram.memory().read_obj(GuestAddress(last)).unwrap();
        assert_eq!(status, 1);
        session.frontend.reset_device().unwrap();
        session.good_request(&server, &ram, queue);
    }
}

/// Case 16.
pub(crate) fn an_indirect_descriptor_that_was_not_negotiated_is_refused() {
    let post = |guest: &mut Guest| {
        guest.desc(0, TABLE, 16, INDIRECT, 0);
        guest.table(TABLE, 0, 0x8000, 16, 0, 0);
        guest.avail(&[0]);
    };
    row(&server(), "16", QueueConfig { indirect: false, ..config() }, post, Reaction::Refuses(None));
}

/// Case 22: an indirect table may be longer than the ring, and longer than SEG_MAX allows. 515 is
/// what Windows' viostor sends.
pub(crate) fn a_table_may_be_longer_than_the_ring_up_to_the_longest_chain() {
    let server = TestServer::new(Setup { queue_size: 2 * SIZE, ..Setup::default() });
    let table = |guest: &mut Guest, entries: u16| {
        guest.desc(0, TABLE, u32::from(entries) * 16, INDIRECT, 0);
        for entry in 0..entries {
            let next = if entry + 1 < entries { Descriptor::NEXT } else { 0 };
            let addr = 0x9000 + u64::from(entry);
            guest.table(TABLE, entry.into(), addr, 1, next | Descriptor::WRITE, entry + 1);
        }
        guest.avail(&[0]);
    };
    // No byte is readable, so the request is refused, and its status is the last byte.
    for entries in [2 * SIZE, 2 * SIZE + 1, 515, MAX_CHAIN, MAX_CHAIN + 1] {
        let expect = Reaction::Refuses(Some(0x9000 + u64::from(entries) - 1));
        row(&server, &format!("22, {entries}"), config(), |guest| table(guest, entries), expect);
    }
}

/// Case 29. All three parts of the ring have the same address. Whatever the device does, other
/// memory must not change.
pub(crate) fn rings_that_overlap_harm_only_their_guest() {
    let server = server();
    let base = GuestAddress(RINGS);
    let guest = Guest::new(config());
    let overlapping = QueueConfig { avail_ring: base, used_ring: base, ..config() };
    let mut session = Session::new(&server, &guest.ram, &CANARIES);
    let before = snapshot(&guest.ram);
    session.start(&server, &overlapping, Features::NONE);
    for word in 0..256_u32 {
        guest.ram.memory().write_obj(word.wrapping_mul(0x0101_0001), base).unwrap();
        session.ring_doorbell();
        server.ask(|_, _| ());
    }
    session.frontend.get_vring_base(0).unwrap();
    let changed = strays(&before, &guest.ram, &[(RINGS, 0x1000)]);
    // Descriptors made of ring fields may point anywhere in guest memory, but the device writes
    // only a status there.
    assert!(changed.len() <= 256, "{changed:x?}");
    let beside = |at: &u64| CANARIES.iter().any(|&start| (start..start + 4096).contains(at));
    assert!(!changed.iter().any(beside), "{changed:x?}");
    session.frontend.reset_device().unwrap();
    session.good_request(&server, &guest.ram, config());
}

/// Case 36.
pub(crate) fn a_storm_of_spurious_kicks_finds_an_empty_ring_and_changes_nothing() {
    let server = server();
    for event_idx in [true, false] {
        let queue = QueueConfig { event_idx, ..config() };
        let guest = Guest::new(queue);
        let mut session = Session::new(&server, &guest.ram, &CANARIES);
        session.start(&server, &queue, Features::NONE);
        let before = snapshot(&guest.ram);
        for _ in 0..1_000 {
            session.ring_doorbell();
        }
        server.ask(|_, _| ());
        session.frontend.get_vring_base(0).unwrap();
        // Only flags or avail_event may change: they tell whether the device wants kicks.
        let (flags, used) = (queue.used_ring.0, QueueConfig::part_bytes(queue.size).2);
        let kicks = [(flags, 2), (flags + used - 2, 2)];
        assert_eq!(strays(&before, &guest.ram, &kicks), [0_u64; 0]);
        session.frontend.reset_device().unwrap();
        session.good_request(&server, &guest.ram, queue);
    }
}

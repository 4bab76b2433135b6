//! Runs the table of malformed and unusual rings, and checks the reaction to each.
//!
//! A ring violation breaks the queue with an error that names it, and the device writes nothing.
//! A chain that cannot be served is refused with an error that names the reason, and the queue
//! continues; the device can write nothing but a status. A legal chain is served, and the device
//! writes only the posted buffers and its used ring.

use std::collections::BTreeSet;

use super::cases::{self, CASES, Expect, Guest, INDIRECT, Pieces, SIZE, TABLE, config};
use super::setup;
use super::support::*;
use crate::memory::fenced::device_view;
use crate::virtqueue::layout::{Descriptor, MAX_CHAIN};

use Expect::{Breaks, Refuses, Serves};

/// Cases that need more than one chain, or a queue different from the one of [`CASES`].
const MORE: [(u32, fn()); 12] = [
    (14, a_chain_may_have_4_gib_and_not_a_byte_more),
    (16, an_indirect_descriptor_that_was_not_negotiated_is_refused),
    (22, a_table_may_be_longer_than_the_queue_up_to_the_longest_chain),
    (29, rings_that_overlap_harm_only_their_guest),
    (31, setup::a_ring_outside_memory_is_refused),
    (31, setup::a_ring_may_end_where_memory_ends),
    (32, setup::a_misaligned_ring_is_refused),
    (32, setup::a_region_at_an_odd_guest_address_cannot_hold_rings),
    (33, setup::a_bad_size_is_refused),
    (35, what_was_made_available_before_the_queue_was_enabled_is_found),
    (36, a_storm_of_spurious_kicks_finds_an_empty_ring_and_changes_nothing),
    (38, a_reset_with_chains_in_flight_leaves_their_memory_mapped),
];

/// Cases that cannot occur when the guest and the queue are in one process, and why.
const CANNOT_BE: [(u32, &str); 2] = [
    (
        34,
        "queue registers changed after activation: a queue is built from its own QueueConfig, there are no registers",
    ),
    (
        37,
        "a kick to a queue that does not exist: the doorbell is an eventfd that only the creator of the queue has",
    ),
];

/// Returns the numbers of all cases here. Another test checks that the whole list is covered.
pub(crate) fn malformed_cases() -> BTreeSet<u32> {
    let more = MORE.iter().map(|&(case, _)| case).chain(CANNOT_BE.iter().map(|&(case, why)| {
        println!("case {case} cannot occur in one process: {why}");
        case
    }));
    CASES.iter().filter_map(cases::Case::number).chain(more).collect()
}

impl Guest {
    /// Returns the guest memory that the device may access: all of it except the canaries.
    pub(super) fn device_memory(&self) -> Arc<GuestMemoryMmap> {
        device_view(&self.ram, &CANARIES)
    }
}

#[test]
fn each_case_with_its_own_function_gets_its_reaction() {
    for (case, check) in MORE {
        println!("case {case}"); // printed when the test fails
        check();
    }
}

#[test]
fn each_malformed_ring_gets_its_reaction() {
    react_to_each(Guest::device_memory);
}

#[test]
fn each_malformed_ring_gets_its_reaction_in_the_memory_of_vm_memory() {
    react_to_each(|guest| vm_memory_view(&guest.ram, &CANARIES));
}

/// Runs all rows of the table with a device that uses the memory returned by `device_memory`.
fn react_to_each<M: GuestMemoryBackend + 'static>(device_memory: impl Fn(&Guest) -> Arc<M>) {
    for event_idx in [true, false] {
        for case in CASES {
            let mut guest = Guest::new(QueueConfig { event_idx, ..config() });
            (case.set_up)(&mut guest);
            let mem = device_memory(&guest);
            let mut device = DeviceQueue::new(Arc::clone(&mem), guest.config).unwrap();
            match case.expect {
                Breaks { after, with } => breaks(case.name, &guest, &mut device, after, with),
                Refuses { status, with } => refuses(case.name, &mut guest, &mut device, status, with),
                Serves(readable, writable) => serves(case.name, &guest, &mut device, readable, writable),
            }
            works_again(case.name, &guest, mem);
        }
    }
}

/// Checks that after a reset, with new rings, the queue serves a valid chain.
fn works_again<M: GuestMemoryBackend + 'static>(name: &str, guest: &Guest, mem: Arc<M>) {
    let mut driver = DriverQueue::new(guest.ram.map().unwrap(), guest.config).unwrap();
    let mut device = DeviceQueue::new(mem, guest.config).unwrap();
    let head = driver.add(&[(GuestAddress(0x8000), 16)], &[(GuestAddress(0x9000), 8)]).unwrap().unwrap();
    let _ = driver.publish();
    let chain = pop_one(&mut device);
    assert_eq!(chain.writable().copy_from(0, &[0x5a; 8]), 8, "{name}");
    device.push(chain.head(), 8).unwrap();
    let _ = device.publish();
    assert_eq!(driver.pop_used(), Ok(Some((head, 8))), "{name}");
    assert_eq!(guest.ram.memory().read_obj::<[u8; 8]>(GuestAddress(0x9000)).unwrap(), [0x5a; 8], "{name}");
}

/// Checks that the queue breaks with this error after `after` valid chains, stays broken, and that
/// the device has written nothing.
fn breaks<M: GuestMemoryBackend + 'static>(
    name: &str,
    guest: &Guest,
    device: &mut DeviceQueue<M>,
    after: usize,
    with: QueueError,
) {
    let mem = guest.ram.memory();
    let before = snapshot(mem);
    let mut held = Vec::new();
    for _ in 0..after {
        held.push(pop_one(device));
    }
    let mut chain = device.new_chain();
    assert!(device.has_available(), "{name}");
    assert_eq!(device.pop(&mut chain), Err(with), "{name}");
    assert!(
        chain.readable().is_empty() && chain.writable().is_empty(),
        "{name}: a rejected chain must be empty"
    );
    assert!(device.is_broken(), "{name}");
    for _ in 0..3 {
        assert_eq!(device.pop(&mut chain), Err(QueueError::Broken), "{name}");
        assert!(!device.has_available(), "{name}: must look empty, or a poller would spin");
        device.disable_kicks();
        assert!(!device.enable_kicks(), "{name}: must look empty, or a poller would spin");
    }
    // Chains in flight can be completed, but the guest does not see it.
    assert_eq!(usize::from(device.in_flight()), after, "{name}");
    for chain in &held {
        assert_eq!(device.push(chain.head(), 0), Ok(()), "{name}");
    }
    assert_eq!(device.in_flight(), 0, "{name}");
    assert!(!device.publish(), "{name}");
    assert_eq!(changed(&before, &snapshot(mem)), NOTHING, "{name}: a broken queue wrote to guest memory");
}

/// Checks that the queue refuses one chain with this error, that the device can write nothing for
/// it but a status, and that the queue serves the next chain.
fn refuses<M: GuestMemoryBackend + 'static>(
    name: &str,
    guest: &mut Guest,
    device: &mut DeviceQueue<M>,
    status: Option<u64>,
    with: QueueError,
) {
    assert!(with.is_of_one_chain(), "{name}");
    let before = snapshot(guest.ram.memory());
    let mut chain = device.new_chain();
    assert_eq!(device.pop(&mut chain), Err(with), "{name}");
    let head = chain.head();
    assert_eq!(as_guest(chain.memory(), chain.readable()), [], "{name}");
    let writable: Vec<(u64, u64)> = status.map(|at| (at, 1)).into_iter().collect();
    assert_eq!(as_guest(chain.memory(), chain.writable()), writable, "{name}");
    assert!(!device.is_broken() && device.in_flight() == 1 && device.next_avail() == 1, "{name}");
    assert_eq!(device.pop(&mut chain), Ok(false), "{name}: the chain is not popped again");
    assert_eq!(device.push(head, 0), Ok(()), "{name}");
    let _ = device.publish();
    assert_eq!(guest.driver.used_entry(0), (head.into(), 0), "{name}");
    let used = guest.config.used_ring.0;
    let stray: Vec<u64> = changed(&before, &snapshot(guest.ram.memory()))
        .into_iter()
        .filter(|at| !(used + 2..used + 12).contains(at))
        .collect();
    assert_eq!(stray, NOTHING, "{name}: the queue wrote outside its used ring");
    // The same queue serves the next chain.
    guest.desc(SIZE - 1, 0x9000, 8, Descriptor::WRITE, 0);
    guest.driver.write_avail(1, SIZE - 1);
    guest.driver.set_avail_idx(2);
    assert_eq!(device.pop(&mut chain), Ok(true), "{name}");
    assert_eq!(as_guest(chain.memory(), chain.writable()), [(0x9000, 8)], "{name}");
    assert_eq!(device.push(chain.head(), 8), Ok(()), "{name}");
    let _ = device.publish();
    assert_eq!(guest.driver.used_idx(), 2, "{name}");
}

/// Checks that the queue serves one chain with these pieces, and that the device writes only the
/// writable pieces and its used ring.
fn serves<M: GuestMemoryBackend + 'static>(
    name: &str,
    guest: &Guest,
    device: &mut DeviceQueue<M>,
    readable: Pieces,
    writable: Pieces,
) {
    let mem = guest.ram.memory();
    let before = snapshot(mem);
    let mut chain = device.new_chain();
    assert_eq!(device.pop(&mut chain), Ok(true), "{name}");
    assert_eq!(as_guest(chain.memory(), chain.readable()), readable, "{name}");
    assert_eq!(as_guest(chain.memory(), chain.writable()), writable, "{name}");
    assert_eq!(chain.readable().len_bytes(), readable.iter().map(|piece| piece.1).sum::<u64>(), "{name}");
    let bytes = writable.iter().map(|piece| piece.1).sum::<u64>();
    assert_eq!(chain.writable().len_bytes(), bytes, "{name}");
    let response = vec![0x5a; bytes as usize];
    assert_eq!(chain.writable().copy_from(0, &response), response.len(), "{name}");
    assert_eq!(device.push(chain.head(), bytes as u32), Ok(()), "{name}");
    let _ = device.publish();
    assert_eq!(device.pop(&mut chain), Ok(false), "{name}");
    assert!(!device.is_broken(), "{name}");

    assert_eq!(guest.driver.used_idx(), 1, "{name}: used.idx must come from the device's own count");
    assert_eq!(guest.driver.used_entry(0), (u32::from(chain.head()), bytes as u32), "{name}");
    let used = guest.config.used_ring.0;
    // The index and the first entry.
    let ours = |at: u64| (used + 2..used + 12).contains(&at);
    let posted = |at: u64| writable.iter().any(|&(addr, len)| (addr..addr + len).contains(&at));
    let stray: Vec<u64> =
        changed(&before, &snapshot(mem)).into_iter().filter(|&at| !ours(at) && !posted(at)).collect();
    assert_eq!(stray, NOTHING, "{name}: the device wrote outside the posted buffers");
}

fn a_chain_may_have_4_gib_and_not_a_byte_more() {
    // The RAM is small: the chain refers to the same 64 MiB many times.
    const BUFFER: u32 = 64 << 20;
    let ram = GuestRam::new(BUFFER as usize + 0x1_0000).unwrap();
    for (extra, refused) in [(None, false), (Some(1), true), (Some(BUFFER), true)] {
        let config = QueueConfig::at(GuestAddress(u64::from(BUFFER)), 128);
        let (mut driver, mut device) = pair(&ram, config);
        let mut buffers = vec![(GuestAddress(0), BUFFER); 64];
        buffers.extend(extra.map(|len| (GuestAddress(0), len)));
        driver.add(&buffers[..1], &buffers[1..]).unwrap().unwrap();
        let _ = driver.publish();
        let mut chain = device.new_chain();
        let expect = if refused { Err(QueueError::ChainTooLarge) } else { Ok(true) };
        assert_eq!(device.pop(&mut chain), expect);
        if refused {
            let last = u64::from(extra.unwrap()) - 1;
            assert_eq!(as_guest(chain.memory(), chain.writable()), [(last, 1)]);
        } else {
            assert_eq!(chain.readable().len_bytes() + chain.writable().len_bytes(), 1 << 32);
        }
    }
}

fn an_indirect_descriptor_that_was_not_negotiated_is_refused() {
    let mut guest = Guest::new(QueueConfig { indirect: false, ..config() });
    guest.desc(0, TABLE, 16, INDIRECT, 0);
    guest.table(TABLE, 0, 0x8000, 16, 0, 0);
    guest.avail(&[0]);
    let mut device = DeviceQueue::new(guest.device_memory(), guest.config).unwrap();
    refuses("16", &mut guest, &mut device, None, QueueError::IndirectNotNegotiated);
}

fn rings_that_overlap_harm_only_their_guest() {
    for event_idx in [true, false] {
        // Descriptors, avail ring and used ring are the same bytes.
        let base = GuestAddress(RINGS);
        let config = QueueConfig { avail_ring: base, used_ring: base, event_idx, ..config() };
        let ram = three_regions();
        let mut device = DeviceQueue::new(ram.memory().clone(), config).unwrap();
        let mut chain = device.new_chain();
        for word in 0..256_u32 {
            ram.memory().write_obj(word.wrapping_mul(0x9e37_79b9), GuestAddress(RINGS)).unwrap();
            ram.memory().write_obj(0x0001_u16 + word as u16, GuestAddress(RINGS + 2)).unwrap();
            match device.pop(&mut chain) {
                Ok(true) => {
                    as_guest(ram.memory(), chain.readable());
                    as_guest(ram.memory(), chain.writable());
                    device.push(chain.head(), 0).unwrap();
                    let _ = device.publish();
                }
                Ok(false) => {}
                Err(_) => device = DeviceQueue::new(ram.memory().clone(), config).unwrap(),
            }
        }
    }
}

fn what_was_made_available_before_the_queue_was_enabled_is_found() {
    for event_idx in [true, false] {
        let mut guest = Guest::new(QueueConfig { event_idx, ..config() });
        guest.driver.add(&[(GuestAddress(0x8000), 16)], &[]).unwrap();
        assert!(guest.driver.publish(), "the kick before the device exists");
        let mut device = DeviceQueue::new(guest.device_memory(), guest.config).unwrap();
        assert!(device.enable_kicks());
        pop_one(&mut device);
        assert!(!device.enable_kicks());
    }
}

fn a_storm_of_spurious_kicks_finds_an_empty_ring_and_changes_nothing() {
    let guest = Guest::new(config());
    let mut device = DeviceQueue::new(guest.device_memory(), guest.config).unwrap();
    let mut chain = device.new_chain();
    let before = snapshot(guest.ram.memory());
    for _ in 0..1000 {
        assert!(!device.has_available());
        assert_eq!(device.pop(&mut chain), Ok(false));
        assert!(!device.publish());
    }
    assert_eq!(changed(&before, &snapshot(guest.ram.memory())), NOTHING);
}

fn a_reset_with_chains_in_flight_leaves_their_memory_mapped() {
    let mut guest = Guest::new(config());
    guest.driver.add(&[], &[(GuestAddress(0x9000), 512)]).unwrap();
    let _ = guest.driver.publish();
    let mut device = DeviceQueue::new(guest.device_memory(), guest.config).unwrap();
    let chain = pop_one(&mut device);
    drop(device);
    drop(guest);
    // The I/O completes into memory that only the chain keeps mapped.
    assert_eq!(chain.writable().copy_from(0, &[7; 512]), 512);
    assert_eq!(Arc::strong_count(chain.memory()), 1);
}

fn a_table_may_be_longer_than_the_queue_up_to_the_longest_chain() {
    // 515 is what Windows' viostor sends.
    for (entries, served) in [(SIZE + 1, true), (515, true), (MAX_CHAIN, true), (MAX_CHAIN + 1, false)] {
        let mut guest = Guest::new(config());
        guest.desc(0, TABLE, u32::from(entries) * 16, INDIRECT, 0);
        for entry in 0..entries {
            let next = if entry + 1 < entries { Descriptor::NEXT } else { 0 };
            let addr = 0x9000 + u64::from(entry) * 16;
            guest.table(TABLE, entry.into(), addr, 16, next | Descriptor::WRITE, entry + 1);
        }
        guest.avail(&[0]);
        let mut device = DeviceQueue::new(guest.device_memory(), guest.config).unwrap();
        if served {
            let chain = pop_one(&mut device);
            assert_eq!((chain.writable().len(), chain.writable().len_bytes()), {
                let entries = usize::from(entries);
                (entries, entries as u64 * 16)
            });
        } else {
            let with = QueueError::IndirectLength { len: u32::from(entries) * 16, limit: MAX_CHAIN };
            let end = 0x9000 + u64::from(entries) * 16 - 1;
            refuses("22", &mut guest, &mut device, Some(end), with);
        }
    }
}

/// A queue may be longer than the longest chain of a smaller one.
#[test]
fn a_chain_may_be_as_long_as_a_large_queue() {
    let ram = GuestRam::new(1 << 20).unwrap();
    let (mut driver, mut device) = pair(&ram, QueueConfig::at(GuestAddress(0), 4 * MAX_CHAIN));
    let buffers = vec![(GuestAddress(0x8_0000), 1); usize::from(4 * MAX_CHAIN)];
    driver.add(&[], &buffers).unwrap().unwrap();
    let _ = driver.publish();
    assert_eq!(pop_one(&mut device).writable().len(), buffers.len());
}

#[test]
fn a_head_that_is_not_in_flight_cannot_be_completed() {
    let mut guest = Guest::new(config());
    guest.driver.add(&[(GuestAddress(0x8000), 16)], &[]).unwrap();
    let _ = guest.driver.publish();
    let mut device = DeviceQueue::new(guest.device_memory(), guest.config).unwrap();
    assert_eq!(device.push(0, 0), Err(QueueError::NotInFlight { head: 0 }), "not popped yet");
    let head = pop_one(&mut device).head();
    assert_eq!(device.push(head, 0), Ok(()));
    for head in [head, SIZE - 1, SIZE, 64, 65535] {
        assert_eq!(device.push(head, 0), Err(QueueError::NotInFlight { head }));
    }
    let _ = device.publish();
    assert_eq!(guest.driver.used_idx(), 1);
    assert!(!device.is_broken(), "a bug of the device must not break the queue");
}

#[test]
fn a_read_only_mapping_counts_as_a_hole() {
    use vm_memory::MmapRegion;

    use crate::memory::GuestRegion;

    let rom =
        MmapRegion::build(None, 4096, libc::PROT_READ, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS).unwrap();
    let ram = MmapRegion::new(0x1_0000).unwrap();
    let mem = Arc::new(
        GuestMemoryMmap::from_regions(vec![
            GuestRegion::from_mmap(GuestAddress(0), ram).unwrap(),
            GuestRegion::from_mmap(GuestAddress(0x1_0000), rom).unwrap(),
        ])
        .unwrap(),
    );
    for (addr, len) in [(0x1_0000, 16), (0xfff8, 16)] {
        let mut driver = DriverQueue::new(mem.clone(), config()).unwrap();
        driver.add(&[], &[(GuestAddress(addr), len)]).unwrap();
        let _ = driver.publish();
        let mut device = DeviceQueue::new(mem.clone(), config()).unwrap();
        let mut chain = device.new_chain();
        assert_eq!(device.pop(&mut chain), Err(QueueError::Unmapped { addr, len }));
    }
    let rings = QueueConfig::at(GuestAddress(0x1_0000), SIZE);
    assert!(matches!(DeviceQueue::new(mem, rings), Err(QueueError::RingUnmapped { .. })));
}

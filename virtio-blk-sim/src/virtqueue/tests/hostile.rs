//! A driver that writes anything anywhere, from one thread and from two.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::support::*;
use crate::virtqueue::layout::Descriptor;

/// Random indirect tables are placed here. Random descriptors often refer to it.
const TABLES: u64 = 0x6000;
const TABLES_BYTES: u64 = 0x180;

const EDGES: &[u64] = &[LOW, LOW_END, MIDDLE_END, HIGH, HIGH_END, 1 << 63, u64::MAX];

#[derive(Clone, Debug)]
enum Op {
    Pop,
    /// Completes one of the chains held, by position.
    Push(prop::sample::Index),
    Publish,
    DisableKicks,
    EnableKicks,
    /// If the queue is broken: build a new one that starts at the current avail.idx.
    Reset,
    /// The guest rewrites a descriptor, an avail entry, avail.idx, the requests, the used ring.
    Desc(u16, Descriptor),
    Avail(u16, u16),
    AvailIdx(u16),
    MoreAvail(u16),
    Requests(u16, u16),
    Used(u16, u16, u32, u32),
}

/// A head or next: mostly one that `tame` brings into the table, sometimes anything.
fn index() -> impl Strategy<Value = u16> {
    prop_oneof![30 => 0..WILD, 1 => WILD..]
}

const WILD: u16 = 0x1000;

fn tame(index: u16, size: u16) -> u16 {
    if index < WILD { index % size } else { index }
}

/// Addresses of tables and rings, addresses at the end of a region, and arbitrary ones.
fn addr() -> impl Strategy<Value = u64> {
    prop_oneof![
        12 => LOW..MIDDLE_END - 0x400,
        3 => HIGH..HIGH_END,
        4 => (0..TABLES_BYTES / 16).prop_map(|entry| TABLES + entry * 16),
        2 => RINGS..RINGS + 0x400,
        2 => (prop::sample::select(EDGES), -20..20_i64)
            .prop_map(|(edge, around)| edge.wrapping_add_signed(around)),
        1 => any::<u64>(),
    ]
}

fn len() -> impl Strategy<Value = u32> {
    prop_oneof![
        6 => 1..600_u32,
        4 => (1..20_u32).prop_map(|entries| entries * 16),
        1 => 1..0x2_0000_u32,
        1 => prop::sample::select(&[0, 15, 17, 0x1_0000, 0x10_0010, u32::MAX - 15, u32::MAX][..]),
    ]
}

fn descriptor() -> impl Strategy<Value = Descriptor> {
    let flags = prop_oneof![
        6 => Just(0_u16),
        6 => Just(Descriptor::NEXT),
        8 => Just(Descriptor::WRITE),
        4 => Just(Descriptor::WRITE | Descriptor::NEXT),
        1 => any::<u16>(),
    ];
    let any = (addr(), len(), flags, index()).prop_map(|(addr, len, flags, next)| Descriptor {
        addr,
        len,
        flags,
        next,
    });
    let table = (0..TABLES_BYTES / 16, 1..5_u32).prop_map(|(entry, entries)| Descriptor {
        addr: TABLES + 16 * entry,
        len: 16 * entries,
        flags: Descriptor::INDIRECT,
        next: 0,
    });
    prop_oneof![8 => any, 1 => table]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        20 => Just(Op::Pop),
        8 => any::<prop::sample::Index>().prop_map(Op::Push),
        4 => Just(Op::Publish),
        2 => Just(Op::DisableKicks),
        2 => Just(Op::EnableKicks),
        12 => Just(Op::Reset),
        8 => (0..16_u16, descriptor()).prop_map(|(at, descriptor)| Op::Desc(at, descriptor)),
        4 => (any::<u16>(), index()).prop_map(|(at, head)| Op::Avail(at, head)),
        1 => any::<u16>().prop_map(Op::AvailIdx),
        14 => (1..3_u16).prop_map(Op::MoreAvail),
        1 => (any::<u16>(), any::<u16>()).prop_map(|(flags, event)| Op::Requests(flags, event)),
        1 => (any::<u16>(), any::<u16>(), any::<u32>(), any::<u32>())
            .prop_map(|(idx, at, id, len)| Op::Used(idx, at, id, len)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn whatever_the_driver_writes_the_device_stays_inside_guest_memory(
        table in prop::collection::vec(descriptor(), 16),
        indirect in prop::collection::vec(descriptor(), (TABLES_BYTES / 16) as usize),
        heads in prop::collection::vec(index(), 16),
        start in prop_oneof![Just(0_u16), 65530..=65535_u16, any::<u16>()],
        size in prop::sample::select(&[1_u16, 4, 8, 16, 16][..]),
        event_idx: bool,
        ops in prop::collection::vec(op(), 1..80),
    ) {
        let ram = three_regions();
        let mem = ram.memory();
        let config = QueueConfig { event_idx, ..QueueConfig::at(GuestAddress(RINGS), size) };
        let mut driver = DriverQueue::starting_at(ram.map().unwrap(), config, start).unwrap();
        let tamed = |descriptor: Descriptor| Descriptor { next: tame(descriptor.next, size), ..descriptor };
        for (at, &descriptor) in (0..).zip(&table) {
            driver.write_desc(at, tamed(descriptor));
        }
        for (at, &descriptor) in (0..).zip(&indirect) {
            mem.write_slice(&tamed(descriptor).to_bytes(), GuestAddress(TABLES + 16 * at)).unwrap();
        }
        for (at, &head) in (0..).zip(&heads) {
            driver.write_avail(at, tame(head, size));
        }
        let mut device = DeviceQueue::resume(mem.clone(), config, start, start).unwrap();

        let mut avail_idx = start;
        let mut held: Vec<Chain> = Vec::new();
        let mut used = start;
        let mut broken = false;
        for op in ops {
            match op {
                Op::Pop => {
                    let mut chain = device.new_chain();
                    match device.pop(&mut chain) {
                        Ok(true) => {
                            prop_assert!(!broken);
                            prop_assert!(chain.head() < size);
                            prop_assert!(held.iter().all(|other| other.head() != chain.head()));
                            // `as_guest` checks that each piece lies in one region.
                            let readable = as_guest(mem, chain.readable());
                            let writable = as_guest(mem, chain.writable());
                            let bytes: u64 = readable.iter().chain(&writable).map(|piece| piece.1).sum();
                            prop_assert!(bytes <= 1 << 32);
                            let (to_device, to_driver) = (chain.readable(), chain.writable());
                            prop_assert_eq!(bytes, to_device.len_bytes() + to_driver.len_bytes());
                            // A buffer is split in three at most: there are three regions.
                            // A table has up to 19 entries.
                            prop_assert!(readable.len() + writable.len() <= 3 * (usize::from(size) + 19));
                            held.push(chain);
                        }
                        Ok(false) => prop_assert!(!broken),
                        Err(error) if error.is_of_one_chain() => {
                            prop_assert!(!broken && chain.readable().is_empty());
                            let status = as_guest(mem, chain.writable());
                            prop_assert!(status.is_empty() || matches!(status[..], [(_, 1)]));
                            held.push(chain);
                        }
                        Err(error) => {
                            prop_assert_eq!(error == QueueError::Broken, broken);
                            prop_assert!(chain.readable().is_empty() && chain.writable().is_empty());
                            broken = true;
                        }
                    }
                }
                Op::Push(which) => {
                    if !held.is_empty() {
                        let chain = held.swap_remove(which.index(held.len()));
                        prop_assert_eq!(device.push(chain.head(), 1), Ok(()));
                        used = used.wrapping_add(u16::from(!broken));
                        let again = device.push(chain.head(), 1);
                        prop_assert_eq!(again, Err(QueueError::NotInFlight { head: chain.head() }));
                    }
                }
                Op::Publish => {
                    let _ = device.publish();
                }
                Op::DisableKicks => device.disable_kicks(),
                Op::EnableKicks => {
                    let _ = device.enable_kicks();
                }
                Op::Reset => {
                    if broken {
                        device = DeviceQueue::resume(mem.clone(), config, avail_idx, used).unwrap();
                        held.clear();
                        broken = false;
                    }
                }
                Op::Desc(at, descriptor) => driver.write_desc(at, tamed(descriptor)),
                Op::Avail(at, head) => driver.write_avail(at, tame(head, size)),
                Op::AvailIdx(index) => {
                    avail_idx = index;
                    driver.set_avail_idx(index);
                }
                Op::MoreAvail(count) => {
                    avail_idx = avail_idx.wrapping_add(count);
                    driver.set_avail_idx(avail_idx);
                }
                Op::Requests(flags, event) => driver.write_interrupt_requests(flags, event),
                Op::Used(idx, at, id, len) => driver.overwrite_used(idx, at, id, len),
            }
            prop_assert_eq!(usize::from(device.in_flight()), held.len());
            prop_assert!(device.in_flight() <= size);
            prop_assert_eq!(device.is_broken(), broken);
            prop_assert_eq!(device.next_used(), used);
        }
    }
}

/// The guest rewrites descriptors, tables and heads while the device reads them. Whatever mixture
/// the device catches, every segment must be inside guest memory: a device that checked one copy
/// and used another would fail here.
#[test]
fn a_guest_that_rewrites_its_rings_while_they_are_read_gains_nothing() {
    const OUTCOMES: u32 = 20_000;
    let ram = three_regions();
    let config = QueueConfig::at(GuestAddress(RINGS), 16);
    let mut driver = DriverQueue::new(ram.map().unwrap(), config).unwrap();
    let guest = ram.map().unwrap();
    let stop = AtomicBool::new(false);
    let mut popped = 0;
    let mut refused = 0;
    let mut broken = 0;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // What is legal half of the time, by turns for each field: the address, the length, the
            // order, the table.
            let good = Descriptor { addr: 0x8000, len: 64, flags: Descriptor::NEXT, next: 1 };
            let mut turn = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                turn += 1;
                let at = (turn % 16) as u16;
                let next = (at + 1) % 16;
                let last = if at % 4 == 3 { 0 } else { Descriptor::NEXT };
                let descriptor = match turn / 16 % 8 {
                    0 => Descriptor { addr: HIGH_END - 32, len: 64, flags: last, next },
                    1 => Descriptor { addr: HIGH_END - 64, len: 64, flags: last, next },
                    2 => Descriptor { addr: u64::MAX - 3, next, flags: last, ..good },
                    3 => Descriptor { addr: TABLES, len: 64, flags: Descriptor::INDIRECT, ..good },
                    4 => Descriptor { len: u32::MAX, next, flags: last, ..good },
                    _ => Descriptor { next, flags: last, ..good },
                };
                driver.write_desc(at, descriptor);
                let entry = Descriptor { next: (turn % 5) as u16, flags: last, ..descriptor };
                guest.write_slice(&entry.to_bytes(), GuestAddress(TABLES + 16 * (turn % 4))).unwrap();
                driver.write_avail(at, (turn % 17) as u16);
                driver.set_avail_idx((turn / 64) as u16);
            }
        });
        // The guest stops when this side is done, or has failed.
        let _stop = OnDrop(|| stop.store(true, Ordering::Relaxed));
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut device = DeviceQueue::new(ram.memory().clone(), config).unwrap();
        let mut chain = device.new_chain();
        while popped < OUTCOMES || refused < OUTCOMES || broken < OUTCOMES {
            match device.pop(&mut chain) {
                Ok(true) => {
                    as_guest(ram.memory(), chain.readable());
                    as_guest(ram.memory(), chain.writable());
                    device.push(chain.head(), 0).unwrap();
                    let _ = device.publish();
                    popped += 1;
                }
                Ok(false) => {
                    let now = Instant::now();
                    assert!(
                        now < deadline,
                        "{popped} chains, {refused} refused, {broken} breaks, then nothing"
                    );
                    std::thread::yield_now();
                }
                Err(error) if error.is_of_one_chain() => {
                    as_guest(ram.memory(), chain.writable());
                    device.push(chain.head(), 0).unwrap();
                    let _ = device.publish();
                    refused += 1;
                }
                Err(_) => {
                    // The reset: a new queue continues at the current index of the ring.
                    let at = driver_avail_idx(ram.memory(), &config);
                    device =
                        DeviceQueue::resume(ram.memory().clone(), config, at.wrapping_sub(4), at).unwrap();
                    broken += 1;
                }
            }
        }
    });
}

struct OnDrop<F: Fn()>(F);

impl<F: Fn()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

fn driver_avail_idx(mem: &GuestMemoryMmap, config: &QueueConfig) -> u16 {
    mem.load(GuestAddress(config.avail_ring.0 + 2), Ordering::Acquire).unwrap()
}

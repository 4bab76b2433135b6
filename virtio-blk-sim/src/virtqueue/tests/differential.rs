//! Our device half against the `virtio-queue` crate's: the same memory image, the same chains, the
//! same used ring.

use proptest::prelude::*;
use virtio_queue::desc::RawDescriptor;
use virtio_queue::desc::split::Descriptor as Theirs;
use virtio_queue::mock::MockSplitQueue;
use virtio_queue::{Queue, QueueT};

use super::support::*;
use crate::virtqueue::layout::Descriptor;

const SIZE: u16 = 16;
const TABLES: u64 = 0x4000;
const BUFFERS: u64 = 0x8000;

/// A flat list of (guest address, bytes, writable): what both implementations must see of a chain.
type Pieces = Vec<(u64, u64, bool)>;

/// Returns the chain as our device half sees it.
fn our_pieces(mem: &Arc<GuestMemoryMmap>, chain: &Chain) -> Pieces {
    let readable = as_guest(mem, chain.readable()).into_iter().map(|(addr, len)| (addr, len, false));
    let writable = as_guest(mem, chain.writable()).into_iter().map(|(addr, len)| (addr, len, true));
    readable.chain(writable).collect()
}

/// Returns the chain as virtio-queue sees it.
fn their_pieces(chain: impl Iterator<Item = Theirs>) -> Pieces {
    chain.map(|entry| (entry.addr().0, u64::from(entry.len()), entry.is_write_only())).collect()
}

/// One chain: readable lengths, writable lengths, and where its table begins among the pieces, if
/// it has one.
type Shape = (Vec<u32>, Vec<u32>, Option<u16>);

fn shape() -> impl Strategy<Value = Shape> {
    let lens = || prop::collection::vec(1..200_u32, 0..4);
    (lens(), lens(), prop::option::of(0..3_u16))
        .prop_filter("a chain has a buffer", |(readable, writable, _)| readable.len() + writable.len() > 0)
}

/// Some chains, in which order they are completed, and whether the device and the guest sleep
/// afterwards.
fn round() -> impl Strategy<Value = (Vec<Shape>, u64, bool)> {
    (prop::collection::vec(shape(), 1..8), any::<u64>(), any::<bool>())
}

/// virtio-queue, set up on the same rings.
fn theirs(config: &QueueConfig, start: u16) -> Queue {
    let mut queue = Queue::new(config.size).unwrap();
    queue.set_size(config.size);
    queue.try_set_desc_table_address(config.desc_table).unwrap();
    queue.try_set_avail_ring_address(config.avail_ring).unwrap();
    queue.try_set_used_ring_address(config.used_ring).unwrap();
    queue.set_event_idx(config.event_idx);
    queue.set_next_avail(start);
    queue.set_next_used(start);
    queue.set_ready(true);
    queue
}

fn copy_memory(from: &Arc<GuestMemoryMmap>, to: &GuestMemoryMmap) {
    for (start, bytes) in snapshot(from) {
        to.write_slice(&bytes, GuestAddress(start)).unwrap();
    }
}

/// Adds chains until the queue is full, with buffers that follow each other over memory (never over
/// a region's end, since virtio-queue yields descriptors and we yield what they map to).
fn add_all(driver: &mut DriverQueue, shapes: &[Shape]) -> usize {
    let mut at = BUFFERS;
    let mut table = TABLES;
    let mut added = 0;
    for (readable, writable, framing) in shapes {
        let mut place = |lens: &[u32]| -> Vec<(GuestAddress, u32)> {
            lens.iter()
                .map(|&len| {
                    let buffer = (GuestAddress(at), len);
                    at += u64::from(len);
                    buffer
                })
                .collect()
        };
        let (readable, writable) = (place(readable), place(writable));
        let total = (readable.len() + writable.len()) as u16;
        let head = match *framing {
            None => driver.add(&readable, &writable),
            Some(direct) => {
                driver.add_mixed(direct.min(total - 1), GuestAddress(table), &readable, &writable)
            }
        };
        table += 16 * u64::from(total);
        match head.unwrap() {
            Some(_) => added += 1,
            None => break,
        }
    }
    added
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn both_implementations_see_and_write_the_same(
        event_idx: bool,
        start in prop_oneof![Just(0_u16), 65520..=65535_u16, any::<u16>()],
        rounds in prop::collection::vec(round(), 1..8),
    ) {
        let ours = three_regions();
        let other = three_regions();
        let config = QueueConfig { event_idx, ..QueueConfig::at(GuestAddress(RINGS), SIZE) };
        let mut driver = DriverQueue::starting_at(ours.map().unwrap(), config, start).unwrap();
        let mut device = DeviceQueue::resume(ours.memory().clone(), config, start, start).unwrap();
        let mut oracle = theirs(&config, start);
        let _ = device.enable_kicks();
        let mut first = true;

        for (shapes, order, sleeps) in rounds {
            let added = add_all(&mut driver, &shapes);
            let _ = driver.publish();
            copy_memory(ours.memory(), other.memory());
            let mem = other.memory().as_ref();

            let mut heads = Vec::new();
            let mut chain = device.new_chain();
            while device.pop(&mut chain).unwrap() {
                let expected = oracle.pop_descriptor_chain(mem).expect("the oracle has a chain too");
                prop_assert_eq!(chain.head(), expected.head_index());
                prop_assert_eq!(our_pieces(ours.memory(), &chain), their_pieces(expected));
                heads.push((chain.head(), chain.writable().len_bytes() as u32));
            }
            prop_assert_eq!(heads.len(), added);
            prop_assert!(oracle.pop_descriptor_chain(mem).is_none());
            prop_assert_eq!(device.next_avail(), oracle.next_avail());

            // Complete in some other order, and publish all at once.
            heads.sort_by_key(|&(head, _)| (order >> (head % 64)) & 1);
            for &(head, written) in &heads {
                device.push(head, written).unwrap();
                oracle.add_used(mem, head, written).unwrap();
            }
            let interrupt = device.publish();
            prop_assert_eq!(device.next_used(), oracle.next_used());
            // virtio-queue does not know NO_INTERRUPT, and our first batch after `resume`
            // interrupts in any case.
            let wanted = oracle.needs_notification(mem).unwrap();
            if event_idx && !first {
                prop_assert_eq!(interrupt, wanted);
            }
            first = false;

            if sleeps {
                let work = device.enable_kicks();
                prop_assert_eq!(work, oracle.enable_notification(mem).unwrap());
            }
            // The used ring and, where kicks were asked for, the request in it.
            let used = |mem: &GuestMemoryMmap| {
                let mut bytes = vec![0; 4 + 8 * usize::from(SIZE) + if sleeps { 2 } else { 0 }];
                mem.read_slice(&mut bytes, config.used_ring).unwrap();
                bytes
            };
            prop_assert_eq!(used(ours.memory()), used(other.memory()));

            while driver.pop_used().unwrap().is_some() {}
            if sleeps {
                prop_assert!(!driver.enable_interrupts());
            }
        }
    }
}

#[test]
fn a_chain_of_the_oracles_own_driver_is_read_the_same() {
    let ram = GuestRam::new(0x1_0000).unwrap();
    let mock = MockSplitQueue::create(ram.memory().as_ref(), GuestAddress(RINGS), SIZE);
    let chain = [(0x8000, 16, 0), (0x9000, 512, Descriptor::WRITE), (0x9300, 1, Descriptor::WRITE)];
    let raw: Vec<RawDescriptor> = chain
        .iter()
        .map(|&(addr, len, flags)| RawDescriptor::from(Theirs::new(addr, len, flags, 0)))
        .collect();
    let expected: Pieces = mock
        .build_desc_chain(&raw)
        .unwrap()
        .map(|descriptor| (descriptor.addr().0, u64::from(descriptor.len()), descriptor.is_write_only()))
        .collect();

    let config = QueueConfig {
        size: SIZE,
        desc_table: mock.desc_table_addr(),
        avail_ring: mock.avail_addr(),
        used_ring: mock.used_addr(),
        event_idx: false,
        indirect: false,
    };
    let mut device = DeviceQueue::new(ram.memory().clone(), config).unwrap();
    let chain = pop_one(&mut device);
    let seen = our_pieces(ram.memory(), &chain);
    assert_eq!(seen, expected);
    assert_eq!(seen.len(), 3);
    device.push(chain.head(), 513).unwrap();
    assert!(device.publish());
    assert_eq!(mock.used().idx().load(), 1);
    let entry = mock.used().ring().ref_at(0).unwrap().load();
    assert_eq!((entry.id(), entry.len()), (u32::from(chain.head()), 513));
}

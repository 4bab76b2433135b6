//! Driver and device against a simple model: each chain is completed exactly once, and neither side
//! sleeps while it has work.

use std::collections::{HashMap, VecDeque};

use proptest::prelude::*;

use super::support::*;

/// Each chain gets a slot of guest memory of its own for its buffers and its table.
const SLOTS: u64 = 0x8000;
const SLOT_BYTES: u64 = 0x400;
const SIZE: u16 = 8;

#[derive(Clone, Copy, Debug)]
enum Framing {
    Direct,
    Indirect,
    Mixed(u16),
}

#[derive(Clone, Debug)]
enum Op {
    /// The guest adds chains with these readable and writable piece lengths, then publishes all of
    /// them at once.
    Add(Vec<(Vec<u32>, Vec<u32>, Framing)>),
    /// The device runs if it is awake: pops up to so many chains.
    Pop(usize),
    /// The device completes up to so many of the chains it holds, from this position on, then
    /// publishes.
    Complete(usize, usize),
    /// The device goes to sleep unless work came.
    DeviceSleeps,
    /// The guest takes up to so many completions.
    Take(usize),
    /// The guest goes to sleep unless completions came.
    GuestSleeps,
}

fn framing() -> impl Strategy<Value = Framing> {
    prop_oneof![
        3 => Just(Framing::Direct),
        3 => Just(Framing::Indirect),
        2 => (0..4_u16).prop_map(Framing::Mixed),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    let pieces = || prop::collection::vec(1..60_u32, 0..4);
    let chain = (pieces(), pieces(), framing())
        .prop_filter("a chain has a buffer", |(r, w, _)| r.len() + w.len() > 0);
    prop_oneof![
        6 => prop::collection::vec(chain, 1..4).prop_map(Op::Add),
        5 => (1..5_usize).prop_map(Op::Pop),
        5 => (any::<usize>(), 1..5_usize).prop_map(|(which, count)| Op::Complete(which, count)),
        3 => Just(Op::DeviceSleeps),
        5 => (1..5_usize).prop_map(Op::Take),
        3 => Just(Op::GuestSleeps),
    ]
}

/// What the guest expects of a chain in flight.
struct Expected {
    slot: u64,
    request: Vec<u8>,
    writable: Vec<(GuestAddress, u32)>,
    response: Vec<u8>,
}

/// Both sides, and the state that each of them assumes.
struct World<M> {
    mem: Arc<M>,
    driver: DriverQueue<M>,
    device: DeviceQueue<M>,
    free_slots: Vec<u64>,
    expected: HashMap<u16, Expected>,
    held: Vec<Chain<M>>,
    /// In the order of publication, as the device must pop them.
    published: VecDeque<u16>,
    completed: usize,
    taken: usize,
    device_asleep: bool,
    guest_asleep: bool,
    serial: u8,
    kicks: usize,
    interrupts: usize,
}

impl World<GuestMemoryMmap> {
    /// The guest and the device each have their own mapping.
    fn new(event_idx: bool, start: u16) -> Self {
        let ram = three_regions();
        Self::over(ram.map().unwrap(), ram.memory().clone(), event_idx, start)
    }
}

impl<M: GuestMemoryBackend + 'static> World<M> {
    fn over(guest: Arc<M>, mem: Arc<M>, event_idx: bool, start: u16) -> Self {
        let config = QueueConfig { event_idx, ..QueueConfig::at(GuestAddress(RINGS), SIZE) };
        let driver = DriverQueue::starting_at(guest, config, start).unwrap();
        let device = DeviceQueue::resume(Arc::clone(&mem), config, start, start).unwrap();
        Self {
            mem,
            driver,
            device,
            free_slots: (0..24).map(|slot| SLOTS + slot * SLOT_BYTES).collect(),
            expected: HashMap::new(),
            held: Vec::new(),
            published: VecDeque::new(),
            completed: 0,
            taken: 0,
            device_asleep: false,
            guest_asleep: false,
            serial: 0,
            kicks: 0,
            interrupts: 0,
        }
    }

    fn add(&mut self, readable: &[u32], writable: &[u32], framing: Framing) {
        let Some(slot) = self.free_slots.pop() else { return };
        self.serial = self.serial.wrapping_add(1);
        let mut at = slot + 0x100;
        let mut place = |lens: &[u32]| -> Vec<(GuestAddress, u32)> {
            lens.iter()
                .map(|&len| {
                    let buffer = (GuestAddress(at), len);
                    at += u64::from(len) + 1;
                    buffer
                })
                .collect()
        };
        let (readable, writable) = (place(readable), place(writable));
        let mut request = Vec::new();
        for &(addr, len) in &readable {
            let bytes: Vec<u8> = (0..len).map(|byte| (byte as u8).wrapping_mul(31) ^ self.serial).collect();
            self.mem.write_slice(&bytes, addr).unwrap();
            request.extend(bytes);
        }
        let total = readable.len() + writable.len();
        let before = self.driver.free_descriptors();
        let (head, takes) = match framing {
            Framing::Direct => (self.driver.add(&readable, &writable), total as u16),
            Framing::Indirect => (self.driver.add_indirect(GuestAddress(slot), &readable, &writable), 1),
            Framing::Mixed(direct) => {
                let direct = direct.min(total as u16 - 1);
                (self.driver.add_mixed(direct, GuestAddress(slot), &readable, &writable), direct + 1)
            }
        };
        match head.unwrap() {
            Some(head) => {
                assert_eq!(self.driver.free_descriptors(), before - takes);
                let expected = Expected { slot, request, writable, response: Vec::new() };
                assert!(self.expected.insert(head, expected).is_none(), "a head is given out once");
                self.published.push_back(head);
            }
            None => {
                assert!(before < takes, "room for {takes} descriptors in {before}");
                self.free_slots.push(slot);
            }
        }
    }

    fn publish(&mut self) {
        let kick = self.driver.publish();
        // All of `published` is visible now. A side that sleeps must be woken, and a side that
        // was already woken or never slept must not be notified.
        if self.device_asleep {
            assert_eq!(kick, !self.published.is_empty(), "kick of a sleeping device");
            if kick {
                self.device_asleep = false;
                self.device.disable_kicks();
            }
        } else {
            assert!(!kick, "a kick for a device that is awake");
        }
        self.kicks += usize::from(kick);
    }

    fn pop(&mut self, count: usize) {
        if self.device_asleep {
            return;
        }
        self.device.disable_kicks();
        for _ in 0..count {
            let mut chain = self.device.new_chain();
            if !self.device.pop(&mut chain).unwrap() {
                assert!(self.published.is_empty(), "the device missed a chain");
                return;
            }
            assert_eq!(
                Some(chain.head()),
                self.published.pop_front(),
                "chains come in the order of publication"
            );
            let expected = &self.expected[&chain.head()];
            let mut request = vec![0; chain.readable().len_bytes() as usize];
            assert_eq!(chain.readable().copy_to(0, &mut request), request.len());
            assert_eq!(request, expected.request);
            let writable: u64 = expected.writable.iter().map(|buffer| u64::from(buffer.1)).sum();
            assert_eq!(chain.writable().len_bytes(), writable);
            self.held.push(chain);
        }
    }

    fn complete(&mut self, which: usize, count: usize) {
        for _ in 0..count.min(self.held.len()) {
            let chain = self.held.swap_remove(which % self.held.len());
            let expected = self.expected.get_mut(&chain.head()).unwrap();
            let len = chain.writable().len_bytes() as usize;
            expected.response = (0..len).map(|byte| !(byte as u8) ^ chain.head() as u8).collect();
            assert_eq!(chain.writable().copy_from(0, &expected.response), len);
            self.device.push(chain.head(), len as u32).unwrap();
            self.completed += 1;
        }
        let interrupt = self.device.publish();
        if self.guest_asleep {
            assert_eq!(interrupt, self.completed > self.taken, "interrupt of a sleeping guest");
            if interrupt {
                self.guest_asleep = false;
                self.driver.disable_interrupts();
            }
        } else {
            // The first batch of a resumed device interrupts in any case.
            assert!(!interrupt || self.interrupts == 0, "an interrupt for a guest that is awake");
        }
        self.interrupts += usize::from(interrupt);
    }

    fn take(&mut self, count: usize) {
        if self.guest_asleep {
            return;
        }
        self.driver.disable_interrupts();
        for _ in 0..count {
            let Some((head, written)) = self.driver.pop_used().unwrap() else {
                assert_eq!(self.taken, self.completed, "the guest missed a completion");
                return;
            };
            self.taken += 1;
            let expected = self.expected.remove(&head).expect("a head comes back once");
            assert_eq!(written as usize, expected.response.len());
            let mut response = Vec::new();
            for &(addr, len) in &expected.writable {
                let mut bytes = vec![0; len as usize];
                self.mem.read_slice(&mut bytes, addr).unwrap();
                response.extend(bytes);
            }
            assert_eq!(response, expected.response);
            self.free_slots.push(expected.slot);
        }
    }

    fn run(&mut self, op: &Op) {
        match op {
            Op::Add(chains) => {
                for (readable, writable, framing) in chains {
                    self.add(readable, writable, *framing);
                }
                self.publish();
            }
            Op::Pop(count) => self.pop(*count),
            Op::Complete(which, count) => self.complete(*which, *count),
            Op::DeviceSleeps => {
                let work = self.device.enable_kicks();
                assert_eq!(work, !self.published.is_empty(), "the look before sleeping");
                self.device_asleep = !work;
                if work {
                    self.device.disable_kicks();
                }
            }
            Op::Take(count) => self.take(*count),
            Op::GuestSleeps => {
                let work = self.driver.enable_interrupts();
                assert_eq!(work, self.completed > self.taken, "the look before sleeping");
                self.guest_asleep = !work;
                if work {
                    self.driver.disable_interrupts();
                }
            }
        }
        assert_eq!(usize::from(self.device.in_flight()), self.held.len());
        assert_eq!(usize::from(self.driver.in_flight()), self.expected.len());
    }

    /// Lets both sides finish all work, then checks that nothing is left.
    fn drain(&mut self) {
        while !self.expected.is_empty() {
            let before = (self.published.len(), self.held.len(), self.expected.len());
            // No forced wake-up here: a side that sleeps now was never notified, and the loop would not
            // end.
            self.pop(usize::MAX);
            if !self.held.is_empty() {
                self.complete(0, usize::MAX);
            }
            self.take(usize::MAX);
            let after = (self.published.len(), self.held.len(), self.expected.len());
            assert_ne!(before, after, "a side sleeps beside work");
        }
        assert_eq!(self.driver.free_descriptors(), SIZE);
        assert_eq!(self.device.next_avail(), self.device.next_used());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn chains_go_round_trip_and_no_wake_up_is_lost(
        event_idx: bool,
        start in prop_oneof![Just(0_u16), 65500..=65535_u16, 32750..32780_u16, any::<u16>()],
        ops in prop::collection::vec(op(), 1..120),
    ) {
        let mut world = World::new(event_idx, start);
        world.device.disable_kicks();
        world.driver.disable_interrupts();
        for op in &ops {
            world.run(op);
        }
        world.drain();
    }

    #[test]
    fn chains_go_round_trip_in_the_memory_of_vm_memory(
        event_idx: bool,
        start in prop_oneof![Just(0_u16), 65500..=65535_u16],
        ops in prop::collection::vec(op(), 1..60),
    ) {
        // Anonymous memory, one mapping for both sides.
        let regions = [(LOW, LOW_END), (LOW_END, MIDDLE_END), (HIGH, HIGH_END)];
        let ranges = regions.map(|(start, end)| (GuestAddress(start), (end - start) as usize));
        let mem = Arc::new(VmMemory::from_ranges(&ranges).unwrap());
        let mut world = World::over(Arc::clone(&mem), mem, event_idx, start);
        world.device.disable_kicks();
        world.driver.disable_interrupts();
        for op in &ops {
            world.run(op);
        }
        world.drain();
    }
}

/// Every index passes 65535 several times in one queue, in batches of every size.
#[test]
fn all_indices_wrap() {
    for event_idx in [true, false] {
        let mut world = World::new(event_idx, 65_000);
        let mut chains = 0_u32;
        while chains < 200_000 {
            let batch = 1 + chains % 7;
            for _ in 0..batch {
                world.driver.add(&[], &[(GuestAddress(SLOTS), 1)]).unwrap().unwrap();
            }
            let _ = world.driver.publish();
            let mut chain = world.device.new_chain();
            for _ in 0..batch {
                assert!(world.device.pop(&mut chain).unwrap());
                world.device.push(chain.head(), 1).unwrap();
            }
            assert!(!world.device.pop(&mut chain).unwrap());
            let _ = world.device.publish();
            for _ in 0..batch {
                assert!(world.driver.pop_used().unwrap().is_some());
            }
            assert_eq!(world.driver.pop_used(), Ok(None));
            chains += batch;
        }
        let end = 65_000_u16.wrapping_add(chains as u16);
        assert_eq!((world.device.next_avail(), world.device.next_used()), (end, end));
        assert_eq!(world.driver.used_idx(), end);
    }
}

/// One used.idx store and one decision for a batch: an interrupt for the batch, not for each chain.
#[test]
fn a_batch_is_one_notification() {
    for event_idx in [true, false] {
        let mut world = World::new(event_idx, 65_533);
        assert!(!world.device.enable_kicks());
        assert!(!world.driver.enable_interrupts());
        for round in 0..10 {
            for _ in 0..SIZE {
                world.driver.add(&[], &[(GuestAddress(SLOTS), 1)]).unwrap().unwrap();
            }
            assert_eq!(world.driver.used_idx(), 65_533_u16.wrapping_add(round * SIZE));
            assert!(world.driver.publish());
            assert!(!world.driver.publish(), "nothing new, nothing to tell");
            let mut chain = world.device.new_chain();
            while world.device.pop(&mut chain).unwrap() {
                world.device.push(chain.head(), 1).unwrap();
                assert_eq!(
                    world.driver.used_idx(),
                    65_533_u16.wrapping_add(round * SIZE),
                    "a push shows nothing before publish"
                );
            }
            assert!(world.device.publish());
            assert!(!world.device.publish(), "nothing new, nothing to tell");
            assert!(!world.device.enable_kicks());
            for _ in 0..SIZE {
                assert!(world.driver.pop_used().unwrap().is_some());
            }
            assert!(!world.driver.enable_interrupts());
        }
    }
}

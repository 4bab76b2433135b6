//! A queue whose process is killed before each of its stores.

use std::any::Any;
use std::cell::Cell;
use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;

use proptest::prelude::*;
use vm_memory::Bytes;

use super::{Inflight, InflightQueue, InflightRegion, inflight};
use crate::memory::{GuestAddress, GuestRam};
use crate::queue::InFlightLog;
use crate::virtqueue::{Chain, DeviceQueue, DriverQueue, QueueConfig};

thread_local! {
    /// Number of steps before the kill. `None`: not killed.
    static LEFT: Cell<Option<u32>> = const { Cell::new(None) };
}

/// The panic payload that simulates the kill.
struct Killed;

/// A point where the process may be killed.
pub(in super::super) fn kill_point() {
    match LEFT.get() {
        Some(0) => resume_unwind(Box::new(Killed)),
        Some(left) => LEFT.set(Some(left - 1)),
        None => {}
    }
}

/// Runs `life` and kills it before its step number `steps`, if it gets there. Returns `None` if it
/// was killed.
fn killed_after<T>(steps: Option<u32>, life: impl FnOnce() -> T) -> Option<T> {
    LEFT.set(steps);
    let result = catch_unwind(AssertUnwindSafe(life));
    LEFT.set(None);
    match result {
        Ok(value) => Some(value),
        Err(payload) if (payload.as_ref() as &dyn Any).is::<Killed>() => None,
        Err(payload) => resume_unwind(payload),
    }
}

const SIZE: u16 = 4;
/// Requests are identified by a number in their readable buffer; buffer `n` contains `n`.
const BUFFERS: u64 = 0x4000;
const NUMBERS: u32 = 512;

/// The state that survives the server: guest, rings and region, and what the test knows about them.
struct World {
    config: QueueConfig,
    ram: GuestRam,
    driver: DriverQueue,
    description: Inflight,
    region: File,
    /// The request of each head that the driver has in flight.
    number_of: HashMap<u16, u32>,
    /// Numbers of the requests that were made available and not completed, in the order in which
    /// they became available.
    waiting: VecDeque<u32>,
    made: u32,
    completed: u32,
}

/// The state that is lost in a kill.
struct Server {
    device: DeviceQueue,
    inflight: InflightQueue,
    /// Popped and not pushed: head and number, in the order in which they were popped.
    pending: Vec<(u16, u32)>,
    chain: Chain,
    /// Pushed and not published.
    pushed: Vec<u32>,
}

impl World {
    fn new(start: u16) -> Self {
        let ram = GuestRam::new(64 << 10).unwrap();
        for number in 0..NUMBERS {
            let at = GuestAddress(BUFFERS + 4 * u64::from(number));
            ram.memory().write_obj(number, at).unwrap();
        }
        let config = QueueConfig::at(GuestAddress(0), SIZE);
        let driver = DriverQueue::starting_at(ram.map().unwrap(), config, start).unwrap();
        let (description, fd) = InflightRegion::create(&inflight(1, SIZE), 1).unwrap();
        Self {
            config,
            driver,
            ram,
            description,
            region: fd.into(),
            number_of: HashMap::new(),
            waiting: VecDeque::new(),
            made: 0,
            completed: 0,
        }
    }

    /// Restores the initial state without creating new mappings.
    fn reset(&mut self, start: u16) {
        let zeroes = vec![0; self.description.mmap_size as usize];
        self.region.write_all_at(&zeroes, 0).unwrap();
        self.driver = DriverQueue::starting_at(Arc::clone(self.ram.memory()), self.config, start).unwrap();
        self.number_of.clear();
        self.waiting.clear();
        (self.made, self.completed) = (0, 0);
    }

    /// Runs the driver: takes the completed requests, and makes as many requests available as fit,
    /// up to `requests` in total. Every second request has a chain of two descriptors, so that the
    /// heads vary.
    fn drive(&mut self, requests: u32) {
        while let Some((head, _)) =
            self.driver.pop_used().expect("the device must only complete chains that are in flight")
        {
            let number = self
                .number_of
                .remove(&head)
                .expect("the device must only complete heads that the driver made available");
            let at = self.waiting.iter().position(|&waiting| waiting == number);
            self.waiting.remove(at.expect("a request must be completed only once"));
            self.completed += 1;
        }
        while self.made < requests {
            let buffer = [(GuestAddress(BUFFERS + 4 * u64::from(self.made)), 4)];
            let writable: &[_] = if self.made % 2 == 1 { &[(GuestAddress(0x3000), 1)] } else { &[] };
            let Some(head) = self.driver.add(&buffer, writable).unwrap() else {
                break;
            };
            self.number_of.insert(head, self.made);
            self.waiting.push_back(self.made);
            self.made += 1;
        }
        let _ = self.driver.publish();
    }

    /// A new process takes over.
    fn serve(&self) -> Server {
        let fd = self.region.try_clone().unwrap().into();
        let region = InflightRegion::adopt(&self.description, fd, 1).unwrap();
        let mem = || Arc::clone(self.ram.memory());
        let used_idx = DeviceQueue::new(mem(), self.config).unwrap().used_idx_in_ring();
        let recovered = region.open(0, SIZE, used_idx).unwrap();
        let device = DeviceQueue::resume(mem(), self.config, recovered.next_avail, used_idx).unwrap();
        let mut server = Server {
            chain: device.new_chain(),
            device,
            inflight: recovered.queue,
            pending: Vec::new(),
            pushed: Vec::new(),
        };
        for head in recovered.heads {
            server.device.resubmit(head, &mut server.chain).unwrap();
            server.pending.push((head, server.number()));
        }
        server
    }

    /// Checks that the server took the uncompleted requests in the order in which the driver made
    /// them available: first those recovered as in flight, then the others. `waiting` is the list
    /// at the start of the server.
    fn check_taken(&self, taken: &[u32], waiting: &VecDeque<u32>) {
        assert!(
            waiting.iter().take(taken.len()).eq(taken),
            "taken: {taken:?}, expected in the order {waiting:?}"
        );
    }
}

impl Server {
    /// The number of the request in `chain`.
    fn number(&self) -> u32 {
        let mut bytes = [0; 4];
        assert_eq!(self.chain.readable().copy_to(0, &mut bytes), 4);
        u32::from_ne_bytes(bytes)
    }

    /// Pops a chain. Returns its number, or `None` if there was none.
    fn pop(&mut self) -> Option<u32> {
        kill_point();
        if !self.device.pop(&mut self.chain).unwrap() {
            return None;
        }
        let (head, number) = (self.chain.head(), self.number());
        self.inflight.popped(head);
        self.pending.push((head, number));
        Some(number)
    }

    fn complete(&mut self, which: usize) {
        if which >= self.pending.len() {
            return;
        }
        let (head, number) = self.pending.remove(which);
        kill_point();
        self.device.push(head, 0).unwrap();
        self.inflight.pushed(head);
        self.pushed.push(number);
    }

    fn publish(&mut self) {
        kill_point();
        let _ = self.device.publish();
        self.inflight.published();
        self.pushed.clear();
    }
}

/// One action of a server.
#[derive(Debug, Clone, Copy)]
enum Act {
    Pop,
    CompleteOldest,
    CompleteNewest,
    Publish,
}
const ACTS: [Act; 4] = [Act::Pop, Act::CompleteOldest, Act::CompleteNewest, Act::Publish];

/// Runs one server, from taking over until it has done `acts` or is killed before step `kill`.
/// Returns true if it was not killed.
fn life(world: &mut World, acts: &[Act], requests: u32, kill: Option<u32>) -> bool {
    world.drive(requests);
    let mut waiting = world.waiting.clone();
    let mut taken = Vec::new();
    let done = killed_after(kill, || {
        let mut server = world.serve();
        taken.extend(server.pending.iter().map(|&(_, number)| number));
        for act in acts {
            match act {
                Act::Pop => taken.extend(server.pop()),
                Act::CompleteOldest => server.complete(0),
                Act::CompleteNewest => server.complete(server.pending.len().saturating_sub(1)),
                Act::Publish => {
                    server.publish();
                    // A running driver reuses its heads immediately.
                    let before = world.made;
                    world.drive(requests);
                    waiting.extend(before..world.made);
                }
            }
        }
    });
    world.check_taken(&taken, &waiting);
    done.is_some()
}

/// Runs a last server that completes everything. Each request must be completed exactly once.
fn to_the_end(world: &mut World, requests: u32) {
    world.drive(requests);
    let mut server = world.serve();
    let mut taken: Vec<_> = server.pending.iter().map(|&(_, number)| number).collect();
    let mut waiting = world.waiting.clone();
    loop {
        while let Some(number) = server.pop() {
            taken.push(number);
        }
        if server.pending.is_empty() {
            break;
        }
        while !server.pending.is_empty() {
            server.complete(server.pending.len() / 2);
        }
        server.publish();
        let before = world.made;
        world.drive(requests);
        waiting.extend(before..world.made);
    }
    world.check_taken(&taken, &waiting);
    assert_eq!((taken.len(), world.waiting.len()), (waiting.len(), 0));
    assert_eq!((world.made, world.completed), (requests, requests));
    assert_eq!(world.driver.in_flight(), 0);
}

/// All sequences of `length` acts.
fn all_acts(length: u32) -> impl Iterator<Item = Vec<Act>> {
    (0..4_usize.pow(length))
        .map(move |number| (0..length).map(|place| ACTS[number / 4_usize.pow(place) % 4]).collect())
}

#[test]
fn a_server_may_be_killed_before_any_store() {
    const REQUESTS: u32 = 6;
    let mut world = World::new(0);
    let mut kills = 0;
    // Nothing interesting happens before the first pop. The initialisation of the region is covered
    // by other tests.
    let initialised = u32::from(SIZE) + 5;
    for acts in all_acts(5).map(|acts| [&[Act::Pop][..], &acts].concat()) {
        for kill in initialised.. {
            // Start close to the end of u16, so that the indices wrap around.
            world.reset(u16::MAX - 1);
            let lived = life(&mut world, &acts, REQUESTS, Some(kill));
            to_the_end(&mut world, REQUESTS);
            if lived {
                break;
            }
            kills += 1;
        }
    }
    assert!(kills > 8_000, "{kills} kills");
}

#[test]
fn a_server_may_be_killed_again_before_any_store_of_its_recovery() {
    const REQUESTS: u32 = 6;
    let mut world = World::new(0);
    let mut kills = 0;
    // The first server leaves a batch of two or three half published, because it is killed before
    // each of its last steps.
    let first = [
        Act::Pop,
        Act::Pop,
        Act::Pop,
        Act::CompleteNewest,
        Act::Publish,
        Act::Pop,
        Act::CompleteNewest,
        Act::CompleteOldest,
        Act::Publish,
    ];
    let second = [Act::CompleteOldest, Act::Pop, Act::CompleteNewest, Act::Publish, Act::Pop];
    for kill_first in 0.. {
        let mut lived_first = false;
        for kill_second in 0.. {
            let mut lived_second = false;
            for kill_third in 0.. {
                world.reset(7);
                lived_first = life(&mut world, &first, REQUESTS, Some(kill_first));
                lived_second = life(&mut world, &second, REQUESTS, Some(kill_second));
                let lived_third = life(&mut world, &second, REQUESTS, Some(kill_third));
                to_the_end(&mut world, REQUESTS);
                if lived_third {
                    break;
                }
                kills += 1;
            }
            if lived_second {
                break;
            }
        }
        if lived_first {
            break;
        }
    }
    assert!(kills > 5_000, "{kills} kills");
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => Just(Act::Pop),
        2 => Just(Act::CompleteOldest),
        2 => Just(Act::CompleteNewest),
        1 => Just(Act::Publish),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Many long-running servers, killed at arbitrary points.
    #[test]
    fn any_number_of_servers_may_be_killed_anywhere(
        start in any::<u16>(),
        lives in prop::collection::vec((prop::collection::vec(act(), 0..40), 0..100_u32), 0..12),
    ) {
        const REQUESTS: u32 = 100;
        let mut world = World::new(start);
        for (acts, kill) in &lives {
            life(&mut world, acts, REQUESTS, Some(*kill));
        }
        to_the_end(&mut world, REQUESTS);
    }
}

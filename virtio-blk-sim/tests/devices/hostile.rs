//! The table of malformed rings against each queue of the devices: the queue breaks or the chain is
//! answered, nothing beside the posted buffers changes, and after a reset and in a new session the
//! device works.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use virtio_blk_sim::chardev::Chardev;
use virtio_blk_sim::memory::{GuestAddress, GuestMemoryMmap, GuestRam};
use virtio_blk_sim::queue::{Device, Worker};
use virtio_blk_sim::vhost_user::Listening;
use virtio_blk_sim::virtqueue::{Descriptor, DriverQueue, MAX_CHAIN, QueueConfig, QueueError};
use vm_memory::{Bytes, GuestMemoryBackend, GuestMemoryRegion};

use super::console::console_server;
use super::console_device::Console;
use super::rig::{Lines, TestServer, Vmm, wait_until};
use super::rng_device::{Rng, served};

#[path = "../../src/virtqueue/tests/cases.rs"]
#[expect(dead_code, reason = "the ring's own tests look closer than a frontend can")]
mod cases;
#[path = "../../src/virtqueue/tests/guest_map.rs"]
#[expect(dead_code, reason = "the ring's own tests also have guests without canaries")]
mod guest_map;

use cases::{CASES, Case, Expect, Guest, config};
use guest_map::{CANARIES, HIGH, HIGH_END, LOW_END, MIDDLE_END, RINGS, three_regions_and_canaries};

/// The content of all guest memory, canaries included, by the start of each region.
fn snapshot(ram: &GuestRam) -> Vec<(u64, Vec<u8>)> {
    let read = |start: GuestAddress, len: u64| {
        let mut bytes = vec![0; len as usize];
        ram.memory().read_slice(&mut bytes, start).unwrap();
        (start.0, bytes)
    };
    ram.memory().iter().map(|region| read(region.start_addr(), region.len())).collect()
}

/// Where guest memory has changed, but for the places that the device may write.
fn strays(before: &[(u64, Vec<u8>)], ram: &GuestRam, allowed: &[(u64, u64)]) -> Vec<u64> {
    let may = |at: &u64| allowed.iter().any(|&(addr, len)| (addr..addr + len).contains(at));
    let regions = before.iter().zip(snapshot(ram));
    let changed = regions.flat_map(|((start, old), (_, new))| {
        let changed = |at: &usize| old[*at] != new[*at];
        (0..old.len()).filter(changed).map(|at| start + at as u64).collect::<Vec<_>>()
    });
    changed.filter(|at| !may(at)).collect()
}

/// One queue of a device.
struct Target<'a> {
    server: &'a TestServer,
    index: u8,
    /// Provides what the device needs to begin a chain.
    feed: &'a dyn Fn(),
    /// What the good chain gets written: 16 bytes are readable and 8 writable.
    written: u32,
}

impl Target<'_> {
    /// Starts the queue, and returns when the device has looked at its empty ring and sleeps.
    fn start<D: Device<Worker: Worker<Memory = GuestMemoryMmap>>>(
        &self,
        vmm: &mut Vmm,
        config: &QueueConfig,
    ) -> Lines {
        (self.feed)();
        let lines = vmm.start(self.index, config);
        wait_until("the first look at the ring", || {
            // The queue is not listed before it runs: a device need not offer REPLY_ACK.
            let index = usize::from(self.index);
            let looked = move |server: &Listening<D>| {
                server.stats().iter().any(|&(queue, stats)| queue == index && stats.drains > 0)
            };
            self.server.ask(looked)
        });
        lines
    }

    /// Posts a good chain on new rings.
    fn works<D: Device<Worker: Worker<Memory = GuestMemoryMmap>>>(&self, vmm: &mut Vmm, guest: &Guest) {
        let mut driver = DriverQueue::new(guest.ram.map().unwrap(), guest.config).unwrap();
        let lines = self.start::<D>(vmm, &guest.config);
        let head = driver.add(&[(GuestAddress(0x8000), 16)], &[(GuestAddress(0x9000), 8)]).unwrap().unwrap();
        assert!(driver.publish());
        lines.kick.notify().unwrap();
        wait_until("the good chain's answer", || driver.has_used());
        assert_eq!(driver.pop_used(), Ok(Some((head, self.written))));
        assert!(!lines.error.test_and_clear().unwrap());
    }

    fn row<D: Device<Worker: Worker<Memory = GuestMemoryMmap>>>(&self, case: &Case, config: QueueConfig) {
        let name = case.name;
        // Shown if the test fails.
        println!("{name}, queue {}, event_idx {}", self.index, config.event_idx);
        let mut guest = Guest::new(config);
        let mut vmm = Vmm::new(self.server, &guest.ram, &CANARIES);
        let lines = self.start::<D>(&mut vmm, &config);
        (case.set_up)(&mut guest);
        let before = snapshot(&guest.ram);
        // The device writes its ring, whose end is avail_event.
        let mut allowed = vec![(config.used_ring.0, QueueConfig::part_bytes(config.size).2)];
        let answers = match case.expect {
            // A head that comes twice is no violation once the first was answered, which these
            // devices do at once.
            Expect::Breaks { with: QueueError::HeadInFlight { head: 0 }, .. } => {
                allowed.push((0x8000, 16));
                Some(8)
            }
            Expect::Breaks { with: QueueError::HeadInFlight { .. }, .. } => Some(2),
            Expect::Breaks { .. } => None,
            // Returned with nothing written: these devices have no status.
            Expect::Refuses { .. } => Some(1),
            Expect::Serves(_, writable) => {
                allowed.extend(writable);
                Some(1)
            }
        };
        lines.kick.notify().unwrap();
        let mut broken = false;
        wait_until(name, || {
            // In this order: what comes before the error is seen with it.
            broken = lines.error.test_and_clear().unwrap();
            broken || answers == Some(guest.driver.used_idx())
        });
        assert_eq!(broken, answers.is_none(), "{name}");
        assert_eq!(strays(&before, &guest.ram, &allowed), [0_u64; 0], "{name}: written beside the buffers");
        vmm.frontend.reset_device().unwrap();
        // Requests are handled in order: with this answer, the queue of before is no longer listed.
        vmm.frontend.get_features().unwrap();
        self.works::<D>(&mut vmm, &guest);
        drop(vmm);
        self.works::<D>(&mut Vmm::new(self.server, &guest.ram, &CANARIES), &guest);
    }

    fn table<D: Device<Worker: Worker<Memory = GuestMemoryMmap>>>(&self) {
        for event_idx in [true, false] {
            for case in CASES {
                self.row::<D>(case, QueueConfig { event_idx, ..config() });
            }
        }
    }
}

#[test]
fn the_entropy_device_survives_each_malformed_ring() {
    let server = TestServer::new(served(), 0, |_| Box::new(()));
    Target { server: &server, index: 0, feed: &|| {}, written: 8 }.table::<Rng>();
}

/// So much input that no row takes all of it.
fn feed(chardev: &Chardev, mut client: &UnixStream) {
    const ENOUGH: usize = 4096;
    if chardev.buffered().0 < ENOUGH {
        client.write_all(&[0x5a; ENOUGH]).unwrap();
        wait_until("input", || chardev.buffered().0 >= ENOUGH);
    }
}

#[test]
fn the_consoles_queues_survive_each_malformed_ring() {
    let (server, chardev, path) = console_server(0);
    let client = UnixStream::connect(path).unwrap();
    wait_until("the client is served", || chardev.is_connected());
    let (input, sender) = (Arc::clone(&chardev), client.try_clone().unwrap());
    let target = Target { server: &server, index: 0, feed: &|| feed(&input, &sender), written: 8 };
    target.table::<Console>();
    // Nobody reads what the good chains sent, so it is discarded.
    drop((client, sender));
    wait_until("the client is gone", || !chardev.is_connected());
    let target = Target { server: &server, index: 1, feed: &|| {}, written: 0 };
    target.table::<Console>();
}

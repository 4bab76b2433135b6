//! Plays the source of a migration: copies memory while the device writes to it, and at the end the
//! copy must be the same.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

use aio::{AioContext, MonitorKind};
use virtio_blk_sim::blk::backend::Backend;
use virtio_blk_sim::memory::GuestAddress;
use vm_memory::Bytes;

use super::rig::{ALL, DATA, FAR, Guest, Log, PAGE, STATUS, Vmm};
use crate::server::{Setup, TempPath, TestServer};
use crate::{SECTORS, Watchdog};

const QUEUES: u16 = 2;
/// Pages of data buffers of each queue, in each region.
const BUFFERS: u64 = 64;

/// The pages that only devices write: data, status bytes and used rings.
fn written_by_devices(vmm: &Vmm) -> BTreeSet<u64> {
    let queues = u64::from(QUEUES);
    let rings = (0..QUEUES).map(|queue| vmm.config(queue).used_ring.0 / PAGE);
    let near = DATA / PAGE..DATA / PAGE + queues * BUFFERS;
    let far = FAR / PAGE..FAR / PAGE + queues * BUFFERS;
    near.chain(far).chain(STATUS / PAGE..STATUS / PAGE + queues).chain(rings).collect()
}

/// The memory of the destination: pages that were sent to it.
struct Copy<'a> {
    vmm: &'a Vmm,
    pages: std::collections::BTreeMap<u64, Vec<u8>>,
}

impl Copy<'_> {
    fn read(&self, page: u64) -> Vec<u8> {
        let mut bytes = vec![0; PAGE as usize];
        self.vmm.ram.memory().read_slice(&mut bytes, GuestAddress(page * PAGE)).unwrap();
        bytes
    }

    fn send(&mut self, pages: impl IntoIterator<Item = u64>) {
        for page in pages {
            self.pages.insert(page, self.read(page));
        }
    }

    fn differences(&self) -> Vec<u64> {
        let differs = |(page, sent): (&u64, &Vec<u8>)| (*sent != self.read(*page)).then_some(*page);
        self.pages.iter().filter_map(differs).collect()
    }
}

/// Reads random sectors to random places until `stop`, with up to `depth` requests in flight.
/// Returns how many it has read.
fn load(guest: &mut Guest, queue: u64, stop: &AtomicBool, depth: usize) -> u32 {
    let (mut seed, mut requests) = (queue + 1, 0);
    let mut random = move |below: u64| {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (seed >> 33) % below
    };
    while !stop.load(Ordering::Acquire) {
        for _ in 0..depth {
            let start = if random(2) == 0 { DATA } else { FAR };
            let sectors = 1 + random(8);
            let place = random(BUFFERS * 8 - sectors) * 512;
            let data = start + queue * BUFFERS * PAGE + place;
            guest.read(random(SECTORS - sectors), data, sectors as u32 * 512);
        }
        guest.kick();
        guest.wait(depth);
        requests += depth as u32;
    }
    requests
}

/// Migrates `rounds` times. Before each, and after, nothing is logged.
fn migrate(backend: Backend, monitor: MonitorKind, threads: usize, rounds: usize) {
    let builder = AioContext::builder().monitor(monitor);
    let setup = Setup { builder, backend, threads, queues: QUEUES, ..Setup::default() };
    let server = TestServer::new(setup);
    let mut vmm = Vmm::new(server.socket(), QUEUES, true);
    let mut guests: Vec<_> = (0..QUEUES).map(|queue| vmm.start(queue)).collect();
    let mut bases = [0_u32; QUEUES as usize];
    for round in 0..rounds {
        let stop = AtomicBool::new(false);
        let mut log = Log::new(ALL);
        let marked = std::thread::scope(|scope| {
            let running: Vec<_> = guests
                .iter_mut()
                .zip(0..)
                .map(|(guest, queue)| {
                    let stop = &stop;
                    scope.spawn(move || load(guest, queue, stop, 1 + 7 * (queue as usize)))
                })
                .collect();
            log.share(&mut vmm.frontend).unwrap();
            vmm.switch(true);
            let devices = written_by_devices(&vmm);
            let mut sent = std::collections::BTreeMap::new();
            let mut marked = 0;
            for pass in 0..30 {
                let mut copy = Copy { vmm: &vmm, pages: std::mem::take(&mut sent) };
                if pass == 0 {
                    copy.send(devices.iter().copied());
                }
                let pages = log.take();
                assert!(!pages.contains(&u64::MAX), "nothing is written outside the log");
                let foreign: Vec<_> = pages.difference(&devices).collect();
                assert!(foreign.is_empty(), "the device does not write {foreign:x?}");
                marked += pages.len();
                copy.send(pages);
                sent = copy.pages;
                if pass % 10 == 9 {
                    // Another log: what is in the old one when the answer is there is all of it.
                    let new = Log::new(ALL);
                    new.share(&mut vmm.frontend).unwrap();
                    let old = std::mem::replace(&mut log, new);
                    let mut copy = Copy { vmm: &vmm, pages: sent };
                    copy.send(old.take());
                    sent = copy.pages;
                    std::thread::sleep(std::time::Duration::from_millis(2));
                    assert!(old.take().is_empty(), "the old log is not used any more");
                }
            }
            // The guest stops, and then its device.
            stop.store(true, Ordering::Release);
            for ((base, running), queue) in bases.iter_mut().zip(running).zip(0..) {
                *base += running.join().unwrap();
                let stopped = vmm.frontend.get_vring_base(queue).unwrap();
                assert_eq!(stopped, *base & 0xffff, "no request is lost");
            }
            let mut copy = Copy { vmm: &vmm, pages: sent };
            copy.send(log.take());
            let differences = copy.differences();
            assert!(differences.is_empty(), "{monitor}, {threads} threads, round {round}: {differences:x?}");
            marked
        });
        assert!(marked > 0, "the device was at work");
        // The migration has failed, and the guest continues here.
        vmm.switch(false);
        for (queue, base) in (0..).zip(bases) {
            vmm.resume(queue, base & 0xffff);
        }
    }
    // While nothing is logged, nothing is marked.
    let log = Log::new(ALL);
    log.share(&mut vmm.frontend).unwrap();
    for (queue, guest) in (0..).zip(&mut guests) {
        guest.read(0, DATA + queue * BUFFERS * PAGE, 4096);
        guest.kick();
        guest.wait(1);
    }
    assert!(log.take().is_empty());
}

fn image() -> TempPath {
    let image = TempPath::new("img");
    let content: Vec<u8> = (0..SECTORS * 512).map(|at| (at / 512 * 7 + at % 13) as u8).collect();
    std::fs::write(&image, content).unwrap();
    image
}

#[test]
fn memory_is_copied_while_requests_are_in_flight() {
    let _watchdog = Watchdog::new("memory_is_copied_while_requests_are_in_flight");
    let image = image();
    for monitor in [MonitorKind::Epoll, MonitorKind::IoUring] {
        if AioContext::builder().monitor(monitor).build().is_err() {
            println!("skipped: no {monitor}");
            continue;
        }
        for threads in [0, 2] {
            migrate(Setup::file(&image), monitor, threads, 2);
        }
    }
}

/// A ring that was stopped and started again would count from zero.
#[test]
fn switching_the_log_under_load_loses_no_request_and_stops_no_ring() {
    let _watchdog = Watchdog::new("switching_the_log_under_load_loses_no_request_and_stops_no_ring");
    let image = image();
    for threads in [0, 2] {
        let backend = Setup::file(&image);
        let server = TestServer::new(Setup { backend, threads, queues: QUEUES, ..Setup::default() });
        let mut vmm = Vmm::new(server.socket(), QUEUES, true);
        let mut guests: Vec<_> = (0..QUEUES).map(|queue| vmm.start(queue)).collect();
        let stop = AtomicBool::new(false);
        let requests: u32 = std::thread::scope(|scope| {
            let load = |(guest, queue)| {
                let stop = &stop;
                scope.spawn(move || load(guest, queue, stop, 8))
            };
            let running: Vec<_> = guests.iter_mut().zip(0..).map(load).collect();
            for round in 0..150 {
                if round % 3 == 0 {
                    Log::new(ALL).share(&mut vmm.frontend).unwrap();
                }
                vmm.switch(round % 2 == 0);
            }
            stop.store(true, Ordering::Release);
            running.into_iter().map(|load| load.join().unwrap()).sum()
        });
        assert_eq!(server.answered(), u64::from(requests), "the counters of the rings");
        let bases = [0, 1].map(|queue| vmm.frontend.get_vring_base(queue).unwrap());
        assert_eq!(bases.iter().sum::<u32>(), requests);
    }
}

//! A frontend for a guest that writes its ring directly and checks every byte that changes in or
//! outside of it.

use std::os::fd::AsFd;

use aio::{EventNotifier, Reset};
use virtio_blk_sim::blk::device::Features;
use virtio_blk_sim::memory::{GuestAddress, GuestRam};
use virtio_blk_sim::vhost_user::{F_PROTOCOL_FEATURES, Frontend, MemoryRegion, ProtocolFeatures, VringAddr};
use virtio_blk_sim::virtqueue::{DriverQueue, QueueConfig};
use vm_memory::{Bytes, GuestMemoryBackend, GuestMemoryRegion};

use super::default_options;
use super::server::TestServer;

/// Offset between guest addresses and user addresses.
const USER_BASE: u64 = 0x7f00_0000_0000;

pub(crate) struct Session {
    pub(crate) frontend: Frontend,
    kick: EventNotifier,
    call: EventNotifier,
    error: EventNotifier,
}

impl Drop for Session {
    fn drop(&mut self) {
        super::client::hang_up(&self.frontend);
    }
}

impl Session {
    /// Shares all regions of the RAM, except those that start at a canary. In the file, the
    /// canaries are next to the shared regions.
    pub(crate) fn new(server: &TestServer, ram: &GuestRam, canaries: &[u64]) -> Self {
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
        let regions: Vec<_> = regions.filter(|(region, _)| !canaries.contains(&region.guest_addr)).collect();
        frontend.set_mem_table(&regions).unwrap();
        let [kick, call, error] = [(); 3].map(|()| EventNotifier::new(Reset::Classic).unwrap());
        Self { frontend, kick, call, error }
    }

    /// Returns the features that the device offers.
    pub(crate) fn offered(&mut self) -> Features {
        Features::from_bits(self.frontend.get_features().unwrap() & !F_PROTOCOL_FEATURES)
    }

    /// Starts the queue. Returns when the device has looked at its empty ring and sleeps.
    pub(crate) fn start(&mut self, server: &TestServer, queue: &QueueConfig, features: Features) {
        let frontend = &mut self.frontend;
        let mut features = features | Features::VERSION_1;
        for (on, feature) in
            [(queue.event_idx, Features::EVENT_IDX), (queue.indirect, Features::INDIRECT_DESC)]
        {
            features = if on { features | feature } else { features.without(feature) };
        }
        frontend.set_features(features.bits() | F_PROTOCOL_FEATURES).unwrap();
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

    pub(crate) fn ring_doorbell(&self) {
        self.kick.notify().unwrap();
    }

    /// Kicks, and waits until the device has completed `answers` chains or reports a ring error.
    /// Returns true if it reports an error.
    pub(crate) fn kick(&self, driver: &DriverQueue, answers: u16) -> bool {
        self.ring_doorbell();
        loop {
            // Read the error first, so that completions before it are seen.
            let broken = self.error.test_and_clear().unwrap();
            if broken || driver.used_idx() == answers {
                return broken;
            }
            std::thread::yield_now();
        }
    }

    /// Posts a read of the first sector, which contains zeros, on a newly set up ring.
    pub(crate) fn good_request(&mut self, server: &TestServer, ram: &GuestRam, queue: QueueConfig) {
        let mut driver = DriverQueue::new(ram.map().unwrap(), queue).unwrap();
        self.start(server, &queue, Features::NONE);
        // Discard an error that the broken queue reported earlier.
        self.error.test_and_clear().unwrap();
        let memory = ram.memory();
        memory.write_slice(&[0; 16], GuestAddress(0x8000)).unwrap();
        driver
            .add(&[(GuestAddress(0x8000), 16)], &[(GuestAddress(0x9000), 512), (GuestAddress(0x9200), 1)])
            .unwrap()
            .unwrap();
        let _ = driver.publish();
        assert!(!self.kick(&driver, 1));
        assert_eq!(driver.pop_used(), Ok(Some((0, 513))));
        let end: [u8; 2] = memory.read_obj(GuestAddress(0x91ff)).unwrap();
        assert_eq!(end, [0, 0], "the last byte and the status must be 0");
    }
}

/// Returns all bytes of guest memory, by region, including the canaries.
pub(crate) fn snapshot(ram: &GuestRam) -> Vec<(u64, Vec<u8>)> {
    let read = |start: GuestAddress, len: u64| {
        let mut bytes = vec![0; len as usize];
        ram.memory().read_slice(&mut bytes, start).unwrap();
        (start.0, bytes)
    };
    ram.memory().iter().map(|region| read(region.start_addr(), region.len())).collect()
}

/// Returns the addresses of changed bytes outside the ranges that the device may write.
pub(crate) fn strays(before: &[(u64, Vec<u8>)], ram: &GuestRam, allowed: &[(u64, u64)]) -> Vec<u64> {
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

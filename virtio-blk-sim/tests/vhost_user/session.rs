//! A frontend for a guest that writes its ring directly and checks every byte that changes in or
//! outside of it.

use std::os::fd::AsFd;

use aio::{EventNotifier, Reset};
use virtio_blk_sim::blk::device::Features;
use virtio_blk_sim::memory::{GuestAddress, GuestRam};
use virtio_blk_sim::vhost_user::{F_PROTOCOL_FEATURES, Frontend, ProtocolFeatures};
use virtio_blk_sim::virtqueue::{DriverQueue, QueueConfig};
use vm_memory::{Bytes, GuestMemoryBackend, GuestMemoryRegion};

use super::default_options;
use super::server::TestServer;
use super::vring::{Vring, hang_up, share_ram};

pub(crate) struct Session {
    pub(crate) frontend: Frontend,
    kick: EventNotifier,
    call: EventNotifier,
    error: EventNotifier,
}

impl Drop for Session {
    fn drop(&mut self) {
        hang_up(&self.frontend);
    }
}

impl Session {
    /// Shares all RAM regions except those whose start address is in `canaries`.
    pub(crate) fn new(server: &TestServer, ram: &GuestRam, canaries: &[u64]) -> Self {
        let mut frontend = Frontend::connect(server.socket(), default_options().timeout).unwrap();
        frontend.set_owner().unwrap();
        frontend.set_protocol_features(ProtocolFeatures::REPLY_ACK | ProtocolFeatures::RESET_DEVICE).unwrap();
        share_ram(&mut frontend, ram, canaries);
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
        let vring = Vring {
            index: 0,
            config: queue,
            base: 0,
            kick: self.kick.as_fd(),
            call: self.call.as_fd(),
            error: self.error.as_fd(),
        };
        vring.start(frontend, true).unwrap();
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

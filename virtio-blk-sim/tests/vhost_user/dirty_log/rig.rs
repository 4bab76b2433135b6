//! A VMM that shares a log, and a guest whose every write is known.
#![expect(unsafe_code, reason = "the log's bits are taken with an atomic exchange, like a VMM does it")]

use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use aio::{EventNotifier, Reset};
use virtio_blk_sim::blk::device::Features;
use virtio_blk_sim::memory::{GuestAddress, GuestMemoryMmap, GuestRam};
use virtio_blk_sim::vhost_user::{
    F_LOG_ALL, F_PROTOCOL_FEATURES, Frontend, FrontendError, LogArea, ProtocolFeatures, VringAddr,
};
use virtio_blk_sim::virtqueue::{DriverQueue, QueueConfig};
use vm_memory::{Bytes, GuestMemoryBackend};

use crate::default_options;
use crate::vring::{USER_BASE, Vring, hang_up, share_ram};

pub(super) const PAGE: u64 = 4096;

/// The queues' rings. Each part has pages of its own, so that each bit tells which part was
/// written.
const RINGS: u64 = 0;
const PER_QUEUE: u64 = 8 * PAGE;
/// Where the guest writes the headers of requests, one page for each queue.
const HEADERS: u64 = 0x2_0000;
/// Buffers, and a page for the status bytes of each queue.
pub(super) const STATUS: u64 = 0x3_0000;
pub(super) const DATA: u64 = 0x4_0000;
/// A second region of guest memory, far away.
pub(super) const FAR: u64 = 1 << 30;

const RAM: usize = 1 << 20;
const FAR_BYTES: usize = 1 << 20;

/// The log of a frontend: a sealed file, with more bytes than the area that is shared.
pub(super) struct Log {
    file: GuestRam,
    pub(super) area: LogArea,
}

/// Size of a log for all of the memory.
pub(super) const ALL: u64 = (FAR + FAR_BYTES as u64) / PAGE / 8;

impl Log {
    /// The area starts after a page of the file, and the file has a page after it.
    pub(super) fn new(bytes: u64) -> Self {
        let file = GuestRam::new((bytes.next_multiple_of(PAGE) + 2 * PAGE) as usize).unwrap();
        Self { file, area: LogArea { mmap_size: bytes, mmap_offset: PAGE } }
    }

    pub(super) fn share(&self, frontend: &mut Frontend) -> Result<(), FrontendError> {
        frontend.set_log_base(self.area, self.file.as_fd())
    }

    /// Takes the bits. Returns the pages, including those of bits outside the area, which must not
    /// be set: they are returned as `u64::MAX`.
    pub(super) fn take(&self) -> BTreeSet<u64> {
        let (start, end) = (self.area.mmap_offset, self.area.mmap_offset + self.area.mmap_size);
        let mut pages = BTreeSet::new();
        let bytes = self.file.file().metadata().unwrap().len();
        let first = self.file.memory().get_host_address(GuestAddress(0)).unwrap();
        for at in 0..bytes {
            // SAFETY: the whole file is mapped as long as `self.file`, and is sealed against
            // shrinking. Both sides change it atomically.
            let byte = unsafe { AtomicU8::from_ptr(first.wrapping_add(at as usize)) };
            if byte.load(Ordering::Relaxed) == 0 {
                continue;
            }
            let bits = byte.swap(0, Ordering::AcqRel);
            let set = (0..8).filter(|bit| bits & 1 << bit != 0);
            let inside = (start..end).contains(&at);
            pages.extend(set.map(|bit| if inside { (at - start) * 8 + bit } else { u64::MAX }));
        }
        pages
    }
}

/// A VMM and the memory of its guest.
pub(super) struct Vmm {
    pub(super) frontend: Frontend,
    pub(super) ram: GuestRam,
    kicks: Vec<EventNotifier>,
    pub(super) errors: Vec<EventNotifier>,
    event_idx: bool,
}

impl Drop for Vmm {
    fn drop(&mut self) {
        hang_up(&self.frontend);
    }
}

impl Vmm {
    pub(super) fn new(socket: impl AsRef<Path>, queues: u16, event_idx: bool) -> Self {
        let mut frontend = Frontend::connect(socket, default_options().timeout).unwrap();
        frontend.set_owner().unwrap();
        let offered = frontend.get_features().unwrap();
        assert_ne!(offered & F_LOG_ALL, 0);
        frontend.set_protocol_features(ProtocolFeatures::REPLY_ACK | ProtocolFeatures::LOG_SHMFD).unwrap();
        let ram = GuestRam::with_regions(&[(GuestAddress(0), RAM), (GuestAddress(FAR), FAR_BYTES)]).unwrap();
        share_ram(&mut frontend, &ram, &[]);
        let eventfds = || (0..queues).map(|_| EventNotifier::new(Reset::Classic).unwrap()).collect();
        let mut vmm = Self { frontend, ram, kicks: eventfds(), errors: eventfds(), event_idx };
        vmm.set_features(false).unwrap();
        vmm
    }

    /// The features, with or without LOG_ALL.
    pub(super) fn set_features(&mut self, log: bool) -> Result<(), FrontendError> {
        let device = Features::FLUSH | Features::DISCARD | Features::WRITE_ZEROES;
        let mut features = device | Features::VERSION_1 | Features::INDIRECT_DESC;
        if self.event_idx {
            features |= Features::EVENT_IDX;
        }
        let log = if log { F_LOG_ALL } else { 0 };
        self.frontend.set_features(features.bits() | F_PROTOCOL_FEATURES | log)
    }

    pub(super) fn config(&self, queue: u16) -> QueueConfig {
        let base = RINGS + u64::from(queue) * PER_QUEUE;
        QueueConfig {
            size: 64,
            desc_table: GuestAddress(base),
            avail_ring: GuestAddress(base + 2 * PAGE),
            used_ring: GuestAddress(base + 4 * PAGE),
            event_idx: self.event_idx,
            indirect: true,
        }
    }

    /// SET_VRING_ADDR: the used ring is logged at the address `log`, or not.
    pub(super) fn set_addr(&mut self, queue: u16, log: Option<u64>) -> Result<(), FrontendError> {
        let config = self.config(queue);
        self.frontend.set_vring_addr(VringAddr {
            index: queue.into(),
            flags: if log.is_some() { VringAddr::LOG } else { 0 },
            descriptor: USER_BASE + config.desc_table.0,
            used: USER_BASE + config.used_ring.0,
            available: USER_BASE + config.avail_ring.0,
            log: log.unwrap_or(0),
        })
    }

    /// Switches logging of everything on or off, like QEMU: the used ring is logged at its address.
    pub(super) fn switch(&mut self, on: bool) {
        self.set_features(on).unwrap();
        for queue in 0..self.kicks.len() as u16 {
            let used = self.config(queue).used_ring.0;
            self.set_addr(queue, on.then_some(used)).unwrap();
        }
    }

    /// Starts a queue at index `base`, and returns the guest of a new one.
    pub(super) fn start(&mut self, queue: u16) -> Guest {
        let config = self.config(queue);
        let memory = self.ram.map().unwrap();
        let driver = DriverQueue::new(memory.clone(), config).unwrap();
        self.resume(queue, 0);
        let kick = self.kicks[usize::from(queue)].clone();
        Guest { memory, driver, kick, queue, posted: 0 }
    }

    pub(super) fn resume(&mut self, queue: u16, base: u32) {
        let config = self.config(queue);
        let call = EventNotifier::new(Reset::Classic).unwrap();
        let (kick, error) = (&self.kicks[usize::from(queue)], &self.errors[usize::from(queue)]);
        let (index, kick, call, error) = (queue as u8, kick.as_fd(), call.as_fd(), error.as_fd());
        Vring { index, config: &config, base, kick, call, error }.start(&mut self.frontend, true).unwrap();
    }
}

/// The guest of one queue.
pub(super) struct Guest {
    pub(super) memory: Arc<GuestMemoryMmap>,
    pub(super) driver: DriverQueue,
    kick: EventNotifier,
    queue: u16,
    posted: u64,
}

impl Guest {
    /// Writes the header of the next request; returns its address and that of its status.
    pub(super) fn header(&mut self, kind: u32, sector: u64) -> (GuestAddress, GuestAddress) {
        let page = u64::from(self.queue) * PAGE;
        let slot = self.posted % 64;
        self.posted += 1;
        let header = GuestAddress(HEADERS + page + slot * 64);
        self.memory.write_obj(kind, header).unwrap();
        self.memory.write_obj(sector, GuestAddress(header.0 + 8)).unwrap();
        (header, GuestAddress(STATUS + page + slot))
    }

    /// Posts a chain without a kick.
    pub(super) fn add(&mut self, readable: &[(GuestAddress, u32)], writable: &[(GuestAddress, u32)]) {
        self.driver.add(readable, writable).unwrap().unwrap();
    }

    /// Posts a read of `len` bytes to `data`, without a kick.
    pub(super) fn read(&mut self, sector: u64, data: u64, len: u32) {
        let (header, status) = self.header(0, sector);
        self.add(&[(header, 16)], &[(GuestAddress(data), len), (status, 1)]);
    }

    /// Makes what was posted available, and kicks in any case.
    pub(super) fn kick(&mut self) {
        let _ = self.driver.publish();
        self.kick.notify().unwrap();
    }

    /// Waits for `count` answers.
    pub(super) fn wait(&mut self, count: usize) {
        let mut left = count;
        while left > 0 {
            match self.driver.pop_used().unwrap() {
                Some(_) => left -= 1,
                None => std::thread::yield_now(),
            }
        }
    }
}

//! A disk with a queue on a loop, and a driver that posts one request after the other.

use std::sync::Arc;

use aio::{AioContext, EventNotifier, Reset};
use virtio_blk_sim::blk::backend::Backend;
use virtio_blk_sim::blk::device::{BlockDevice, DeviceConfig};
use virtio_blk_sim::blk::{Attached, BlkQueue, Disk};
use virtio_blk_sim::memory::{GuestAddress, GuestMemoryMmap, GuestRam};
use virtio_blk_sim::metrics::Meters;
use virtio_blk_sim::queue::{Device, Interrupt, QueueParts};
use virtio_blk_sim::virtqueue::{DeviceQueue, DriverQueue, QueueConfig};
use vm_memory::Bytes;

pub(crate) const SECTORS: u64 = 2048;
const QUEUE_SIZE: u16 = 256;
const HEADERS: u64 = 0x8000;
const DATA: GuestAddress = GuestAddress(0x1_0000);
const STATUS: u64 = 0x9000;

/// A request: its type, its sector, and how many bytes it has to read and to write.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Posted(pub(crate) u32, pub(crate) u64, pub(crate) u32, pub(crate) u32);

pub(crate) const READ: Posted = Posted(0, 0, 0, 4096);
pub(crate) const WRITE: Posted = Posted(1, 8, 8192, 0);
pub(crate) const FLUSH: Posted = Posted(4, 0, 0, 0);
pub(crate) const GET_ID: Posted = Posted(8, 0, 0, 20);
pub(crate) const DISCARD: Posted = Posted(11, 0, 16, 0);
pub(crate) const ZEROES: Posted = Posted(13, 0, 16, 0);
pub(crate) const UNKNOWN: Posted = Posted(99, 0, 0, 512);

/// The guest of one queue. It can be sent to the thread of the queue's loop.
pub(crate) struct Guest {
    ram: GuestRam,
    memory: Arc<GuestMemoryMmap>,
    driver: DriverQueue,
    config: QueueConfig,
    kick: EventNotifier,
    /// Chains that were posted, and those that were answered.
    pub(crate) posted: u16,
    pub(crate) answered: u16,
}

impl Guest {
    pub(crate) fn new() -> Self {
        let ram = GuestRam::new(1 << 20).unwrap();
        let memory = ram.map().unwrap();
        let config = QueueConfig::at(GuestAddress(0), QUEUE_SIZE);
        let driver = DriverQueue::new(memory.clone(), config).unwrap();
        // A discard and a write of zeros cover eight sectors.
        memory.write_obj(16_u64, DATA).unwrap();
        memory.write_obj(8_u32, GuestAddress(DATA.0 + 8)).unwrap();
        let kick = EventNotifier::new(Reset::Autoreset).unwrap();
        Self { ram, memory, driver, config, kick, posted: 0, answered: 0 }
    }

    /// Makes a request available.
    pub(crate) fn post(&mut self, Posted(kind, sector, out, into): Posted) {
        let header = GuestAddress(HEADERS + u64::from(self.posted % QUEUE_SIZE) * 16);
        self.memory.write_obj(u64::from(kind), header).unwrap();
        self.memory.write_obj(sector, GuestAddress(header.0 + 8)).unwrap();
        let status = GuestAddress(STATUS + u64::from(self.posted % QUEUE_SIZE));
        let readable = [(header, 16), (DATA, out)];
        let writable = [(GuestAddress(DATA.0 + 0x1_0000), into), (status, 1)];
        let readable = if out > 0 { &readable[..] } else { &readable[..1] };
        let writable = if into > 0 { &writable[..] } else { &writable[1..] };
        self.driver.add(readable, writable).unwrap().unwrap();
        if self.driver.publish() {
            self.kick.notify().unwrap();
        }
        self.posted += 1;
    }

    /// Turns the loop until everything is answered.
    pub(crate) fn finish(&mut self, context: &AioContext) {
        while self.answered < self.posted {
            while self.driver.pop_used().unwrap().is_some() {
                self.answered += 1;
            }
            context.poll(self.answered < self.posted).unwrap();
        }
    }

    /// Starts the queue `index` of a disk.
    pub(crate) fn attach(&self, context: &AioContext, disk: &Arc<Disk>, index: u16) -> Attached {
        let parts = QueueParts {
            queue: DeviceQueue::resume(self.ram.memory().clone(), self.config, self.answered, self.answered)
                .unwrap(),
            kick: self.kick.clone().into(),
            interrupt: Interrupt::None,
            on_broken: Box::new(|error| panic!("the queue broke: {error}")),
            limit: None,
            in_flight: None,
            memory_lost: None,
        };
        let start = |queue| Arc::clone(disk).start(index, context, queue);
        BlkQueue::attach(context, parts, start).unwrap()
    }
}

/// A disk whose driver has negotiated everything.
pub(crate) fn disk(backend: Backend, queues: u16) -> (Arc<Disk>, Meters) {
    let device = BlockDevice::new(DeviceConfig { num_queues: queues, ..DeviceConfig::new(SECTORS) }).unwrap();
    device.negotiate(device.offered()).unwrap();
    let meters = Meters::new(queues);
    (Arc::new(Disk::new(device, backend).metered(&meters)), meters)
}

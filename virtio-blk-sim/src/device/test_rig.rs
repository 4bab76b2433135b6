//! A guest with one queue, and a device at its other end: what tests of the device and of the backends run
//! on.
//!
//! A test says which bytes the guest posts, in which pieces, and gets back what the guest then finds. That
//! nothing but the posted writable pieces changed is checked here, on every run.

use std::sync::Arc;

use vm_memory::Bytes;

use super::{BlockDevice, DeviceConfig, FinishedRequest, PendingRequest, RequestError, RequestSlot, Started};
use crate::memory::{GuestAddress, GuestMemoryMmap, GuestRam};
use crate::virtqueue::{DeviceQueue, DriverQueue, QueueConfig};

/// What guest memory is full of, apart from what is posted. Not a status, and not in [`disk_content`].
pub(crate) const BACKGROUND: u8 = 0xee;

const RAM_SIZE: usize = 1 << 20;
/// Buffers start here; the rings are below.
const BUFFERS: u64 = 0x4000;

/// A disk on which each sector is different and no byte is 0, 0xee, 0xef or over.
pub(crate) fn disk_content(sectors: u64) -> Vec<u8> {
    (0..sectors * 512).map(|at| (1 + (at / 512 * 31 + at % 512 * 7) % 200) as u8).collect()
}

/// A request header.
pub(crate) fn header(kind: u32, sector: u64) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes()].concat()
}

/// A range of a discard or write zeroes request.
pub(crate) fn range(sector: u64, sectors: u32, flags: u32) -> Vec<u8> {
    [&sector.to_le_bytes()[..], &sectors.to_le_bytes(), &flags.to_le_bytes()].concat()
}

/// Where a chain's readable and writable pieces are.
type Pieces = (Vec<(GuestAddress, u32)>, Vec<(GuestAddress, u32)>);

/// A chain to be posted: a descriptor for each piece.
#[derive(Debug, Clone, Default)]
pub(crate) struct Posted {
    readable: Vec<Vec<u8>>,
    writable: Vec<usize>,
}

impl Posted {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// As a driver usually does it: a header and a byte for the status, each apart, and the data between.
    pub(crate) fn request(kind: u32, sector: u64) -> Self {
        Self::new().readable(&header(kind, sector))
    }

    pub(crate) fn readable(mut self, bytes: &[u8]) -> Self {
        self.readable.push(bytes.to_vec());
        self
    }

    pub(crate) fn writable(mut self, len: usize) -> Self {
        self.writable.push(len);
        self
    }

    pub(crate) fn status(self) -> Self {
        self.writable(1)
    }

    pub(crate) fn writable_len(&self) -> usize {
        self.writable.iter().sum()
    }
}

/// What the guest finds.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    /// The used length.
    pub(crate) written: u32,
    /// All writable pieces, one after another.
    pub(crate) writable: Vec<u8>,
    /// Why the device refused the request without trying.
    pub(crate) error: Option<RequestError>,
}

impl Answer {
    /// The status byte; none if the guest posted none.
    pub(crate) fn status(&self) -> Option<u8> {
        self.writable.last().copied()
    }

    /// The writable part less the status byte.
    pub(crate) fn data(&self) -> &[u8] {
        self.writable.split_last().map_or(&[], |(_, data)| data)
    }
}

pub(crate) struct Rig {
    mem: Arc<GuestMemoryMmap>,
    driver: DriverQueue,
    queue: DeviceQueue,
    pub(crate) device: BlockDevice,
    slot: Option<RequestSlot>,
    /// Each piece starts at a multiple of `.0`, plus `.1`.
    placement: (u64, u64),
}

impl Rig {
    /// A device with all that it offers negotiated, and buffers at odd addresses.
    pub(crate) fn new(config: DeviceConfig) -> Self {
        let device = BlockDevice::new(config).unwrap();
        device.negotiate(device.offered()).unwrap();
        let mem = GuestRam::new(RAM_SIZE).unwrap().memory().clone();
        mem.write_slice(&vec![BACKGROUND; RAM_SIZE], GuestAddress(0)).unwrap();
        let config = QueueConfig::at(GuestAddress(0), 32);
        assert!(QueueConfig::bytes(32) < BUFFERS);
        let driver = DriverQueue::new(mem.clone(), config).unwrap();
        let queue = DeviceQueue::new(mem.clone(), config).unwrap();
        let slot = Some(RequestSlot::new(queue.new_chain()));
        Self { mem, driver, queue, device, slot, placement: (1, 13) }
    }

    /// Buffers at multiples of a power of two instead.
    pub(crate) fn align_buffers(&mut self, align: u64) {
        self.placement = (align, 0);
    }

    /// Writes the posted bytes into guest memory; where the pieces are now.
    fn place(&self, posted: &Posted) -> Pieces {
        let mut end = BUFFERS;
        let mut place = |len: usize| {
            let addr = (end + 1).next_multiple_of(self.placement.0) + self.placement.1;
            end = addr + len as u64;
            assert!(end < RAM_SIZE as u64, "the chain does not fit the guest");
            (GuestAddress(addr), len as u32)
        };
        let readable: Vec<_> = posted
            .readable
            .iter()
            .map(|bytes| {
                let piece = place(bytes.len());
                self.mem.write_slice(bytes, piece.0).unwrap();
                piece
            })
            .collect();
        let writable = posted.writable.iter().map(|&len| place(len)).collect();
        (readable, writable)
    }

    fn memory(&self) -> Vec<u8> {
        let mut bytes = vec![0; RAM_SIZE - BUFFERS as usize];
        self.mem.read_slice(&mut bytes, GuestAddress(BUFFERS)).unwrap();
        bytes
    }

    /// Posts a chain and begins it: for tests that finish it themselves.
    pub(crate) fn begin(&mut self, posted: &Posted) -> Started {
        let pieces = self.place(posted);
        self.post(&pieces)
    }

    fn post(&mut self, (readable, writable): &Pieces) -> Started {
        self.driver.add(readable, writable).unwrap().expect("descriptors are free");
        assert!(self.driver.publish(), "the device waits for a kick");
        let mut slot = self.slot.take().unwrap_or_else(|| RequestSlot::new(self.queue.new_chain()));
        assert!(self.queue.pop(slot.chain_mut()).unwrap(), "a chain was posted");
        slot.begin(&self.device)
    }

    /// As [`Rig::begin`], for what is to reach the backend.
    pub(crate) fn begin_pending(&mut self, posted: &Posted) -> PendingRequest {
        match self.begin(posted) {
            Started::Pending(request) => request,
            Started::Finished(finished) => panic!("did not reach the backend: {:?}", finished.error()),
        }
    }

    /// Pushes the answer and takes it off as the guest; the used length.
    pub(crate) fn complete(&mut self, finished: FinishedRequest) -> u32 {
        let head = finished.head();
        self.queue.push(head, finished.written()).unwrap();
        assert!(self.queue.publish(), "the guest waits for an interrupt");
        self.slot = Some(finished.into_slot());
        let (used_head, written) = self.driver.pop_used().unwrap().expect("a chain was completed");
        assert_eq!(used_head, head);
        assert!(!self.driver.enable_interrupts() && !self.queue.enable_kicks(), "one chain, one answer");
        written
    }

    /// Posts a chain, lets the device carry it out with `execute`, and returns what the guest finds.
    pub(crate) fn run(
        &mut self,
        posted: &Posted,
        execute: impl FnOnce(PendingRequest) -> FinishedRequest,
    ) -> Answer {
        self.mem.write_slice(&vec![BACKGROUND; RAM_SIZE - BUFFERS as usize], GuestAddress(BUFFERS)).unwrap();
        let pieces = self.place(posted);
        let before = self.memory();
        let finished = match self.post(&pieces) {
            Started::Pending(request) => execute(request),
            Started::Finished(finished) => finished,
        };
        let error = finished.error().copied();
        let told = finished.status().map(|status| status as u8);
        let written = self.complete(finished);

        let mut after = self.memory();
        let mut answer = Answer { written, writable: Vec::new(), error };
        for (addr, len) in pieces.1 {
            let start = (addr.0 - BUFFERS) as usize;
            let piece = start..start + len as usize;
            answer.writable.extend_from_slice(&after[piece.clone()]);
            after[piece.clone()].copy_from_slice(&before[piece]);
        }
        assert!(after == before, "memory outside the writable pieces changed");
        assert_eq!(told, answer.status(), "the guest sees the status that the device reports");
        answer
    }
}

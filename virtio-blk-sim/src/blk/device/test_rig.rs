//! A guest with one queue and a device at its other end, for tests of the device and of the
//! backends.
//!
//! A test gives the bytes that the guest posts and how they are split, and gets back what the guest
//! then finds. Every run also checks that nothing except the posted writable buffers changed.

mod posted;

use std::sync::Arc;

use vm_memory::Bytes;

pub(crate) use posted::{BACKGROUND, Posted, disk_content, header, range};

use super::{BlockDevice, DeviceConfig, FinishedRequest, PendingRequest, RequestError, RequestSlot, Started};
use crate::memory::fenced::{PAGE, device_view};
use crate::memory::{GuestAddress, GuestMemoryMmap, GuestRam};
use crate::virtqueue::{DeviceQueue, DriverQueue, QueueConfig};

const RAM_SIZE: usize = 1 << 20;
/// Start of the guest's RAM, with the rings. Below and above it is a canary page, which the device
/// does not have.
const BASE: u64 = PAGE;
const END: u64 = BASE + RAM_SIZE as u64;
/// Start of the buffers.
const BUFFERS: u64 = BASE + 0x4000;
const BUFFER_BYTES: usize = (END - BUFFERS) as usize;

/// Addresses and lengths of a chain's readable and writable buffers.
type Pieces = (Vec<(GuestAddress, u32)>, Vec<(GuestAddress, u32)>);

/// Where a request writes.
#[derive(Debug)]
pub(crate) struct Written(Vec<(GuestAddress, u32)>);

/// What the guest finds after a request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    /// The used length.
    pub(crate) written: u32,
    /// All writable buffers, concatenated.
    pub(crate) writable: Vec<u8>,
    /// Why the device refused the request without executing it.
    pub(crate) error: Option<RequestError>,
}

impl Answer {
    /// Returns the status byte, or `None` if the guest posted none.
    pub(crate) fn status(&self) -> Option<u8> {
        self.writable.last().copied()
    }

    /// Returns the writable part without the status byte.
    pub(crate) fn data(&self) -> &[u8] {
        self.writable.split_last().map_or(&[], |(_, data)| data)
    }
}

pub(crate) struct Rig {
    /// The guest's own mapping, including the canaries.
    mem: Arc<GuestMemoryMmap>,
    driver: DriverQueue,
    queue: DeviceQueue,
    pub(crate) device: BlockDevice,
    slot: Option<RequestSlot>,
    /// Each buffer starts at a multiple of `.0`, plus `.1`.
    placement: (u64, u64),
}

impl Rig {
    /// Makes a device with all offered features negotiated, and unaligned buffers.
    pub(crate) fn new(config: DeviceConfig) -> Self {
        let device = BlockDevice::new(config).unwrap();
        device.negotiate(device.offered()).unwrap();
        let page = PAGE as usize;
        let regions =
            [(0, page), (BASE, RAM_SIZE), (END, page)].map(|(start, len)| (GuestAddress(start), len));
        let ram = GuestRam::with_regions(&regions).unwrap();
        let mem = ram.memory().clone();
        mem.write_slice(&vec![BACKGROUND; RAM_SIZE + 2 * page], GuestAddress(0)).unwrap();
        let config = QueueConfig::at(GuestAddress(BASE), 32);
        assert!(QueueConfig::bytes(32) < BUFFERS - BASE);
        let driver = DriverQueue::new(mem.clone(), config).unwrap();
        let queue = DeviceQueue::new(device_view(&ram, &[0, END]), config).unwrap();
        let slot = Some(RequestSlot::new(queue.new_chain()));
        Self { mem, driver, queue, device, slot, placement: (1, 13) }
    }

    /// Aligns the buffers to a power of two.
    pub(crate) fn align_buffers(&mut self, align: u64) {
        self.placement = (align, 0);
    }

    /// Writes the posted bytes into guest memory. Returns the addresses of the buffers.
    fn place(&self, posted: &Posted) -> Pieces {
        self.place_behind(&mut { BUFFERS }, posted)
    }

    /// The same, behind `end`, which is moved.
    fn place_behind(&self, end: &mut u64, posted: &Posted) -> Pieces {
        let mut place = |len: usize| {
            let addr = (*end + 1).next_multiple_of(self.placement.0) + self.placement.1;
            *end = addr + len as u64;
            assert!(*end < END, "the chain does not fit into guest RAM");
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

    /// Returns the guest's memory from the first buffer on, followed by the canaries above and
    /// below its RAM.
    fn memory(&self) -> Vec<u8> {
        let page = PAGE as usize;
        let mut bytes = vec![0; BUFFER_BYTES + 2 * page];
        let (above, below) = bytes.split_at_mut(BUFFER_BYTES + page);
        self.mem.read_slice(above, GuestAddress(BUFFERS)).unwrap();
        self.mem.read_slice(below, GuestAddress(0)).unwrap();
        bytes
    }

    /// Posts a chain and starts it, for tests that finish it themselves.
    pub(crate) fn begin(&mut self, posted: &Posted) -> Started {
        let pieces = self.place(posted);
        self.post(&pieces)
    }

    fn post(&mut self, (readable, writable): &Pieces) -> Started {
        self.driver.add(readable, writable).unwrap().expect("no free descriptors");
        assert!(self.driver.publish(), "the device must ask for a kick");
        let mut slot = self.slot.take().unwrap_or_else(|| RequestSlot::new(self.queue.new_chain()));
        assert!(self.queue.pop(slot.chain_mut()).unwrap(), "the device must find the posted chain");
        slot.begin(&self.device)
    }

    /// Posts several chains at once, which must all reach the backend. Returns each request and how
    /// to find what it writes.
    pub(crate) fn begin_all(&mut self, posted: &[Posted]) -> Vec<(PendingRequest, Written)> {
        let mut end = BUFFERS;
        let begin_one = |posted| {
            let pieces = self.place_behind(&mut end, posted);
            self.slot = None;
            self.driver.add(&pieces.0, &pieces.1).unwrap().expect("no free descriptors");
            let _ = self.driver.publish();
            let mut slot = RequestSlot::new(self.queue.new_chain());
            assert!(self.queue.pop(slot.chain_mut()).unwrap());
            match slot.begin(&self.device) {
                Started::Pending(request) => (request, Written(pieces.1)),
                Started::Finished(finished) => panic!("did not reach the backend: {:?}", finished.error()),
            }
        };
        posted.iter().map(begin_one).collect()
    }

    /// Pushes the result of one of [`begin_all`](Self::begin_all), and frees its descriptors.
    pub(crate) fn push_any(&mut self, finished: FinishedRequest) {
        let head = finished.head();
        self.queue.push(head, finished.written()).unwrap();
        let _ = self.queue.publish();
        let (used_head, _) = self.driver.pop_used().unwrap().expect("no chain was completed");
        assert_eq!(used_head, head);
    }

    /// What a request has written: its data and its status.
    pub(crate) fn written(&self, written: &Written) -> Vec<u8> {
        let mut bytes = Vec::new();
        for &(addr, len) in &written.0 {
            let mut piece = vec![0; len as usize];
            self.mem.read_slice(&mut piece, addr).unwrap();
            bytes.append(&mut piece);
        }
        bytes
    }

    /// Like [`Rig::begin`], for requests that must reach the backend.
    pub(crate) fn begin_pending(&mut self, posted: &Posted) -> PendingRequest {
        match self.begin(posted) {
            Started::Pending(request) => request,
            Started::Finished(finished) => panic!("did not reach the backend: {:?}", finished.error()),
        }
    }

    /// Pushes the result, and takes it off the used ring as the guest. Returns the used length.
    pub(crate) fn complete(&mut self, finished: FinishedRequest) -> u32 {
        let head = finished.head();
        self.queue.push(head, finished.written()).unwrap();
        assert!(self.queue.publish(), "the guest must ask for an interrupt");
        self.slot = Some(finished.into_slot());
        let (used_head, written) = self.driver.pop_used().unwrap().expect("no chain was completed");
        assert_eq!(used_head, head);
        assert!(
            !self.driver.enable_interrupts() && !self.queue.enable_kicks(),
            "one chain must give exactly one completion"
        );
        written
    }

    /// Posts a chain, runs it with `execute`, and returns what the guest finds.
    pub(crate) fn run(
        &mut self,
        posted: &Posted,
        execute: impl FnOnce(PendingRequest) -> FinishedRequest,
    ) -> Answer {
        self.mem.write_slice(&vec![BACKGROUND; BUFFER_BYTES], GuestAddress(BUFFERS)).unwrap();
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
        assert_eq!(told, answer.status(), "the guest must see the status that the device reports");
        answer
    }
}

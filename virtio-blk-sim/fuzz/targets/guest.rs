//! Guest memory for the fuzz targets: small, the same for every input, and compared byte by byte.

use std::sync::Arc;

use virtio_blk_sim::memory::{GuestAddress, GuestMemoryMmap, GuestRam};
use virtio_blk_sim::virtqueue::Segment;
use vm_memory::{Bytes, GuestMemoryBackend, GuestMemoryRegion};

/// Two adjacent regions, then a hole, then a third region. A flat copy has them without the hole.
pub(crate) const MIDDLE: u64 = 0x3000;
pub(crate) const LOW_END: u64 = 0x5000;
pub(crate) const HIGH: u64 = 0x10_0000;
pub(crate) const HIGH_END: u64 = 0x10_1000;
const BYTES: usize = (LOW_END + HIGH_END - HIGH) as usize;

thread_local! {
    /// Mapped once, and cleared for every input.
    static RAM: GuestRam = GuestRam::with_regions(&[
        (GuestAddress(0), MIDDLE as usize),
        (GuestAddress(MIDDLE), (LOW_END - MIDDLE) as usize),
        (GuestAddress(HIGH), (HIGH_END - HIGH) as usize),
    ])
    .expect("guest memory of 24 KiB can be allocated");
}

/// A guest's memory, and its known content.
pub(crate) struct Guest {
    pub(crate) mem: Arc<GuestMemoryMmap>,
    /// The known content of all regions, concatenated.
    known: Vec<u8>,
    now: Vec<u8>,
}

impl Guest {
    /// Fills the memory with `fill`.
    pub(crate) fn new(fill: u8) -> Self {
        let mem = RAM.with(|ram| Arc::clone(ram.memory()));
        let this = Self { mem, known: vec![fill; BYTES], now: vec![0; BYTES] };
        for (start, bytes) in this.regions() {
            this.mem.write_slice(&this.known[bytes], GuestAddress(start)).expect("a region is mapped");
        }
        this
    }

    fn regions(&self) -> [(u64, std::ops::Range<usize>); 3] {
        let middle = MIDDLE as usize;
        let high = LOW_END as usize;
        [(0, 0..middle), (MIDDLE, middle..high), (HIGH, high..BYTES)]
    }

    /// Accepts the current content as known, after the guest or the device has changed it
    /// legitimately.
    pub(crate) fn learn(&mut self) {
        self.read();
        self.known.copy_from_slice(&self.now);
    }

    fn read(&mut self) {
        for (start, bytes) in self.regions() {
            self.mem.read_slice(&mut self.now[bytes], GuestAddress(start)).expect("a region is mapped");
        }
    }

    /// Panics if a byte outside these pieces (guest address, length) has changed. Accepts changes
    /// inside.
    pub(crate) fn only_changed(&mut self, pieces: &[(u64, u64)]) {
        self.read();
        for &(addr, len) in pieces {
            let at = flat(addr, len).expect("the piece must lie in guest memory");
            self.known[at.clone()].copy_from_slice(&self.now[at]);
        }
        if self.known != self.now {
            let at = self.known.iter().zip(&self.now).position(|(known, now)| known != now);
            panic!("byte {at:x?} of the flat copy of guest memory changed, outside of {pieces:x?}");
        }
    }

    /// Returns the known bytes of these pieces, concatenated.
    pub(crate) fn known(&self, pieces: &[(u64, u64)]) -> Vec<u8> {
        let bytes =
            |&(addr, len)| self.known[flat(addr, len).expect("the piece must lie in guest memory")].to_vec();
        pieces.iter().flat_map(bytes).collect()
    }

    /// Writes as the guest, as far as there is memory.
    pub(crate) fn write(&mut self, addr: u64, bytes: &[u8]) {
        // Only the device is tested, so a guest's write outside its memory is ignored.
        let _ = self.mem.write(bytes, GuestAddress(addr));
        self.learn();
    }

    /// Returns the guest addresses of the segments that a device got. Panics unless each lies in
    /// one region.
    pub(crate) fn pieces(&self, segments: &[Segment]) -> Vec<(u64, u64)> {
        let piece = |segment: &Segment| {
            let len = segment.len() as u64;
            let addr = self.guest_address(segment.ptr().addr() as u64, len);
            (addr.unwrap_or_else(|| panic!("{segment:?} does not lie in a region of guest memory")), len)
        };
        segments.iter().map(piece).collect()
    }

    /// Converts an address in this process to a guest address. The `len` bytes (at least one) must
    /// lie in one region.
    pub(crate) fn guest_address(&self, host: u64, len: u64) -> Option<u64> {
        self.mem.iter().find_map(|region| {
            let offset = host.checked_sub(region.as_ptr().addr() as u64)?;
            let left = region.len().checked_sub(offset)?;
            (len > 0 && len <= left).then(|| region.start_addr().0 + offset)
        })
    }
}

/// Returns the position of a piece of guest memory in the flat copy.
pub(crate) fn flat(addr: u64, len: u64) -> Option<std::ops::Range<usize>> {
    let end = addr.checked_add(len)?;
    let at = |addr: u64| addr as usize;
    if end <= LOW_END {
        return Some(at(addr)..at(end));
    }
    let shift = HIGH - LOW_END;
    (HIGH <= addr && end <= HIGH_END).then(|| at(addr - shift)..at(end - shift))
}

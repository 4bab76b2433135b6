//! Helpers shared by the tests of the virtqueue.

pub(super) use std::sync::Arc;

pub(super) use vm_memory::{Bytes, GuestMemoryBackend, GuestMemoryRegion};
use vm_memory::{FileOffset, MemoryRegionAddress};

pub(super) use super::guest_map::{CANARIES, HIGH, HIGH_END, LOW, LOW_END, MIDDLE_END, RINGS, three_regions};
pub(super) use crate::memory::{GuestAddress, GuestMemoryMmap, GuestRam};
pub(super) use crate::virtqueue::chain::Chain;
pub(super) use crate::virtqueue::device::DeviceQueue;
pub(super) use crate::virtqueue::driver::DriverQueue;
pub(super) use crate::virtqueue::error::QueueError;
pub(super) use crate::virtqueue::layout::QueueConfig;
pub(super) use crate::virtqueue::segment::Segments;

/// Guest memory as users of rust-vmm have it, with vm-memory's own regions.
pub(super) type VmMemory = vm_memory::GuestMemoryMmap<()>;

/// Maps `ram` again as vm-memory's own guest memory, without the regions that start at `except`.
pub(super) fn vm_memory_view(ram: &GuestRam, except: &[u64]) -> Arc<VmMemory> {
    let mut offset = 0;
    let mut ranges = Vec::new();
    for region in ram.memory().iter() {
        if !except.contains(&region.start_addr().0) {
            let file = FileOffset::from_arc(Arc::clone(ram.file()), offset);
            ranges.push((region.start_addr(), region.size(), Some(file)));
        }
        // The regions of these tests are whole pages.
        offset += region.len();
    }
    Arc::new(VmMemory::from_ranges_with_files(ranges).unwrap())
}

/// The addresses changed by a side that must not write.
pub(super) const NOTHING: [u64; 0] = [];

/// Returns the guest address of a host pointer into guest memory.
fn guest_address<M: GuestMemoryBackend>(mem: &Arc<M>, host: *const u8) -> Option<u64> {
    mem.iter().find_map(|region| {
        let offset = (host.addr() as u64)
            .checked_sub(region.get_host_address(MemoryRegionAddress(0)).ok()?.addr() as u64)?;
        (offset < region.len()).then(|| region.start_addr().0 + offset)
    })
}

/// Returns a list of segments as (guest address, bytes). Panics if a segment is not inside a single
/// region of guest memory.
pub(super) fn as_guest<M: GuestMemoryBackend>(mem: &Arc<M>, list: &Segments) -> Vec<(u64, u64)> {
    list.iter()
        .map(|segment| {
            let addr = guest_address(mem, segment.ptr()).expect("a segment begins in guest memory");
            let region = mem.find_region(GuestAddress(addr)).unwrap();
            let left = region.start_addr().0 + region.len() - addr;
            assert!(segment.len() > 0 && segment.len() as u64 <= left, "a segment ends in its region");
            (addr, segment.len() as u64)
        })
        .collect()
}

/// Copies all bytes of guest memory, region by region, with the start address of each region.
pub(super) fn snapshot<M: GuestMemoryBackend>(mem: &Arc<M>) -> Vec<(u64, Vec<u8>)> {
    mem.iter()
        .map(|region| {
            let mut bytes = vec![0; region.len() as usize];
            region.read_slice(&mut bytes, MemoryRegionAddress(0)).unwrap();
            (region.start_addr().0, bytes)
        })
        .collect()
}

/// Returns the guest addresses whose bytes differ between two snapshots.
pub(super) fn changed(before: &[(u64, Vec<u8>)], after: &[(u64, Vec<u8>)]) -> Vec<u64> {
    before
        .iter()
        .zip(after)
        .flat_map(|((start, old), (_, new))| {
            (0..old.len()).filter(|&at| old[at] != new[at]).map(move |at| start + at as u64)
        })
        .collect()
}

/// Pops one chain. Panics if there is none.
pub(super) fn pop_one<M: GuestMemoryBackend + 'static>(device: &mut DeviceQueue<M>) -> Chain<M> {
    let mut chain = device.new_chain();
    assert_eq!(device.pop(&mut chain), Ok(true));
    chain
}

/// Creates both halves of a queue; the driver gets its own mapping of `ram`.
pub(super) fn pair(ram: &GuestRam, config: QueueConfig) -> (DriverQueue, DeviceQueue) {
    let driver = DriverQueue::new(ram.map().unwrap(), config).unwrap();
    let device = DeviceQueue::new(Arc::clone(ram.memory()), config).unwrap();
    (driver, device)
}

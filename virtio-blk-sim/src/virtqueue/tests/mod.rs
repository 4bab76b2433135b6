//! Both halves against each other, against a hostile driver, and against another implementation.

mod differential;
mod guest_map;
mod hostile;
mod malformed;
mod resubmit;
mod round_trip;
mod setup;
mod stress;

use std::sync::Arc;

use vm_memory::{Bytes, GuestMemoryBackend, GuestMemoryRegion};

use guest_map::{
    CANARIES, HIGH, HIGH_END, LOW, LOW_END, MIDDLE_END, RINGS, three_regions, three_regions_and_canaries,
};
pub(crate) use malformed::malformed_cases;

use super::{Chain, DeviceQueue, DriverQueue, QueueConfig, QueueError, Segments};
use crate::memory::{GuestAddress, GuestMemoryMmap, GuestRam};

/// What a side that must not write has changed.
const NOTHING: [u64; 0] = [];
/// The guest's address of a host pointer into its memory.
fn guest_address(mem: &GuestMemoryMmap, host: *const u8) -> Option<u64> {
    mem.iter().find_map(|region| {
        let offset = (host.addr() as u64).checked_sub(region.as_ptr().addr() as u64)?;
        (offset < region.len()).then(|| region.start_addr().0 + offset)
    })
}

/// A list of segments as (guest address, bytes). Panics when one is not inside a single region of guest
/// memory.
fn as_guest(mem: &GuestMemoryMmap, list: &Segments) -> Vec<(u64, u64)> {
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

/// All bytes of guest memory, region after region.
fn snapshot(mem: &GuestMemoryMmap) -> Vec<(u64, Vec<u8>)> {
    mem.iter()
        .map(|region| {
            let mut bytes = vec![0; region.len() as usize];
            mem.read_slice(&mut bytes, region.start_addr()).unwrap();
            (region.start_addr().0, bytes)
        })
        .collect()
}

/// The guest addresses whose bytes differ between two snapshots.
fn changed(before: &[(u64, Vec<u8>)], after: &[(u64, Vec<u8>)]) -> Vec<u64> {
    before
        .iter()
        .zip(after)
        .flat_map(|((start, old), (_, new))| {
            (0..old.len()).filter(|&at| old[at] != new[at]).map(move |at| start + at as u64)
        })
        .collect()
}

/// Pops one chain, which must be there.
fn pop_one(device: &mut DeviceQueue) -> Chain {
    let mut chain = device.new_chain();
    assert_eq!(device.pop(&mut chain), Ok(true));
    chain
}

fn pair(ram: &GuestRam, config: QueueConfig) -> (DriverQueue, DeviceQueue) {
    let driver = DriverQueue::new(ram.map().unwrap(), config).unwrap();
    let device = DeviceQueue::new(Arc::clone(ram.memory()), config).unwrap();
    (driver, device)
}

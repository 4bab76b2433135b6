//! Guest RAM with canary pages next to it, to detect writes of the device outside its memory.
#![expect(unsafe_code, reason = "regions that are parts of one mapping")]

use std::sync::Arc;

use vm_memory::{FileOffset, MmapRegion};

use super::ram::GuestRam;
use super::region::{GuestMemoryMmap, GuestRegion};

/// Size of a canary region in bytes.
pub(crate) const PAGE: u64 = 4096;

/// Returns the device's view of `ram`: all regions except the canaries, which are given by their
/// guest addresses.
///
/// The whole file is one mapping, so in host memory a canary lies directly next to the regions that
/// are its neighbours in the file. A write past the end of a region then changes the canary.
pub(crate) fn device_view(ram: &GuestRam, canaries: &[u64]) -> Arc<GuestMemoryMmap> {
    let bytes = ram.file().metadata().unwrap().len() as usize;
    let whole = MmapRegion::<()>::from_file(FileOffset::from_arc(Arc::clone(ram.file()), 0), bytes).unwrap();
    let (base, prot, owner) = (whole.as_ptr(), whole.prot(), Arc::new(whole));
    let regions = ram.regions.iter().filter(|(start, ..)| !canaries.contains(&start.0));
    let regions = regions.map(|&(start, size, offset)| {
        let host = base.wrapping_add(offset as usize);
        // SAFETY: the region is part of the file, and `owner` keeps the whole file mapped. Nothing
        // else uses that mapping.
        unsafe { GuestRegion::from_raw(start, host, size, prot, owner.clone()) }.unwrap()
    });
    Arc::new(GuestMemoryMmap::from_regions(regions.collect()).unwrap())
}

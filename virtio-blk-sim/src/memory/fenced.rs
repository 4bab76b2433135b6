//! Guest RAM between canary pages: what the device writes beside it shows.
#![expect(unsafe_code, reason = "regions that are parts of one mapping")]

use std::sync::Arc;

use vm_memory::{FileOffset, MmapRegion};

use super::{GuestMemoryMmap, GuestRam, GuestRegion};

/// Size of a canary: a page, or more where pages are smaller.
pub(crate) const PAGE: u64 = 4096;

/// The device's view of a RAM some of whose regions are canaries: it has the others only, but in its address space each of
/// them lies next to its neighbours, as in the file.
pub(crate) fn device_view(ram: &GuestRam, canaries: &[u64]) -> Arc<GuestMemoryMmap> {
    let bytes = ram.file().metadata().unwrap().len() as usize;
    let whole = MmapRegion::<()>::from_file(FileOffset::from_arc(Arc::clone(ram.file()), 0), bytes).unwrap();
    let (base, prot, owner) = (whole.as_ptr(), whole.prot(), Arc::new(whole));
    let regions = ram.regions.iter().filter(|(start, ..)| !canaries.contains(&start.0));
    let regions = regions.map(|&(start, size, offset)| {
        let host = base.wrapping_add(offset as usize);
        // SAFETY: the region is a part of the file, all of which the owner keeps mapped; nothing else reaches that mapping.
        unsafe { GuestRegion::from_raw(start, host, size, prot, owner.clone()) }.unwrap()
    });
    Arc::new(GuestMemoryMmap::from_regions(regions.collect()).unwrap())
}

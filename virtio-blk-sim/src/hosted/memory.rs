//! The guest's memory in the types of vhost-user-backend.
//!
//! The server has mapped each region already. A device gets regions that point into those mappings,
//! so a page that the frontend takes away is noticed whoever touches it. A device may hold a
//! snapshot of an old table for as long as a request takes, on any thread, so a mapping is released
//! only after the region that points into it:
//!
//! ```text
//! current table ─► Arc<GuestRegionMmap> ◄─ snapshots that the device holds
//!                          ▲
//! kept: (region, owner) ───┘   the owner is released once the region belongs to `kept` alone
//! ```
#![expect(unsafe_code, reason = "a region of another version of vm-memory is made from a raw mapping")]

use std::any::Any;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use vm_memory::GuestMemoryBackend as _;
use vm_memory::GuestMemoryRegion as _;
use vm_memory_017::mmap::{MmapRegionBuilder, NewBitmap};
use vm_memory_017::{GuestAddress, GuestAddressSpace, GuestMemoryAtomic, GuestMemoryMmap, GuestRegionMmap};

/// The memory that a device and its rings share, and what keeps it mapped.
pub(super) struct Memory<B: NewBitmap + 'static> {
    shared: GuestMemoryAtomic<GuestMemoryMmap<B>>,
    /// Each region that was ever given out and may still be in use.
    kept: Mutex<Vec<Kept<B>>>,
}

struct Kept<B: NewBitmap + 'static> {
    region: Arc<GuestRegionMmap<B>>,
    owner: Arc<dyn Any + Send + Sync>,
}

impl<B: NewBitmap + 'static> Memory<B> {
    pub(super) fn new() -> Self {
        Self { shared: GuestMemoryAtomic::new(GuestMemoryMmap::new()), kept: Mutex::default() }
    }

    /// What the device gets.
    pub(super) fn shared(&self) -> GuestMemoryAtomic<GuestMemoryMmap<B>> {
        self.shared.clone()
    }

    /// Replaces the table, and offers it to the device. If the device refuses it, the old table is
    /// there again.
    pub(super) fn replace(
        &self,
        memory: &crate::memory::GuestMemoryMmap,
        offer: impl FnOnce(GuestMemoryAtomic<GuestMemoryMmap<B>>) -> io::Result<()>,
    ) -> io::Result<()> {
        let former = GuestMemoryMmap::clone(&self.shared.memory());
        let table = self.table(memory)?;
        self.set(table);
        let taken = offer(self.shared());
        if taken.is_err() {
            self.set(former);
        }
        self.release();
        taken
    }

    /// Takes the memory away. Snapshots that the device holds stay valid.
    pub(super) fn clear(&self) {
        self.set(GuestMemoryMmap::new());
        self.release();
    }

    fn table(&self, memory: &crate::memory::GuestMemoryMmap) -> io::Result<GuestMemoryMmap<B>> {
        let mut regions = Vec::new();
        for region in memory.iter() {
            let size = region.size();
            let builder = MmapRegionBuilder::new_with_bitmap(size, B::with_len(size))
                .with_mmap_prot(region.prot())
                .with_mmap_flags(libc::MAP_SHARED);
            // SAFETY: the owner keeps `size` bytes at this address mapped, shared and with this
            // protection. `Kept` holds the owner for as long as anybody has the region, and nothing
            // creates a reference to the bytes: both versions of vm-memory access them as volatile.
            let builder = unsafe { builder.with_raw_mmap_pointer(region.as_ptr()) };
            let mapping = builder.build().map_err(io::Error::other)?;
            let start = GuestAddress(region.start_addr().0);
            let mapped = GuestRegionMmap::new(mapping, start).ok_or(io::ErrorKind::InvalidInput)?;
            let mapped = Arc::new(mapped);
            self.kept().push(Kept { region: Arc::clone(&mapped), owner: Arc::clone(region.owner()) });
            regions.push(mapped);
        }
        GuestMemoryMmap::from_arc_regions(regions).map_err(io::Error::other)
    }

    fn set(&self, table: GuestMemoryMmap<B>) {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner).replace(table);
    }

    /// Releases the mappings that nobody else can reach.
    fn release(&self) {
        let kept = std::mem::take(&mut *self.kept());
        let mut in_use: Vec<_> = kept.into_iter().filter_map(Kept::release).collect();
        self.kept().append(&mut in_use);
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Vec<Kept<B>>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<B: NewBitmap + 'static> Kept<B> {
    /// Unmaps the region if this is the last reference to it, otherwise returns it.
    fn release(self) -> Option<Self> {
        let Self { region, owner } = self;
        match Arc::try_unwrap(region) {
            Ok(region) => {
                drop(region);
                drop(owner);
                None
            }
            Err(region) => Some(Self { region, owner }),
        }
    }
}

impl<B: NewBitmap + 'static> Drop for Memory<B> {
    fn drop(&mut self) {
        self.clear();
        for Kept { owner, .. } in self.kept().drain(..) {
            // The device still has the region, perhaps on a thread of its own, and nobody will be
            // there to see the end of that.
            std::mem::forget(owner);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Weak;

    use vm_memory_017::{Bytes, GuestMemoryLoadGuard};

    use super::*;
    use crate::memory::{GuestMemoryMmap as Ours, GuestRam};

    type Snapshot = GuestMemoryLoadGuard<GuestMemoryMmap<()>>;

    /// A table of one region, and a way to see whether it is still mapped.
    fn ram() -> (Ours, Weak<dyn Any + Send + Sync>) {
        let ram = GuestRam::new(1 << 16).unwrap().map().unwrap();
        let owner = Arc::downgrade(ram.iter().next().unwrap().owner());
        (Ours::clone(&ram), owner)
    }

    fn byte(memory: &Snapshot) -> u8 {
        memory.read_obj(GuestAddress(0x123)).unwrap()
    }

    #[test]
    fn both_versions_of_vm_memory_see_the_same_bytes() {
        let memory = Memory::<()>::new();
        let (table, _) = ram();
        memory.replace(&table, |_| Ok(())).unwrap();
        vm_memory::Bytes::write_obj(&table, 7_u8, vm_memory::GuestAddress(0x123)).unwrap();
        assert_eq!(byte(&memory.shared().memory()), 7);
    }

    #[test]
    fn a_mapping_is_released_with_the_last_snapshot_of_it() {
        let memory = Memory::<()>::new();
        let (first, mapped) = ram();
        memory.replace(&first, |_| Ok(())).unwrap();
        drop(first);
        let snapshot = memory.shared().memory();
        let (second, second_mapped) = ram();
        memory.replace(&second, |_| Ok(())).unwrap();
        drop(second);
        assert_eq!(byte(&snapshot), 0);
        assert!(mapped.upgrade().is_some());
        drop(snapshot);
        memory.clear();
        assert!(mapped.upgrade().is_none() && second_mapped.upgrade().is_none());
        assert_eq!(memory.kept().len(), 0);
    }

    #[test]
    fn a_table_that_the_device_refuses_is_not_used() {
        let memory = Memory::<()>::new();
        let [(first, first_mapped), (second, second_mapped)] = [ram(), ram()];
        memory.replace(&first, |_| Ok(())).unwrap();
        let refused = memory.replace(&second, |_| Err(io::ErrorKind::OutOfMemory.into()));
        assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::OutOfMemory);
        drop((first, second));
        assert_eq!(byte(&memory.shared().memory()), 0);
        assert!(first_mapped.upgrade().is_some() && second_mapped.upgrade().is_none());
    }

    #[test]
    fn a_snapshot_survives_the_device() {
        let memory = Memory::<()>::new();
        let (table, mapped) = ram();
        memory.replace(&table, |_| Ok(())).unwrap();
        drop(table);
        let (snapshot, shared) = (memory.shared().memory(), memory.shared());
        drop(memory);
        assert!(mapped.upgrade().is_some());
        assert_eq!(byte(&snapshot), 0);
        assert_eq!(shared.memory().num_regions(), 0);
    }

    use vm_memory_017::GuestMemory as _;
}

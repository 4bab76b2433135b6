//! A ring of buffers that the kernel chooses from: a provided-buffer ring (Linux 5.19).
#![expect(
    unsafe_code,
    reason = "memory that is shared with the kernel: the ring of entries, and the buffers behind it"
)]

use io_uring::types::BufRingEntry;
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::cell::Cell;
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

/// Buffers of one size, and the ring of entries that tells the kernel which of them it may fill.
///
/// All of them belong to the kernel at first. A completion names the one that the kernel has
/// filled; from then on it belongs to this side until it is given back. Dropping this frees the
/// memory: the kernel must not know it any more.
#[derive(Debug)]
pub(crate) struct BufferRing {
    group: u16,
    /// A power of two.
    entries: u16,
    size: u32,
    ring: NonNull<BufRingEntry>,
    buffers: NonNull<u8>,
    tail: Cell<u16>,
}

impl BufferRing {
    /// The kernel's limit.
    const MOST: u16 = 1 << 15;

    /// Allocates at least `entries` buffers of `size` bytes each, zeroed, as group `group`. The
    /// number of buffers is rounded up to a power of two.
    ///
    /// # Errors
    /// `InvalidInput` for no buffers, more than 32768, or buffers without bytes; `OutOfMemory`.
    pub(crate) fn new(group: u16, entries: u16, size: u32) -> io::Result<Self> {
        if entries == 0 || entries > Self::MOST || size == 0 {
            let why = "a group of buffers has 1 to 32768 of them, with at least one byte each";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        let entries = entries.next_power_of_two();
        let (ring, buffers) = Self::layouts(entries, size).ok_or(io::ErrorKind::OutOfMemory)?;
        // SAFETY: neither layout has a size of zero.
        let (ring_memory, buffer_memory) = unsafe { (alloc_zeroed(ring), alloc_zeroed(buffers)) };
        let (Some(ring_start), Some(buffers_start)) =
            (NonNull::new(ring_memory.cast()), NonNull::new(buffer_memory))
        else {
            for (memory, layout) in [(ring_memory, ring), (buffer_memory, buffers)] {
                if !memory.is_null() {
                    // SAFETY: allocated above with this layout.
                    unsafe { dealloc(memory, layout) };
                }
            }
            return Err(io::ErrorKind::OutOfMemory.into());
        };
        let this =
            Self { group, entries, size, ring: ring_start, buffers: buffers_start, tail: Cell::new(0) };
        (0..entries).for_each(|id| this.give_back(id));
        Ok(this)
    }

    /// The entries, page-aligned as io_uring_register(2) requires, and the buffers.
    fn layouts(entries: u16, size: u32) -> Option<(Layout, Layout)> {
        let ring = Layout::from_size_align(usize::from(entries) * size_of::<BufRingEntry>(), 4096).ok()?;
        let bytes = usize::from(entries).checked_mul(usize::try_from(size).ok()?)?;
        Some((ring, Layout::from_size_align(bytes, 64).ok()?))
    }

    pub(crate) fn group(&self) -> u16 {
        self.group
    }

    /// The number of buffers.
    pub(crate) fn entries(&self) -> u16 {
        self.entries
    }

    /// The size of each, in bytes.
    pub(crate) fn size(&self) -> u32 {
        self.size
    }

    /// The address of the entries, for the kernel.
    pub(crate) fn address(&self) -> u64 {
        self.ring.as_ptr() as u64
    }

    /// The first byte of buffer `id`.
    pub(crate) fn buffer(&self, id: u16) -> NonNull<u8> {
        let offset = usize::from(id % self.entries) * self.size as usize;
        // SAFETY: the number is below `entries`, so the offset is inside the allocation.
        unsafe { self.buffers.add(offset) }
    }

    /// Lets the kernel use buffer `id` again.
    pub(crate) fn give_back(&self, id: u16) {
        let id = id % self.entries;
        let tail = self.tail.get();
        // SAFETY: the index is below `entries`, so the entry is inside the allocation; entries
        // between tail and head belong to this side.
        let entry = unsafe { &mut *self.ring.as_ptr().add(usize::from(tail % self.entries)) };
        entry.set_addr(self.buffer(id).as_ptr() as u64);
        entry.set_len(self.size);
        entry.set_bid(id);
        self.tail.set(tail.wrapping_add(1));
        // SAFETY: the tail overlays a reserved field of entry 0, inside the allocation, and is
        // aligned for a u16.
        let shared = unsafe { AtomicU16::from_ptr(BufRingEntry::tail(self.ring.as_ptr()).cast_mut()) };
        // Pairs with the kernel's acquire load of the tail in io_ring_buffer_select().
        shared.store(self.tail.get(), Ordering::Release);
    }
}

impl Drop for BufferRing {
    fn drop(&mut self) {
        if let Some((ring, buffers)) = Self::layouts(self.entries, self.size) {
            // SAFETY: allocated by `new` with the same layouts; the owner has withdrawn both from
            // the kernel.
            unsafe {
                dealloc(self.ring.as_ptr().cast(), ring);
                dealloc(self.buffers.as_ptr(), buffers);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_checked_and_rounded() {
        for (entries, size) in [(0, 1), (1, 0), (BufferRing::MOST + 1, 1)] {
            assert_eq!(
                BufferRing::new(7, entries, size).unwrap_err().kind(),
                io::ErrorKind::InvalidInput,
                "{entries} buffers of {size}"
            );
        }
        let ring = BufferRing::new(7, 5, 3).unwrap();
        assert_eq!((ring.group(), ring.entries(), ring.size(), ring.tail.get()), (7, 8, 3, 8));
        let starts = (0..8).map(|id| ring.buffer(id).as_ptr() as usize - ring.buffer(0).as_ptr() as usize);
        assert_eq!(starts.collect::<Vec<_>>(), (0..8).map(|id| id * 3).collect::<Vec<_>>());
        assert_eq!(ring.buffer(8), ring.buffer(0), "no number reaches beyond the memory");
    }
}

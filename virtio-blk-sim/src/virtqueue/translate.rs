//! Translation of guest-physical to host addresses, with the last region cached.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryRegion, GuestRegionMmap};

use super::error::QueueError;
use super::segment::Segment;

/// Translates guest addresses and caches the region of the last lookup.
///
/// A guest has a few regions, and its I/O buffers are in one or two of them. The cached region
/// answers nearly every lookup with one comparison, without vm-memory's search over all regions.
///
/// A region is used only if it is host memory that can be read and written. Any other region is
/// treated like a hole, so a descriptor that points into it is an error and not a SIGSEGV.
pub(super) struct Translator<M> {
    /// First guest address of the cached region.
    start: u64,
    /// The cached region in this process. Empty before the first lookup.
    ///
    /// Invariant: these bytes are mapped and may be read and written while this `Arc`, or a clone
    /// of it, is held. See [`Translator::remember`] for why.
    host: Segment,
    mem: Arc<M>,
}

impl<M: GuestMemoryBackend + 'static> Translator<M> {
    pub(super) fn new(mem: Arc<M>) -> Self {
        Self { start: 0, host: Segment::new(std::ptr::null_mut(), 0), mem }
    }

    pub(super) fn memory(&self) -> &Arc<M> {
        &self.mem
    }

    /// Calls `sink` with the host segments of the `len` bytes at `addr`. There is more than one
    /// segment if the bytes cross into an adjacent region.
    ///
    /// 0 bytes have no segment, wherever they are. (Virtio 1.2 does not forbid a buffer without a
    /// byte, so it is served.)
    ///
    /// Fails if any byte is outside guest memory. `sink` may already have been called with the
    /// segments before that byte.
    #[inline]
    pub(super) fn translate(
        &mut self,
        addr: u64,
        len: u32,
        mut sink: impl FnMut(Segment),
    ) -> Result<(), QueueError> {
        if len == 0 {
            return Ok(());
        }
        // An address below `start` wraps to a huge offset, so one comparison checks both ends.
        let offset = addr.wrapping_sub(self.start);
        let mapped = self.host.len() as u64;
        if offset < mapped && u64::from(len) <= mapped - offset {
            sink(Segment::new(self.host.ptr().wrapping_add(offset as usize), len as usize));
            return Ok(());
        }
        self.translate_slow(addr, len, &mut sink)
    }

    /// Returns the host pointer to `len` bytes at `addr`, if they lie in one region.
    pub(super) fn contiguous(&mut self, addr: u64, len: u64) -> Option<*mut u8> {
        let (host, left) = self.locate(addr)?;
        (len <= left).then_some(host)
    }

    #[cold]
    #[inline(never)]
    fn translate_slow(
        &mut self,
        addr: u64,
        len: u32,
        sink: &mut dyn FnMut(Segment),
    ) -> Result<(), QueueError> {
        let unmapped = QueueError::Unmapped { addr, len };
        let mut at = addr;
        let mut left = u64::from(len);
        // Each iteration consumes one region, so their number bounds the loop.
        loop {
            let (host, in_region) = self.locate(at).ok_or(unmapped)?;
            let take = left.min(in_region);
            sink(Segment::new(host, take as usize));
            left -= take;
            if left == 0 {
                return Ok(());
            }
            at = at.checked_add(take).ok_or(unmapped)?;
        }
    }

    /// Returns the host pointer for `addr` and how many bytes its region has from there (at least
    /// 1).
    #[inline]
    fn locate(&mut self, addr: u64) -> Option<(*mut u8, u64)> {
        let mut offset = addr.wrapping_sub(self.start);
        if offset >= self.host.len() as u64 {
            self.remember(addr)?;
            offset = addr.wrapping_sub(self.start);
        }
        Some((self.host.ptr().wrapping_add(offset as usize), self.host.len() as u64 - offset))
    }

    /// Caches the region that contains `addr`. If there is none, or it is not usable host memory,
    /// the cache is left as it is.
    ///
    /// Why the cached pointer is valid: it comes from a `VolatileSlice<'a>`, where `'a` is the
    /// lifetime of a shared borrow of the memory inside the `Arc`. Whoever creates such a slice
    /// promises that its bytes stay available during `'a`. While a clone of the `Arc` is held, the
    /// memory object does not move and is not dropped, and nobody can get a `&mut` to it, so that
    /// borrow could last as long as the clone. Therefore the bytes stay available as long. This
    /// needs no trust in the safe trait methods of `M`: a wrong `start_addr`, `len` or
    /// `find_region` gives a wrong translation, but only the bytes of the slice are ever used.
    /// `get_host_address`, which may return any pointer, is not called.
    #[cold]
    #[inline(never)]
    fn remember(&mut self, addr: u64) -> Option<()> {
        const ACCESS: i32 = libc::PROT_READ | libc::PROT_WRITE;
        let region = self.mem.find_region(GuestAddress(addr))?;
        // vm-memory gives out slices of read-only mappings as well, so look at the access here.
        // (`GuestRegion` of this crate refuses them itself.)
        let mmap = (region as &dyn Any).downcast_ref::<GuestRegionMmap<<M::R as GuestMemoryRegion>::B>>();
        if mmap.is_some_and(|region| region.prot() & ACCESS != ACCESS) {
            return None;
        }
        let slice = region.as_volatile_slice().ok()?;
        let start = region.start_addr().0;
        // The host range must contain `addr`, whatever a foreign region says about itself.
        let len = slice.len().min(usize::try_from(region.len()).ok()?);
        if addr.checked_sub(start)? >= len as u64 {
            return None;
        }
        self.start = start;
        self.host = Segment::new(slice.ptr_guard_mut().as_ptr(), len);
        Some(())
    }
}

impl<M> fmt::Debug for Translator<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Translator")
            .field("start", &self.start)
            .field("host", &self.host)
            .finish_non_exhaustive()
    }
}

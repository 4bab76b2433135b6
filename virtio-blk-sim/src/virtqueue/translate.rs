//! Guest-physical to host addresses, one compare on the usual path.

use std::fmt;
use std::sync::Arc;

use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};

use super::{QueueError, Segment};
use crate::memory::{GuestAddress, GuestMemoryMmap};

/// Looks guest addresses up and remembers the region of the last one.
///
/// A guest has a handful of regions and its I/O buffers sit in one or two of them, so the last hit answers
/// nearly every lookup without the binary search over regions that vm-memory does. A region counts only when
/// it is mapped both readable and writable: a descriptor that points into a read-only mapping gets the answer
/// a hole gets, not a SIGSEGV.
pub(super) struct Translator {
    /// First guest address of the remembered region.
    start: u64,
    /// Where all of it is mapped in this process, for as long as `mem` lives. Empty before the first lookup.
    host: Segment,
    mem: Arc<GuestMemoryMmap>,
}

impl Translator {
    pub(super) fn new(mem: Arc<GuestMemoryMmap>) -> Self {
        Self { start: 0, host: Segment::new(std::ptr::null_mut(), 0), mem }
    }

    pub(super) fn memory(&self) -> &Arc<GuestMemoryMmap> {
        &self.mem
    }

    /// Gives `sink` the host segments of the `len` bytes at `addr`: one, or more where they cross into a
    /// region that begins where the last one ends.
    ///
    /// Fails on a length of 0 and on any byte outside guest memory; `sink` may have got the pieces before
    /// that byte.
    #[inline]
    pub(super) fn translate(
        &mut self,
        addr: u64,
        len: u32,
        mut sink: impl FnMut(Segment),
    ) -> Result<(), QueueError> {
        if len == 0 {
            return Err(QueueError::ZeroLength { addr });
        }
        // An address below `start` wraps to a huge offset, so one compare checks both ends.
        let offset = addr.wrapping_sub(self.start);
        let mapped = self.host.len() as u64;
        if offset < mapped && u64::from(len) <= mapped - offset {
            sink(Segment::new(self.host.ptr().wrapping_add(offset as usize), len as usize));
            return Ok(());
        }
        self.translate_slow(addr, len, &mut sink)
    }

    /// The host pointer to `len` bytes at `addr` when they lie in one region.
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
        // Each round finishes a region, so this is bounded by their number.
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

    /// The host pointer for `addr` and how many bytes its region has from there on (at least one).
    #[inline]
    fn locate(&mut self, addr: u64) -> Option<(*mut u8, u64)> {
        let mut offset = addr.wrapping_sub(self.start);
        if offset >= self.host.len() as u64 {
            self.remember(addr)?;
            offset = addr.wrapping_sub(self.start);
        }
        Some((self.host.ptr().wrapping_add(offset as usize), self.host.len() as u64 - offset))
    }

    /// Makes the region around `addr` the remembered one. When there is none the last one stays.
    #[cold]
    #[inline(never)]
    fn remember(&mut self, addr: u64) -> Option<()> {
        const ACCESS: i32 = libc::PROT_READ | libc::PROT_WRITE;
        let region = self.mem.find_region(GuestAddress(addr))?;
        if region.prot() & ACCESS != ACCESS {
            return None;
        }
        self.start = region.start_addr().0;
        self.host = Segment::new(region.as_ptr(), region.size());
        Some(())
    }
}

impl fmt::Debug for Translator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Translator")
            .field("start", &self.start)
            .field("host", &self.host)
            .finish_non_exhaustive()
    }
}

//! Guest buffers as host memory: one [`Segment`], and [`Segments`], a list that is read and written
//! by byte offset.
#![expect(unsafe_code, reason = "guest memory is shared with the guest and accessed through raw pointers")]

use std::fmt;
use std::ops::Deref;

use vm_memory::volatile_memory::VolatileSlice;

/// Up to this many bytes are copied with our own volatile accesses; see `read_guest`.
const SMALL_COPY: usize = 64;

/// A contiguous part of a guest buffer in host memory. It was checked against guest memory when
/// created.
///
/// It has the layout of `struct iovec`, so a slice of segments can be passed to preadv(2),
/// pwritev(2) or io_uring directly ([`Segments::as_iovecs`], [`Segment::as_iovecs`]). It is a
/// pointer and a length without a lifetime: keep the [`Chain`](super::Chain) it came from until the
/// kernel has finished with it.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Segment(libc::iovec);

const _: () = assert!(size_of::<Segment>() == size_of::<libc::iovec>());

// SAFETY: a Segment is an address and a length. Nothing in its safe interface reads or writes
// through the pointer, so moving it to another thread can touch no memory.
unsafe impl Send for Segment {}
// SAFETY: as for Send; a shared Segment only gives out its address and its length.
unsafe impl Sync for Segment {}

impl Segment {
    #[inline]
    pub(super) fn new(ptr: *mut u8, len: usize) -> Self {
        Self(libc::iovec { iov_base: ptr.cast(), iov_len: len })
    }

    /// Returns the host address of the first byte.
    ///
    /// The guest may change the bytes at any time. Do not create a reference to them; use volatile
    /// accesses or let the kernel access them.
    #[inline]
    pub fn ptr(&self) -> *mut u8 {
        self.0.iov_base.cast()
    }

    /// Returns the number of bytes.
    #[inline]
    #[expect(
        clippy::len_without_is_empty,
        reason = "a segment is never empty: a buffer without a byte has none"
    )]
    pub fn len(&self) -> usize {
        self.0.iov_len
    }

    /// Views a list of segments as the iovec array that preadv(2) and io_uring take.
    #[inline]
    pub fn as_iovecs(segments: &[Segment]) -> &[libc::iovec] {
        // SAFETY: Segment is repr(transparent) over iovec, so pointer, length, layout and lifetime
        // carry over.
        unsafe { std::slice::from_raw_parts(segments.as_ptr().cast(), segments.len()) }
    }

    /// Returns the `len` bytes from `offset`. The caller has checked that they are inside.
    #[inline]
    fn part(&self, offset: usize, len: usize) -> Self {
        debug_assert!(
            offset <= self.len() && len <= self.len() - offset,
            "a part must lie inside its segment"
        );
        Self::new(self.ptr().wrapping_add(offset), len)
    }
}

impl fmt::Debug for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:p}+{:#x}", self.ptr(), self.len())
    }
}

/// A list of [`Segment`]s that is read and written by byte offset over the whole list, for any
/// framing.
///
/// A non-empty list is only available as a borrow from a [`Chain`](super::Chain), which keeps the
/// guest memory mapped; this makes the copies safe. (The queues also have one each, for indirect
/// tables.) It dereferences to `[Segment]`: `len()` counts segments, [`Segments::len_bytes`] counts
/// bytes.
#[derive(Default)]
pub struct Segments {
    list: Vec<Segment>,
    bytes: u64,
}

impl Segments {
    pub(super) fn with_capacity(capacity: usize) -> Self {
        Self { list: Vec::with_capacity(capacity), bytes: 0 }
    }

    #[inline]
    pub(super) fn clear(&mut self) {
        self.list.clear();
        self.bytes = 0;
    }

    /// `segment` must come from a `Translator` whose memory is held by the owner of this list.
    #[inline]
    pub(super) fn push(&mut self, segment: Segment) {
        self.list.push(segment);
        // A queue keeps the bytes of a chain under 2^32 (`DeviceQueue::pop`), `Chain::from_buffers`
        // under 2^64.
        self.bytes += segment.len() as u64;
    }

    /// Returns the number of bytes of all segments together.
    #[inline]
    pub fn len_bytes(&self) -> u64 {
        self.bytes
    }

    /// Copies guest bytes, starting at byte `offset`, into `dst`.
    ///
    /// Returns the number of bytes copied: `dst.len()`, or fewer if the list ends first (0 if
    /// `offset` is at or past the end). Each guest byte is read once, so the copy cannot change
    /// afterwards.
    #[inline]
    pub fn copy_to(&self, offset: u64, dst: &mut [u8]) -> usize {
        if let Some(piece) = self.in_first(offset, dst.len()) {
            read_guest(piece, dst);
            return dst.len();
        }
        let mut done = 0;
        for piece in self.pieces(offset, dst.len() as u64) {
            let Some(part) = dst.get_mut(done..done + piece.len()) else {
                break;
            };
            read_guest(piece, part);
            done += piece.len();
        }
        done
    }

    /// Copies the `N` guest bytes at byte `offset`. Returns `None` if the list ends first.
    // Always inlined: with the length known, the usual case is a few loads.
    #[inline(always)]
    pub(super) fn array<const N: usize>(&self, offset: u64) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        if let Some(piece) = self.in_first(offset, N) {
            read_guest(piece, &mut bytes);
            return Some(bytes);
        }
        (self.copy_to(offset, &mut bytes) == N).then_some(bytes)
    }

    /// Copies `src` into guest memory, starting at byte `offset`.
    ///
    /// Returns the number of bytes copied: `src.len()`, or fewer if the list ends first (0 if
    /// `offset` is at or past the end).
    #[inline]
    pub fn copy_from(&self, offset: u64, src: &[u8]) -> usize {
        if let Some(piece) = self.in_first(offset, src.len()) {
            write_guest(piece, src);
            return src.len();
        }
        let mut done = 0;
        for piece in self.pieces(offset, src.len() as u64) {
            let Some(part) = src.get(done..done + piece.len()) else {
                break;
            };
            write_guest(piece, part);
            done += piece.len();
        }
        done
    }

    /// Appends to `out` the segments that cover `len` bytes from `offset`, cut at both ends; fewer
    /// bytes if the list ends first. Copies no data. The caller must keep the chain as long as it
    /// uses `out`.
    pub fn slice_into(&self, offset: u64, len: u64, out: &mut Vec<Segment>) {
        out.extend(self.pieces(offset, len));
    }

    /// Views the whole list as the iovec array that preadv(2) and io_uring take.
    #[inline]
    pub fn as_iovecs(&self) -> &[libc::iovec] {
        Segment::as_iovecs(&self.list)
    }

    /// Returns the `len` bytes from `offset` if all of them are in the first segment, the common
    /// case.
    #[inline(always)]
    fn in_first(&self, offset: u64, len: usize) -> Option<Segment> {
        let first = self.list.first()?;
        let offset = usize::try_from(offset).ok()?;
        (len <= first.len().checked_sub(offset)?).then(|| first.part(offset, len))
    }

    /// Returns the non-empty pieces that cover `len` bytes from `offset`.
    fn pieces(&self, offset: u64, len: u64) -> impl Iterator<Item = Segment> {
        let mut skip = offset;
        let mut left = len;
        self.list.iter().filter_map(move |segment| {
            let have = segment.len() as u64;
            if skip >= have {
                skip -= have;
                return None;
            }
            let take = (have - skip).min(left);
            if take == 0 {
                return None;
            }
            // Both are at most `have`, which came from a usize.
            let piece = segment.part(skip as usize, take as usize);
            skip = 0;
            left -= take;
            Some(piece)
        })
    }
}

impl Deref for Segments {
    type Target = [Segment];

    fn deref(&self) -> &[Segment] {
        &self.list
    }
}

impl fmt::Debug for Segments {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.list).finish()
    }
}

/// Copies the first `dst.len()` bytes of a piece of guest memory.
///
/// A device parses small copies (headers, discard segments). They are volatile, word by word, so
/// that the compiler neither reads a guest byte again after it was checked nor assumes that it did
/// not change. Larger copies are payload, which is not parsed; they use vm-memory's bulk copy.
#[inline(always)]
fn read_guest(piece: Segment, dst: &mut [u8]) {
    debug_assert!(dst.len() <= piece.len(), "a copy must fit its segment");
    if dst.len() > SMALL_COPY {
        // SAFETY: the piece lies in guest memory that is mapped readable and writable (the
        // invariant of `Chain`, whose borrow reaches to here through `Segments`).
        let guest = unsafe { VolatileSlice::new(piece.ptr(), piece.len()) };
        guest.copy_to(dst);
        return;
    }
    let mut from = piece.ptr().cast_const();
    let words_end = if from.cast::<u64>().is_aligned() { dst.len() & !7 } else { 0 };
    let (words, bytes) = dst.split_at_mut(words_end);
    for word in words.chunks_exact_mut(8) {
        // SAFETY: `from` is 8-aligned and has 8 more bytes inside the piece (`dst` is no longer
        // than it), which is mapped (the invariant of `Chain`).
        let value = unsafe { from.cast::<u64>().read_volatile() };
        word.copy_from_slice(&value.to_ne_bytes());
        from = from.wrapping_add(8);
    }
    for byte in bytes {
        // SAFETY: `from` is inside the piece, which is mapped (the invariant of `Chain`).
        *byte = unsafe { from.read_volatile() };
        from = from.wrapping_add(1);
    }
}

/// Copies `src` to the start of a piece of guest memory; the counterpart of `read_guest`.
#[inline]
fn write_guest(piece: Segment, src: &[u8]) {
    debug_assert!(src.len() <= piece.len(), "a copy must fit its segment");
    if src.len() > SMALL_COPY {
        // SAFETY: as in `read_guest`.
        let guest = unsafe { VolatileSlice::new(piece.ptr(), piece.len()) };
        guest.copy_from(src);
        return;
    }
    let mut to = piece.ptr();
    let words_end = if to.cast::<u64>().is_aligned() { src.len() & !7 } else { 0 };
    let (words, bytes) = src.split_at(words_end);
    for word in words.chunks_exact(8) {
        let mut value = [0; 8];
        value.copy_from_slice(word);
        // SAFETY: `to` is 8-aligned and has 8 more bytes inside the piece (`src` is no longer than
        // it), which is mapped writable (the invariant of `Chain`).
        unsafe { to.cast::<u64>().write_volatile(u64::from_ne_bytes(value)) };
        to = to.wrapping_add(8);
    }
    for byte in bytes {
        // SAFETY: `to` is inside the piece, which is mapped writable (the invariant of `Chain`).
        unsafe { to.write_volatile(*byte) };
        to = to.wrapping_add(1);
    }
}

//! The memory layout of a split virtqueue (virtio 1.2, section 2.7), used by the device's side and
//! the driver's side.
//!
//! ```text
//! part         written by   fields
//! desc table   driver       size x { addr u64, len u32, flags u16, next u16 }
//! avail ring   driver       flags u16, idx u16, size x { head u16 }, used_event u16
//! used ring    device       flags u16, idx u16, size x { id u32, len u32 }, avail_event u16
//! ```
//!
//! All fields are little-endian. The indices count modulo 2^16. The low bits of an index are its
//! slot in the ring, so the size must be a power of two.
#![expect(
    unsafe_code,
    reason = "the rings are shared with the guest and reached through checked raw pointers"
)]

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};

use virtio_bindings::bindings::virtio_ring::{
    VRING_AVAIL_ALIGN_SIZE, VRING_DESC_ALIGN_SIZE, VRING_DESC_F_INDIRECT, VRING_DESC_F_NEXT,
    VRING_DESC_F_WRITE, VRING_USED_ALIGN_SIZE,
};
use vm_memory::{GuestAddress, GuestMemoryBackend};

use super::error::{QueueError, RingPart};
use super::translate::Translator;

/// The most descriptors that a chain may have if its queue is smaller than this.
///
/// A driver must not make a chain longer than its queue (virtio 1.2, section 2.7.5.3.1), but
/// drivers do, with an indirect table:
///
/// - Linux sizes its tables by the device's `seg_max` alone (`virtblk_probe`), and a vhost-user
///   backend must announce `seg_max` before it knows the queue size that the frontend chooses
///   (QEMU's default is 128).
/// - Windows' viostor sends up to 515 descriptors, whatever `seg_max` is.
///
/// QEMU serves chains of up to 1024 descriptors, so all drivers stay below that.
pub const MAX_CHAIN: u16 = 1024;

/// The largest queue that 16-bit indices allow (virtio 1.2, section 2.7).
const MAX_SIZE: u16 = 32768;
/// flags and idx, at the start of both rings.
const RING_HEADER: usize = 4;
/// The offset of used.idx in the used ring.
pub(super) const USED_IDX: usize = 2;

/// The location of a queue and the features negotiated for it.
///
/// Both halves copy it when they are created, so the guest cannot change it later. (CVE-2026-5747
/// is a device where the size could change after pointers were cached.)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueConfig {
    /// Number of entries: a power of two from 1 to 32768.
    pub size: u16,
    /// The descriptor table, aligned to 16 bytes.
    pub desc_table: GuestAddress,
    /// The avail ring, aligned to 2 bytes.
    pub avail_ring: GuestAddress,
    /// The used ring, aligned to 4 bytes.
    pub used_ring: GuestAddress,
    /// VIRTIO_F_EVENT_IDX is negotiated: used_event and avail_event are used instead of the flags.
    pub event_idx: bool,
    /// VIRTIO_F_INDIRECT_DESC is negotiated.
    pub indirect: bool,
}

impl QueueConfig {
    /// Places the three parts one after another from `base`, which must be aligned to 16 bytes, and
    /// enables both features.
    pub fn at(base: GuestAddress, size: u16) -> Self {
        let avail_ring = base.0.saturating_add(desc_bytes(size));
        let used_ring = avail_ring.saturating_add(avail_bytes(size).next_multiple_of(USED_ALIGN));
        Self {
            size,
            desc_table: base,
            avail_ring: GuestAddress(avail_ring),
            used_ring: GuestAddress(used_ring),
            event_idx: true,
            indirect: true,
        }
    }

    /// Returns true if a queue may have this number of entries: a power of two from 1 to 32768.
    pub fn is_valid_size(size: u16) -> bool {
        size.is_power_of_two() && size <= MAX_SIZE
    }

    /// Returns the sizes in bytes of descriptor table, avail ring and used ring for `size` entries.
    pub fn part_bytes(size: u16) -> (u64, u64, u64) {
        (desc_bytes(size), avail_bytes(size), used_bytes(size))
    }

    /// Returns the number of bytes that a queue of [`QueueConfig::at`] occupies.
    pub fn bytes(size: u16) -> u64 {
        desc_bytes(size) + avail_bytes(size).next_multiple_of(USED_ALIGN) + used_bytes(size)
    }
}

const DESC_ALIGN: u64 = VRING_DESC_ALIGN_SIZE as u64;
const AVAIL_ALIGN: u64 = VRING_AVAIL_ALIGN_SIZE as u64;
const USED_ALIGN: u64 = VRING_USED_ALIGN_SIZE as u64;

fn desc_bytes(size: u16) -> u64 {
    Descriptor::BYTES as u64 * u64::from(size)
}

/// Includes used_event, which is present even if it is not negotiated (virtio 1.2, section 2.7).
fn avail_bytes(size: u16) -> u64 {
    RING_HEADER as u64 + 2 * u64::from(size) + 2
}

fn used_bytes(size: u16) -> u64 {
    RING_HEADER as u64 + 8 * u64::from(size) + 2
}

/// One descriptor, in host byte order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Descriptor {
    /// Guest address of the buffer, or of the indirect table.
    pub addr: u64,
    /// Its length in bytes.
    pub len: u32,
    /// [`Descriptor::NEXT`], [`Descriptor::WRITE`], [`Descriptor::INDIRECT`].
    pub flags: u16,
    /// Index of the next descriptor, if [`Descriptor::NEXT`] is set.
    pub next: u16,
}

impl Descriptor {
    /// Its size in memory, in bytes.
    pub const BYTES: usize = 16;
    /// The chain continues at `next`.
    pub const NEXT: u16 = VRING_DESC_F_NEXT as u16;
    /// The device may write the buffer (and should not read it).
    pub const WRITE: u16 = VRING_DESC_F_WRITE as u16;
    /// The buffer is a table of descriptors.
    pub const INDIRECT: u16 = VRING_DESC_F_INDIRECT as u16;

    /// Returns true if all bits of `flag` are set.
    #[inline]
    pub fn has(&self, flag: u16) -> bool {
        self.flags & flag == flag
    }

    /// Returns the descriptor as it is stored in memory.
    #[inline]
    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        let (addr, rest) = bytes.split_at_mut(8);
        addr.copy_from_slice(&self.addr.to_le_bytes());
        rest.copy_from_slice(&self.second_word().to_le_bytes());
        bytes
    }

    /// Returns the same as two words in memory byte order.
    #[cfg(all(feature = "kvm", target_arch = "x86_64"))]
    pub(crate) fn to_words(self) -> [u64; 2] {
        [self.addr.to_le(), self.second_word().to_le()]
    }

    /// The reverse of [`Descriptor::to_bytes`].
    #[inline]
    pub fn from_bytes(bytes: [u8; Self::BYTES]) -> Self {
        let both = u128::from_le_bytes(bytes);
        Self::from_words(both as u64, (both >> 64) as u64)
    }

    /// Builds it from its two words in host byte order.
    #[inline]
    fn from_words(addr: u64, rest: u64) -> Self {
        Self { addr, len: rest as u32, flags: (rest >> 32) as u16, next: (rest >> 48) as u16 }
    }

    #[inline]
    fn second_word(&self) -> u64 {
        u64::from(self.len) | u64::from(self.flags) << 32 | u64::from(self.next) << 48
    }
}

/// The three parts of a queue. They are checked once and then accessed by pointer.
///
/// Every accessor masks its index to the size or compares it with the size, which never changes. So
/// no index, from the guest or from us, reaches outside. All accesses are atomic because the other
/// side is running.
pub(super) struct Rings<M> {
    /// Invariant (also of `avail` and `used`): mapped readable and writable while `_mem` is held
    /// (see `Translator::remember`), with the alignment and the length that the layout requires for
    /// a queue of `mask + 1` entries.
    desc: *mut u8,
    avail: *mut u8,
    used: *mut u8,
    /// The size minus one.
    mask: u16,
    _mem: Arc<M>,
}

// SAFETY: the pointers refer to memory that `_mem` keeps mapped on whichever thread this value is,
// and all accesses through them are atomic. An `Arc<M>` may be sent if `M` is Send and Sync.
unsafe impl<M: Send + Sync> Send for Rings<M> {}

impl<M: GuestMemoryBackend + 'static> Rings<M> {
    /// Checks a queue that a driver set up: its size, and that each part is aligned and lies in one
    /// region.
    pub(super) fn new(mem: &Arc<M>, config: &QueueConfig) -> Result<Self, QueueError> {
        let size = config.size;
        if !QueueConfig::is_valid_size(size) {
            return Err(QueueError::Size { size });
        }
        let mut translator = Translator::new(Arc::clone(mem));
        let mut part = |part, addr: GuestAddress, len, align| {
            let addr = addr.0;
            let host =
                translator.contiguous(addr, len).ok_or(QueueError::RingUnmapped { part, addr, len })?;
            // The driver must align the guest address; atomics need an aligned host address. The
            // two differ if a region starts at an odd guest address.
            if !addr.is_multiple_of(align) || !(host.addr() as u64).is_multiple_of(align) {
                return Err(QueueError::Misaligned { part, addr, align });
            }
            Ok(host)
        };
        Ok(Self {
            desc: part(RingPart::DescriptorTable, config.desc_table, desc_bytes(size), DESC_ALIGN)?,
            avail: part(RingPart::AvailRing, config.avail_ring, avail_bytes(size), AVAIL_ALIGN)?,
            used: part(RingPart::UsedRing, config.used_ring, used_bytes(size), USED_ALIGN)?,
            mask: size - 1,
            _mem: Arc::clone(mem),
        })
    }
}

impl<M> Rings<M> {
    #[inline]
    pub(super) fn size(&self) -> u16 {
        self.mask + 1
    }

    /// Copies descriptor `index` once. Returns `None` if the table has no such entry.
    #[inline]
    pub(super) fn descriptor(&self, index: u16) -> Option<Descriptor> {
        let (addr, rest) = self.descriptor_words(index)?;
        let addr = u64::from_le(addr.load(Ordering::Relaxed));
        Some(Descriptor::from_words(addr, u64::from_le(rest.load(Ordering::Relaxed))))
    }

    /// Writes descriptor `index`; does nothing when the table has no such entry.
    #[inline]
    pub(super) fn set_descriptor(&self, index: u16, descriptor: Descriptor) {
        if let Some((addr, rest)) = self.descriptor_words(index) {
            addr.store(descriptor.addr.to_le(), Ordering::Relaxed);
            rest.store(descriptor.second_word().to_le(), Ordering::Relaxed);
        }
    }

    #[inline]
    fn descriptor_words(&self, index: u16) -> Option<(&AtomicU64, &AtomicU64)> {
        if index > self.mask {
            return None;
        }
        let entry = self.desc.wrapping_add(Descriptor::BYTES * usize::from(index));
        // SAFETY: `index` is an entry of the table, so these 8 bytes are in `desc` (the invariant
        // of `Rings`), and they are aligned to 16.
        let addr = unsafe { AtomicU64::from_ptr(entry.cast()) };
        // SAFETY: the same entry's second 8 bytes.
        let rest = unsafe { AtomicU64::from_ptr(entry.wrapping_add(8).cast()) };
        Some((addr, rest))
    }

    /// avail.idx: how many chains the driver has ever made available, modulo 2^16.
    #[inline]
    pub(super) fn avail_idx(&self) -> Le16<'_> {
        self.avail_u16(2)
    }

    /// The entry of avail.ring for index `at`.
    #[inline]
    pub(super) fn avail_entry(&self, at: u16) -> Le16<'_> {
        self.avail_u16(RING_HEADER + 2 * usize::from(at & self.mask))
    }

    /// The request of the driver: used_event, after avail.ring, or avail.flags.
    #[inline]
    pub(super) fn interrupt_request(&self, event_idx: bool) -> Le16<'_> {
        self.avail_u16(if event_idx { RING_HEADER + 2 * usize::from(self.size()) } else { 0 })
    }

    /// used.idx: how many chains the device has ever completed, modulo 2^16.
    #[inline]
    pub(super) fn used_idx(&self) -> Le16<'_> {
        self.used_u16(USED_IDX)
    }

    /// The request of the device: avail_event, after used.ring, or used.flags.
    #[inline]
    pub(super) fn kick_request(&self, event_idx: bool) -> Le16<'_> {
        self.used_u16(self.kick_request_offset(event_idx))
    }

    /// The offset of [`kick_request`](Self::kick_request) in the used ring.
    #[inline]
    pub(super) fn kick_request_offset(&self, event_idx: bool) -> usize {
        if event_idx { RING_HEADER + 8 * usize::from(self.size()) } else { 0 }
    }

    /// The offset of the entry for index `at` in the used ring, which has 8 bytes.
    #[inline]
    pub(super) fn used_entry_offset(&self, at: u16) -> usize {
        RING_HEADER + 8 * usize::from(at & self.mask)
    }

    /// Reads the entry of used.ring for index `at`: id and len.
    #[inline]
    pub(super) fn used_entry(&self, at: u16) -> (u32, u32) {
        let (id, len) = self.used_words(at);
        (u32::from_le(id.load(Ordering::Relaxed)), u32::from_le(len.load(Ordering::Relaxed)))
    }

    /// Writes the entry of used.ring for index `at`.
    #[inline]
    pub(super) fn set_used_entry(&self, at: u16, id: u32, len: u32) {
        let words = self.used_words(at);
        words.0.store(id.to_le(), Ordering::Relaxed);
        words.1.store(len.to_le(), Ordering::Relaxed);
    }

    #[inline]
    fn used_words(&self, at: u16) -> (&AtomicU32, &AtomicU32) {
        let entry = self.used.wrapping_add(self.used_entry_offset(at));
        // SAFETY: the masked index is an entry of the ring, so these 4 bytes are in `used` (the
        // invariant of `Rings`); the ring and its header are multiples of 4.
        let id = unsafe { AtomicU32::from_ptr(entry.cast()) };
        // SAFETY: the same entry's second 4 bytes.
        let len = unsafe { AtomicU32::from_ptr(entry.wrapping_add(4).cast()) };
        (id, len)
    }

    /// `offset` must be even and inside [`avail_bytes`]: a header field, a masked entry, or the
    /// field after the last entry.
    #[inline]
    fn avail_u16(&self, offset: usize) -> Le16<'_> {
        debug_assert!(offset as u64 + 2 <= avail_bytes(self.size()));
        // SAFETY: in bounds and aligned to 2 by the line above and the invariant of `Rings`.
        Le16(unsafe { AtomicU16::from_ptr(self.avail.wrapping_add(offset).cast()) })
    }

    /// `offset` must be even and inside [`used_bytes`]: a header field or the field after the last
    /// entry.
    #[inline]
    fn used_u16(&self, offset: usize) -> Le16<'_> {
        debug_assert!(offset as u64 + 2 <= used_bytes(self.size()));
        // SAFETY: in bounds and aligned to 2 by the line above and the invariant of `Rings`.
        Le16(unsafe { AtomicU16::from_ptr(self.used.wrapping_add(offset).cast()) })
    }
}

impl<M> fmt::Debug for Rings<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rings")
            .field("size", &self.size())
            .field("avail_idx", &self.avail_idx().load(Ordering::Relaxed))
            .field("used_idx", &self.used_idx().load(Ordering::Relaxed))
            .finish_non_exhaustive()
    }
}

/// A little-endian 16-bit field of a ring.
pub(super) struct Le16<'a>(&'a AtomicU16);

impl Le16<'_> {
    #[inline]
    pub(super) fn load(&self, order: Ordering) -> u16 {
        u16::from_le(self.0.load(order))
    }

    #[inline]
    pub(super) fn store(&self, value: u16, order: Ordering) {
        self.0.store(value.to_le(), order);
    }
}

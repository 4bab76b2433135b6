//! What the device sees of a request: a [`Chain`] of guest buffers as host memory.
//!
//! A chain is two lists of segments, the pieces the driver filled ([`Chain::readable`]) and the pieces the
//! device may fill ([`Chain::writable`]), each in the driver's order. Where one piece ends and the next
//! begins means nothing: the device must not assume any framing (virtio 1.2, section 2.7.4.1), so
//! [`Segments`] is addressed by byte offset over the whole list.

use std::sync::Arc;

use vm_memory::{GuestAddress, GuestMemoryBackend};

use super::error::QueueError;
use super::segment::Segments;
use super::translate::Translator;
use crate::memory::GuestMemoryMmap;

/// Header, data and status of a block request with some scatter; a longer chain grows the vectors once.
const TYPICAL_SEGMENTS: usize = 16;

/// A descriptor chain, taken off the avail ring by [`DeviceQueue::pop`](super::DeviceQueue::pop).
///
/// It is a reusable slot: `pop` overwrites it and its vectors keep their capacity, so a device that keeps its
/// slots allocates nothing per request. It holds the guest memory that its segments point into; as long as a
/// chain lives, on this thread, on another or behind an operation given to the kernel, that memory stays
/// mapped.
#[derive(Debug)]
pub struct Chain<M = GuestMemoryMmap> {
    head: u16,
    readable: Segments,
    writable: Segments,
    /// Invariant: every segment of both lists lies inside a readable and writable region of this memory.
    mem: Arc<M>,
}

impl<M: GuestMemoryBackend + 'static> Chain<M> {
    /// An empty slot for chains of `mem`, with room for a typical chain.
    pub fn new(mem: Arc<M>) -> Self {
        Self {
            head: 0,
            readable: Segments::with_capacity(TYPICAL_SEGMENTS),
            writable: Segments::with_capacity(TYPICAL_SEGMENTS),
            mem,
        }
    }

    /// A chain made without a ring: `readable` then `writable` buffers of `mem`, as (address, bytes).
    ///
    /// For whoever has buffers from elsewhere, tests of a device first of all. Fails as `pop` would: a
    /// zero-length buffer, or bytes outside guest memory.
    pub fn from_buffers(
        mem: Arc<M>,
        head: u16,
        readable: &[(GuestAddress, u32)],
        writable: &[(GuestAddress, u32)],
    ) -> Result<Self, QueueError> {
        let mut translator = Translator::new(mem.clone());
        let mut chain = Self::new(mem);
        chain.head = head;
        for &(addr, len) in readable {
            chain.add_readable(&mut translator, addr.0, len)?;
        }
        for &(addr, len) in writable {
            chain.add_writable(&mut translator, addr.0, len)?;
        }
        Ok(chain)
    }

    /// The index of its first descriptor: its name on the rings, handed back with
    /// [`DeviceQueue::push`](super::DeviceQueue::push).
    #[inline]
    pub fn head(&self) -> u16 {
        self.head
    }

    /// Driver to device, in order. The device must not write there.
    #[inline]
    pub fn readable(&self) -> &Segments {
        &self.readable
    }

    /// Device to driver, in order.
    #[inline]
    pub fn writable(&self) -> &Segments {
        &self.writable
    }

    /// The guest memory it points into.
    pub fn memory(&self) -> &Arc<M> {
        &self.mem
    }

    /// Empties the slot and makes it a chain of the translator's memory named `head`.
    #[inline]
    pub(super) fn reset(&mut self, translator: &Translator<M>, head: u16) {
        self.clear();
        self.head = head;
        if !Arc::ptr_eq(&self.mem, translator.memory()) {
            self.mem = translator.memory().clone();
        }
    }

    #[inline]
    pub(super) fn clear(&mut self) {
        self.readable.clear();
        self.writable.clear();
    }

    /// Appends a device-readable buffer, split where it crosses into another region.
    #[inline]
    pub(super) fn add_readable(
        &mut self,
        from: &mut Translator<M>,
        addr: u64,
        len: u32,
    ) -> Result<(), QueueError> {
        debug_assert!(Arc::ptr_eq(&self.mem, from.memory()), "a chain is filled from its own memory");
        let readable = &mut self.readable;
        from.translate(addr, len, |segment| readable.push(segment))
    }

    /// Appends a device-writable buffer, split where it crosses into another region.
    #[inline]
    pub(super) fn add_writable(
        &mut self,
        from: &mut Translator<M>,
        addr: u64,
        len: u32,
    ) -> Result<(), QueueError> {
        debug_assert!(Arc::ptr_eq(&self.mem, from.memory()), "a chain is filled from its own memory");
        let writable = &mut self.writable;
        from.translate(addr, len, |segment| writable.push(segment))
    }
}

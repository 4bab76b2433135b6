//! A request as the device sees it: a [`Chain`] of guest buffers as host memory.
//!
//! A chain has two lists of segments: the buffers the driver filled ([`Chain::readable`]) and the
//! buffers the device may fill ([`Chain::writable`]), each in the driver's order. The device must
//! not assume any framing (virtio 1.2, section 2.7.4.1), so [`Segments`] is addressed by byte
//! offset over the whole list.

use std::sync::Arc;

use vm_memory::{GuestAddress, GuestMemoryBackend};

use super::error::QueueError;
use super::segment::Segments;
use super::translate::Translator;
use crate::memory::GuestMemoryMmap;

/// Enough for a block request with header, some data buffers and status. A longer chain grows the
/// vectors.
const TYPICAL_SEGMENTS: usize = 16;

/// A descriptor chain, taken off the avail ring by [`DeviceQueue::pop`](super::DeviceQueue::pop).
///
/// It is a reusable slot: `pop` overwrites it, and its vectors keep their capacity. A device that
/// reuses its slots therefore allocates nothing per request.
///
/// The chain holds an `Arc` of the guest memory that its segments point into, so this memory stays
/// mapped as long as the chain exists. Keep the chain until the kernel has finished the operations
/// that use its segments. A chain may be sent to another thread if `M` is `Send + Sync`.
#[derive(Debug)]
pub struct Chain<M = GuestMemoryMmap> {
    head: u16,
    readable: Segments,
    writable: Segments,
    /// Invariant: every segment of both lists lies inside a readable and writable region of this
    /// memory, whose host mapping is valid while this `Arc` is held (see `Translator::remember`).
    mem: Arc<M>,
}

impl<M: GuestMemoryBackend + 'static> Chain<M> {
    /// Creates an empty slot for chains in `mem`, with room for a typical chain.
    pub fn new(mem: Arc<M>) -> Self {
        Self {
            head: 0,
            readable: Segments::with_capacity(TYPICAL_SEGMENTS),
            writable: Segments::with_capacity(TYPICAL_SEGMENTS),
            mem,
        }
    }

    /// Creates a chain without a ring from buffers in `mem`, each as (guest address, bytes).
    ///
    /// For tests of a device, and for callers that get their buffers from elsewhere.
    ///
    /// # Errors
    /// [`QueueError::Unmapped`] for bytes outside guest memory.
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

    /// Returns the index of the first descriptor, which identifies the chain on the rings. It is
    /// passed to [`DeviceQueue::push`](super::DeviceQueue::push).
    #[inline]
    pub fn head(&self) -> u16 {
        self.head
    }

    /// Returns the buffers from driver to device, in order. The device must not write to them.
    #[inline]
    pub fn readable(&self) -> &Segments {
        &self.readable
    }

    /// Returns the buffers from device to driver, in order.
    #[inline]
    pub fn writable(&self) -> &Segments {
        &self.writable
    }

    /// Returns the guest memory that the segments point into.
    pub fn memory(&self) -> &Arc<M> {
        &self.mem
    }

    /// Empties the slot and prepares it for the chain `head` in the memory of the translator.
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
        debug_assert!(
            Arc::ptr_eq(&self.mem, from.memory()),
            "the translator must have the memory of the chain"
        );
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
        debug_assert!(
            Arc::ptr_eq(&self.mem, from.memory()),
            "the translator must have the memory of the chain"
        );
        let writable = &mut self.writable;
        from.translate(addr, len, |segment| writable.push(segment))
    }
}

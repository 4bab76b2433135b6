//! Groups of buffers that the kernel chooses from, and the buffers that it has filled.
#![expect(unsafe_code, reason = "borrows the bytes of a buffer that the kernel has handed over")]

use super::entry::RingId;
use crate::sys::buffer_ring::BufferRing;
use std::cell::Cell;
use std::fmt;
use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::rc::Rc;

/// A group of buffers of one size, which the kernel chooses from when data has come.
///
/// So an operation that waits, such as [`RecvMultishot`](super::RecvMultishot), needs no buffer of
/// its own meanwhile. A filled buffer is [lent](LentBuffer) to the callback, and returns to its
/// group when it is dropped. Made by
/// [`AioContext::buffer_group`](crate::AioContext::buffer_group). Home thread.
///
/// This is a handle; clones are the same group. The memory is freed when the last of them, and the
/// last lent buffer, was dropped.
#[derive(Clone)]
pub struct BufferGroup(Rc<Group>);

struct Group {
    /// Freed only if the kernel does not keep it.
    buffers: ManuallyDrop<BufferRing>,
    ring: RingId,
    lent: Cell<u16>,
    withdrawal: Box<dyn Withdrawal>,
}

/// How a group is taken back from the ring that it was provided to.
pub(crate) trait Withdrawal {
    /// Returns false if the kernel keeps the buffers.
    fn withdraw(&self, group: u16) -> bool;
}

impl BufferGroup {
    /// A group that was provided to a ring. When it is dropped, it is withdrawn.
    pub(crate) fn new(buffers: BufferRing, ring: RingId, withdrawal: Box<dyn Withdrawal>) -> Self {
        Self(Rc::new(Group { buffers: ManuallyDrop::new(buffers), ring, lent: Cell::new(0), withdrawal }))
    }

    /// The number of buffers, lent or not: a power of two.
    pub fn buffers(&self) -> usize {
        self.0.buffers.entries().into()
    }

    /// The size of each buffer in bytes.
    pub fn buffer_size(&self) -> usize {
        self.0.buffers.size() as usize
    }

    /// How many buffers are lent out at present.
    pub fn lent(&self) -> usize {
        self.0.lent.get().into()
    }

    /// The number of the group, on the ring that it was provided to.
    pub(super) fn number_on(&self, ring: RingId) -> Option<u16> {
        (self.0.ring == ring).then(|| self.0.buffers.group())
    }

    /// The buffer that a completion names, with so many bytes.
    pub(super) fn lend(&self, id: u16, len: u32) -> LentBuffer {
        self.0.lent.set(self.0.lent.get().saturating_add(1));
        LentBuffer { group: self.clone(), id, len: len.min(self.0.buffers.size()) as usize }
    }
}

impl fmt::Debug for BufferGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BufferGroup")
            .field("buffers", &self.buffers())
            .field("buffer_size", &self.buffer_size())
            .field("lent", &self.lent())
            .finish()
    }
}

impl Drop for Group {
    /// Nothing is in flight: an operation that selects from the group owns a handle of it.
    fn drop(&mut self) {
        if self.withdrawal.withdraw(self.buffers.group()) {
            // SAFETY: not used after this.
            unsafe { ManuallyDrop::drop(&mut self.buffers) };
        }
    }
}

/// A buffer that the kernel has filled: it dereferences to the bytes that came, which are one or
/// more. Dropping it returns it to its group, whether the context still exists or not, without a
/// system call. Home thread.
///
/// A callback may keep it, for example in a queue, but each one that is kept is missing in the
/// group. If none is left, the operation [ends](super::RecvMultishot) with ENOBUFS.
pub struct LentBuffer {
    group: BufferGroup,
    id: u16,
    len: usize,
}

impl Deref for LentBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let start = self.group.0.buffers.buffer(self.id);
        // SAFETY: inside the buffer, because `len` is at most its size. All of it is initialised.
        // The kernel has handed it over, and does not use it until it is given back.
        unsafe { std::slice::from_raw_parts(start.as_ptr(), self.len) }
    }
}

impl Drop for LentBuffer {
    fn drop(&mut self) {
        self.group.0.lent.set(self.group.0.lent.get().saturating_sub(1));
        self.group.0.buffers.give_back(self.id);
    }
}

impl fmt::Debug for LentBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LentBuffer").field("len", &self.len).finish_non_exhaustive()
    }
}

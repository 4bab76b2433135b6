//! Groups of buffers that the kernel chooses from, and the buffers that it has filled.
#![expect(unsafe_code, reason = "borrows the bytes of a buffer that the kernel has handed over")]

use super::entry::{Again, RingId};
use super::waiting::Waiting;
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
    waiting: Waiting,
    home: Box<dyn GroupHome>,
}

/// The ring that a group was provided to, and its loop. All of it does nothing once the context was
/// dropped.
pub(crate) trait GroupHome {
    /// Takes the group back. Returns false if the kernel keeps the buffers.
    fn withdraw(&self, group: u16) -> bool;

    /// Starts an operation again. Returns false if it was cancelled.
    fn submit_again(&self, again: Again) -> bool;

    /// Runs a closure in the next turn.
    fn defer(&self, closure: Box<dyn FnOnce()>);
}

impl BufferGroup {
    /// A group that was provided to a ring. When it is dropped, it is withdrawn.
    pub(crate) fn new(buffers: BufferRing, ring: RingId, home: Box<dyn GroupHome>) -> Self {
        let (buffers, lent) = (ManuallyDrop::new(buffers), Cell::new(0));
        Self(Rc::new(Group { buffers, ring, lent, waiting: Waiting::default(), home }))
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

    /// How many operations have data, or had it when they looked, and wait for a buffer. They are
    /// started again in the order in which they came here, as buffers return.
    pub fn waiting(&self) -> usize {
        self.0.waiting.len()
    }

    /// How often an operation has found no buffer (ENOBUFS), since the group was made. If this
    /// grows as fast as data comes, the group is too small, or buffers are kept for too long.
    pub fn exhausted(&self) -> u64 {
        self.0.waiting.exhausted()
    }

    pub(super) fn waiting_operations(&self) -> &Waiting {
        &self.0.waiting
    }

    fn free(&self) -> usize {
        self.buffers().saturating_sub(self.lent())
    }

    /// Has the next turn start operations that wait, if a buffer is free for one.
    pub(super) fn serve_later(&self) {
        let waiting = &self.0.waiting;
        if self.free() == 0 || waiting.len() == 0 || waiting.scheduled.replace(true) {
            return;
        }
        let group = Rc::downgrade(&self.0);
        self.0.home.defer(Box::new(move || {
            if let Some(group) = group.upgrade() {
                BufferGroup(group).serve();
            }
        }));
    }

    /// Starts as many operations as there are free buffers. After the completions of a turn, so
    /// that each buffer that the kernel has filled counts as lent.
    fn serve(&self) {
        let waiting = &self.0.waiting;
        waiting.scheduled.set(false);
        let mut free = self.free();
        while free > 0
            && let Some(again) = waiting.next()
        {
            free -= usize::from(self.0.home.submit_again(again));
        }
        // Perhaps those that were started need no buffer now.
        self.serve_later();
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
            .field("waiting", &self.waiting())
            .finish()
    }
}

impl Drop for Group {
    /// Nothing is in flight: an operation that selects from the group owns a handle of it.
    fn drop(&mut self) {
        if self.home.withdraw(self.buffers.group()) {
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
/// group. If none is left, operations [wait](super::RecvMultishot) until one returns.
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
        self.group.serve_later();
    }
}

impl fmt::Debug for LentBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LentBuffer").field("len", &self.len).finish_non_exhaustive()
    }
}

//! What a chain means: the device's side of one queue.

use std::rc::Rc;

use aio::Timer;
use vm_memory::GuestMemoryBackend;

use super::rate_limit::RateLimit;
use super::stats::QueueStats;
use crate::memory::GuestMemoryMmap;
use crate::virtqueue::{Chain, QueueError};

/// The device's side of one queue. Lives in the home thread of the queue's loop, and is called
/// there only.
///
/// [`begin`](Self::begin) gets each chain that the driver makes available. It returns the answer,
/// or keeps the chain and answers later through the [`QueueRef`](super::QueueRef) it was made with,
/// from any callback of the loop. A queue that is stopped waits for these answers. So a worker must
/// not keep a chain until something outside of its control happens, such as input that arrives: it
/// waits for that in [`may_begin`](Self::may_begin).
///
/// A chain travels in a *slot*, which has room for it and for whatever the device needs to carry it
/// out. Slots are used again, so a queue that has been busy allocates nothing. A device that
/// answers each chain at once needs none of that: see [`Immediate`].
///
/// A method may panic. The panic unwinds out of [`AioContext::poll`](aio::AioContext::poll). The
/// chain that [`begin`](Self::begin) was working on is returned to the driver with nothing written,
/// so it must not be answered later. The next turn continues with the other chains.
pub trait Worker: 'static {
    /// The guest's memory.
    type Memory: GuestMemoryBackend + 'static;

    /// Room for one chain.
    type Slot: 'static;

    /// Makes a slot around an empty chain.
    fn new_slot(&self, chain: Chain<Self::Memory>) -> Self::Slot;

    /// The chain of a slot.
    fn chain(slot: &mut Self::Slot) -> &mut Chain<Self::Memory>;

    /// Carries out a chain. `None` if the answer comes later. Must not block; report to `meter` how
    /// many bytes it moves.
    fn begin(&self, slot: Self::Slot, meter: Meter<'_>) -> Option<Answer<Self::Slot>>;

    /// Answers a chain that cannot be served, because of `error`: see
    /// [`QueueError::is_of_one_chain`]. The chain has no readable part, and at most one writable
    /// byte: the last one that the driver provided, where a request has its status. By default
    /// nothing is written to it.
    fn refuse(&self, slot: Self::Slot, _error: QueueError) -> Answer<Self::Slot> {
        Answer { slot, written: 0 }
    }

    /// Whether [`begin`](Self::begin) may be called now. While this is false nothing is taken off
    /// the ring and no kick is asked for: the device's own back-pressure. When that changes, call
    /// [`QueueRef::wake`](super::QueueRef::wake). Called very often, so it only looks at memory.
    fn may_begin(&self) -> bool {
        true
    }

    /// Asked once, when the queue starts: whether the worker has to wait for something before it
    /// may work at all. Then nothing is taken off the ring, not even what a former process left,
    /// until [`QueueRef::wake`](super::QueueRef::wake) is called. The queue can be stopped
    /// meanwhile.
    fn waits(&self) -> bool {
        false
    }

    /// The number of chains that are taken off the ring before [`commit`](Self::commit) and before
    /// other handlers of the loop get their turn. At least 1. A small one grows to half of what the
    /// driver has outstanding, up to 32. By default 1024: as many as QEMU's longest queue has, but
    /// a driver may make one of 32768 entries.
    fn batch(&self) -> u16 {
        1024
    }

    /// Whether [`commit`](Self::commit) is to be called. Asked at the end of each batch.
    fn collects(&self) -> bool {
        true
    }

    /// Called at the end of a batch: carries out, or submits to the kernel, what
    /// [`begin`](Self::begin) has collected. What is answered by that is passed to `answered`. May
    /// be called when there is nothing to do.
    fn commit(&self, _answered: impl FnMut(Answer<Self::Slot>)) {}

    /// Number of system calls that the loop's thread made to submit chains to the kernel, without
    /// the system calls of the loop itself.
    fn submit_calls(&self) -> u64 {
        0
    }

    /// Number of times that such a system call took too long, so that the worker makes none for a
    /// while.
    fn stalls(&self) -> u64 {
        0
    }

    /// The queue ends with these counters. Called when it is dropped.
    fn ended(&self, _stats: QueueStats) {}
}

/// A chain that was carried out.
#[derive(Debug)]
pub struct Answer<S> {
    /// Its slot.
    pub slot: S,
    /// Bytes written to its writable part, as the used ring reports them.
    pub written: u32,
}

/// Charges a chain to the rate limit that its queue has, if it has one.
#[derive(Debug, Clone, Copy)]
pub struct Meter<'a> {
    pub(super) limit: Option<&'a RateLimit>,
    pub(super) clock: &'a Timer,
}

impl Meter<'_> {
    /// Charges one request that moves so many bytes. `bytes` is called only if there is a limit.
    #[inline]
    pub fn charge(self, bytes: impl FnOnce() -> u64) {
        if let Some(limit) = self.limit
            && !limit.is_unlimited()
        {
            limit.charge(bytes(), self.clock.now_ns());
        }
    }
}

/// A device's side of a queue that answers each chain at once: all that most devices need.
pub trait Handled: 'static {
    /// Carries out a chain: reads its readable part, writes its writable part, and returns how many
    /// bytes it wrote. Must not block.
    fn handle(&self, chain: &Chain) -> u32;

    /// As [`Worker::may_begin`].
    fn may_begin(&self) -> bool {
        true
    }
}

/// A [`Worker`] made of a [`Handled`].
#[derive(Debug)]
pub struct Immediate<H> {
    handler: Rc<H>,
}

impl<H> Immediate<H> {
    /// The handler may be shared with callbacks of the loop.
    pub fn new(handler: Rc<H>) -> Self {
        Self { handler }
    }
}

impl<H: Handled> Worker for Immediate<H> {
    type Memory = GuestMemoryMmap;
    type Slot = Box<Chain>;

    fn new_slot(&self, chain: Chain) -> Box<Chain> {
        Box::new(chain)
    }

    fn chain(slot: &mut Box<Chain>) -> &mut Chain {
        slot
    }

    fn begin(&self, slot: Box<Chain>, meter: Meter<'_>) -> Option<Answer<Box<Chain>>> {
        meter.charge(|| slot.readable().len_bytes() + slot.writable().len_bytes());
        let written = self.handler.handle(&slot);
        Some(Answer { slot, written })
    }

    fn may_begin(&self) -> bool {
        self.handler.may_begin()
    }
}

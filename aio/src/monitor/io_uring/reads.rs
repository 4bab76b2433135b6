//! READs of eventfds that the ring keeps in flight, and the memory that the kernel writes to.
#![expect(unsafe_code, reason = "provides buffers to the ring, which are kept until they are withdrawn")]

use crate::sys::buffer_ring::BufferRing;
use crate::sys::eventfd::EventFd;
use crate::sys::uring::Ring;
use crate::token::{Kind, Token};
use io_uring::cqueue;
use slab::Slab;
use std::cell::{Cell, RefCell};
use std::io;
use std::sync::Arc;

/// The provided-buffer group of READ_MULTISHOT.
pub(super) const COUNTER_GROUP: u16 = u16::MAX;

/// How many buffers it has.
const COUNTERS: u16 = 256;

/// Entries live from arming to the last completion, which may come after the handler was removed.
#[derive(Debug, Default)]
pub(super) struct Reads {
    slots: RefCell<Slab<Read>>,
    /// Eight bytes for the count of each completion of READ_MULTISHOT. Nobody looks at them.
    counters: RefCell<Option<BufferRing>>,
}

#[derive(Debug)]
struct Read {
    handler: Token,
    /// Keeps the file open as long as the read may complete. Rung again if the read completes after
    /// its handler was removed.
    eventfd: Option<Arc<EventFd>>,
    in_flight: bool,
    /// Where the kernel writes the count. Nobody looks at it.
    count: Box<Cell<u64>>,
}

/// The completion of a read.
pub(super) struct ReadDone {
    /// The handler that it was armed for.
    pub(super) handler: Token,
    /// No further completion follows.
    pub(super) last: bool,
}

impl Reads {
    /// Starts a read, or starts one again under its old key. Returns the key, the token for the SQE
    /// and the eight bytes that the kernel may write until the last completion.
    pub(super) fn start(
        &self,
        key: Option<u32>,
        handler: Token,
        eventfd: Option<&Arc<EventFd>>,
    ) -> (u32, Token, *mut u8) {
        let mut slots = self.slots.borrow_mut();
        let key = match key.filter(|key| slots.contains(*key as usize)) {
            Some(key) => key as usize,
            None => slots.insert(Read {
                handler,
                eventfd: eventfd.cloned(),
                in_flight: true,
                count: Box::default(),
            }),
        };
        let read = &mut slots[key];
        read.in_flight = true;
        // At most as many reads as handlers, which have 2^28 slots, and one more for each that was
        // removed in this turn.
        (key as u32, Token::new(Kind::Read, key, 0), read.count.as_ptr().cast())
    }

    /// Provides the buffers of READ_MULTISHOT to the ring, unless it already has them.
    pub(super) fn provide_counters(&self, ring: &mut Ring) -> io::Result<()> {
        let mut counters = self.counters.borrow_mut();
        if counters.is_none() {
            let buffers = BufferRing::new(COUNTER_GROUP, COUNTERS, 8)?;
            // SAFETY: they are kept until `withdraw_counters`, or leaked.
            unsafe { ring.provide(&buffers)? };
            *counters = Some(buffers);
        }
        Ok(())
    }

    /// The handler of a read was removed. Returns the token of a read that has to be cancelled.
    pub(super) fn remove(&self, key: u32) -> Option<Token> {
        let mut slots = self.slots.borrow_mut();
        if slots.get(key as usize)?.in_flight {
            return Some(Token::new(Kind::Read, key as usize, 0));
        }
        slots.try_remove(key as usize);
        None
    }

    /// Takes note of a completion. `is_live` says whether a handler still exists.
    pub(super) fn complete(
        &self,
        token: Token,
        result: i32,
        flags: u32,
        is_live: impl FnOnce(Token) -> bool,
    ) -> Option<ReadDone> {
        if let (Some(id), Some(counters)) = (cqueue::buffer_select(flags), &*self.counters.borrow()) {
            counters.give_back(id);
        }
        let mut slots = self.slots.borrow_mut();
        let read = slots.get_mut(token.slot())?;
        let (handler, last) = (read.handler, !cqueue::more(flags));
        let is_live = is_live(handler);
        if !is_live
            && result > 0
            && let Some(eventfd) = &read.eventfd
        {
            // It took a count that no handler will act on. Ring again, for the doorbell's next
            // handler.
            let _ = eventfd.ring();
        }
        if last {
            read.in_flight = false;
            if !is_live {
                // Removed while the read was in flight; this was the completion to wait for.
                slots.remove(token.slot());
            }
        }
        Some(ReadDone { handler, last })
    }

    /// The reads that the kernel still has.
    pub(super) fn in_flight(&self) -> Vec<Token> {
        let slots = self.slots.borrow();
        slots.iter().filter(|(_, r)| r.in_flight).map(|(key, _)| Token::new(Kind::Read, key, 0)).collect()
    }

    pub(super) fn any_in_flight(&self) -> bool {
        self.slots.borrow().iter().any(|(_, read)| read.in_flight)
    }

    /// Ends the kernel's use of the buffers; nothing is in flight. Memory that the kernel does not
    /// give back is leaked.
    pub(super) fn withdraw_counters(&self, ring: &mut Ring) {
        if let Some(counters) = self.counters.take()
            && ring.withdraw(COUNTER_GROUP).is_err()
        {
            std::mem::forget(counters);
        }
    }

    /// Leaks what the kernel does not give back: its memory must never be used again.
    pub(super) fn leak(&self) {
        std::mem::forget(self.slots.take());
        std::mem::forget(self.counters.take());
    }
}

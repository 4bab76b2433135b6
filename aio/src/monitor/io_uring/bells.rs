//! Eventfds that others wait for, rung by an SQE of the next wait instead of a write(2).
//!
//! The kernel carries the SQE out while it submits, or fails it: it never blocks, whatever the
//! other holders of the file do, and leaves nothing behind in the kernel. It is a WRITE with
//! RWF_NOWAIT (`loop_rw_iter()` in io_uring/rw.c), which fails if somebody has cleared O_NONBLOCK.
//! For the eventfd of a peer, who may do that, it is a message (IORING_OP_MSG_RING, Linux 5.18) to
//! the ring whose completions signal the eventfd (`io_post_aux_cqe()` in io_uring/io_uring.c). A
//! success has no completion (IOSQE_CQE_SKIP_SUCCESS, Linux 5.17), so it does not end the sleep
//! that it rides on. After a failure the eventfd is rung as without a ring, now and from then on.

use crate::sys::eventfd::{ByRing, EventFd};
use crate::token::{Kind, Token};
use io_uring::{opcode, squeue, types};
use slab::Slab;
use std::cell::{Cell, RefCell};
use std::sync::Arc;

/// What is written.
static ONE: u64 = 1;

/// One eventfd, kept open while an SQE may name it.
#[derive(Debug)]
pub(super) struct Bell {
    eventfd: Arc<EventFd>,
    has_failed: bool,
    /// The place of its last entry among all entries of the ring, plus one: the kernel has it when
    /// it has taken so many.
    rode_at: u64,
}

impl Bell {
    /// Whether its entry waits for the kernel, which has taken so many of all entries.
    pub(super) fn waits(&self, taken: u64) -> bool {
        self.rode_at > taken
    }
}

/// The eventfds that are rung in this way.
#[derive(Debug, Default)]
pub(super) struct Bells {
    bells: RefCell<Slab<Bell>>,
    /// The largest [`Bell::rode_at`] so far.
    last_rode_at: Cell<u64>,
}

/// The token of a bell. Slot 0 is that of cancellations.
fn token(key: usize) -> Option<Token> {
    (key < Token::MAX_SLOTS - 1).then(|| Token::new(Kind::Internal, key + 1, 0))
}

impl Bells {
    pub(super) fn add(&self, eventfd: Arc<EventFd>) -> usize {
        self.bells.borrow_mut().insert(Bell { eventfd, has_failed: false, rode_at: 0 })
    }

    /// Takes one out. Its descriptor must stay open until the kernel has seen every entry.
    pub(super) fn remove(&self, key: usize) -> Option<Bell> {
        self.bells.borrow_mut().try_remove(key)
    }

    /// Whether an entry waits for the kernel, which has taken so many of all entries.
    pub(super) fn any_waits(&self, taken: u64) -> bool {
        self.last_rode_at.get() > taken
    }

    /// The entry that rings. It points to nothing but a static, and names a descriptor that is open
    /// as long as the bell. `None` if it has to be rung otherwise.
    ///
    /// `taken` is the number of entries that the kernel has taken, and `place` that of the next
    /// entry. At most one entry of a bell waits to be taken: each message posts a completion to the
    /// ring behind the eventfd, which has room for a limited number.
    #[inline]
    pub(super) fn entry(&self, key: usize, taken: u64, place: u64) -> Option<squeue::Entry> {
        let token = token(key)?;
        let by_ring = match self.bells.borrow_mut().get_mut(key) {
            Some(bell) if !bell.has_failed && !bell.waits(taken) => {
                bell.rode_at = place + 1;
                self.last_rode_at.set(place + 1);
                bell.eventfd.by_ring()?
            }
            _ => return None,
        };
        let entry = match by_ring {
            ByRing::Write(fd) => {
                let one = (&raw const ONE).cast();
                opcode::Write::new(types::Fd(fd), one, 8).rw_flags(libc::RWF_NOWAIT).build()
            }
            ByRing::Message(ring) => opcode::MsgRingData::new(types::Fd(ring), 0, 0, None).build(),
        };
        Some(entry.flags(squeue::Flags::SKIP_SUCCESS).user_data(token.bits()))
    }

    /// A completion of the monitor itself with an error: rings otherwise, if it is that of a bell.
    #[cold]
    pub(super) fn failed(&self, token: Token) {
        let Some(key) = token.slot().checked_sub(1) else { return };
        let eventfd = match self.bells.borrow_mut().get_mut(key) {
            Some(bell) => {
                bell.has_failed = true;
                Arc::clone(&bell.eventfd)
            }
            None => return,
        };
        // There is nobody to report an error to: it can only mean that it is no eventfd.
        let _ = eventfd.ring();
    }
}

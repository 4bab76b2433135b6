//! Eventfds that others wait for, rung by an SQE of the next wait instead of a write(2).
//!
//! The kernel carries the SQE out while it submits, or fails it: it never blocks, whatever the other
//! holders of the file do, and leaves nothing behind in the kernel. It is a WRITE with RWF_NOWAIT
//! (`loop_rw_iter()` in io_uring/rw.c), which fails if somebody has cleared O_NONBLOCK. For the
//! eventfd of a peer, who may do that, it is a message (IORING_OP_MSG_RING, Linux 5.18) to the ring
//! whose completions signal the eventfd (`io_post_aux_cqe()` in io_uring/io_uring.c). A success has
//! no completion (IOSQE_CQE_SKIP_SUCCESS, Linux 5.17), so it does not end the sleep that it rides
//! on. After a failure the eventfd is rung as without a ring, now and from then on.
#![expect(unsafe_code, reason = "an SQE that points to a static")]

use super::ring_monitor::UringMonitor;
use crate::stats::Counters;
use crate::sys::eventfd::{ByRing, EventFd};
use crate::token::{Kind, Token};
use io_uring::{opcode, squeue, types};
use slab::Slab;
use std::cell::RefCell;
use std::sync::Arc;

/// What is written.
static ONE: u64 = 1;

/// One eventfd, kept open while an SQE may name it.
#[derive(Debug)]
struct Bell {
    eventfd: Arc<EventFd>,
    has_failed: bool,
}

/// The eventfds that are rung in this way.
#[derive(Debug, Default)]
pub(super) struct Bells(RefCell<Slab<Bell>>);

/// The token of a bell. Slot 0 is that of cancellations.
fn token(key: usize) -> Option<Token> {
    (key < Token::MAX_SLOTS - 1).then(|| Token::new(Kind::Internal, key + 1, 0))
}

impl<T> UringMonitor<T> {
    /// Keeps an eventfd for [`ring_bell`](Self::ring_bell). `None` if this kernel cannot do that.
    pub(crate) fn add_bell(&self, eventfd: Arc<EventFd>) -> Option<usize> {
        let can = self.ring.borrow().skips_completions() && !self.is_down.get();
        can.then(|| self.bells.0.borrow_mut().insert(Bell { eventfd, has_failed: false }))
    }

    /// Rings with the next enter, which the caller knows to be near. Returns false if that cannot
    /// be done now.
    #[inline]
    pub(crate) fn ring_bell(&self, key: usize, stats: &Counters) -> bool {
        // A queue without room is one that an enter is needed for, or one of an outer loop.
        if self.is_down.get() || self.ring.borrow().room() == 0 {
            return false;
        }
        let by_ring = match self.bells.0.borrow().get(key) {
            Some(bell) if !bell.has_failed => bell.eventfd.by_ring(),
            _ => None,
        };
        let (Some(by_ring), Some(token)) = (by_ring, token(key)) else { return false };
        let entry = match by_ring {
            ByRing::Write(fd) => {
                let one = (&raw const ONE).cast();
                opcode::Write::new(types::Fd(fd), one, 8).rw_flags(libc::RWF_NOWAIT).build()
            }
            ByRing::Message(ring) => opcode::MsgRingData::new(types::Fd(ring), 0, 0, None).build(),
        };
        let entry = entry.flags(squeue::Flags::SKIP_SUCCESS).user_data(token.bits());
        // SAFETY: it points to a static. The descriptor stays open until `remove_bell`, which
        // leaves none of these entries behind.
        unsafe { self.queue(entry, stats) };
        true
    }

    /// Gives up an eventfd.
    pub(crate) fn remove_bell(&self, key: usize, stats: &Counters) {
        let Some(bell) = self.bells.0.borrow_mut().try_remove(key) else { return };
        // An entry that the kernel has not seen names the descriptor, whose number may soon be that
        // of another file.
        let mut ring = self.ring.borrow_mut();
        if ring.look().unsubmitted == 0 {
            return;
        }
        stats.syscalls_enter.bump();
        let _ = ring.enter(Some(0));
        if ring.look().unsubmitted != 0 {
            // The kernel does not take it now, for one because the CQ overflowed.
            std::mem::forget(bell);
        }
    }

    /// A completion of the monitor itself with an error.
    #[cold]
    pub(super) fn internal_failed(&self, token: Token) {
        let Some(key) = token.slot().checked_sub(1) else { return };
        let eventfd = match self.bells.0.borrow_mut().get_mut(key) {
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

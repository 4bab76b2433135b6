//! Operations whose SQE a user has made (feature `raw-sqe`).
#![expect(unsafe_code, reason = "the SQE of a user, whose pointers the user vouches for")]

use super::operation::{OperationId, ring_with_room};
use super::parts::{Held, Owner, Parts};
use super::turn::AioContext;
use crate::completion::Completes;
use crate::monitor::UringMonitor;
use crate::refused::Refused;
use crate::sys::uring::flags_of;
use io_uring::{cqueue, squeue};
use slab::Slab;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::rc::{Rc, Weak};

/// A kind of operation with one callback: the way to submit without allocations. Feature `raw-sqe`.
///
/// Made by [`AioContext::operations`]. Each [`submit`](Self::submit) hands over a `T`, typically a
/// request with its buffers, which the callback gets back. Dropping this cancels nothing:
/// operations in flight keep what they own, and the callback is still called for their completions.
/// Home thread.
pub struct Operations<T> {
    context: Weak<Parts<AioContext>>,
    owner: Rc<dyn Holder<T>>,
}

impl<T> fmt::Debug for Operations<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Operations").field("in_flight", &self.owner.len()).finish_non_exhaustive()
    }
}

trait Holder<T>: Owner<AioContext> {
    fn hold(&self, held: T) -> usize;
    fn len(&self) -> usize;
    fn as_owner(self: Rc<Self>) -> Rc<dyn Owner<AioContext>>;
}

struct SharedCallback<T, F> {
    held: RefCell<Slab<T>>,
    callback: F,
}

impl<T: 'static, F: Fn(&AioContext, i32, T) + 'static> Owner<AioContext> for SharedCallback<T, F> {
    fn complete(&self, context: &AioContext, key: usize, result: i32, flags: u32) {
        if cqueue::more(flags) {
            return;
        }
        // A statement of its own: the callback may submit, so nothing may be borrowed while it
        // runs.
        let held = self.held.borrow_mut().try_remove(key);
        if let Some(held) = held {
            (self.callback)(context, result, held);
        }
    }
}

impl<T: 'static, F: Fn(&AioContext, i32, T) + 'static> Holder<T> for SharedCallback<T, F> {
    fn hold(&self, held: T) -> usize {
        self.held.borrow_mut().insert(held)
    }

    fn len(&self) -> usize {
        self.held.borrow().len()
    }

    fn as_owner(self: Rc<Self>) -> Rc<dyn Owner<AioContext>> {
        self
    }
}

impl<T: 'static> Operations<T> {
    /// Queues an operation that owns `held` until it completes.
    ///
    /// The callback gets the result (bytes or `-errno`, as in the CQE) and `held`. It runs in a
    /// later turn, never inside this call. No system call, and no allocation once as many
    /// operations were in flight before. For an operation with several completions the callback
    /// runs with the last one; use [`AioContext::submit_multishot`] to see each.
    ///
    /// A result that owns something, such as the descriptor of a new connection, is lost if the
    /// context is dropped before the callback gets it: nobody closes it. The operations of
    /// [`op`](crate::op) take care of theirs.
    ///
    /// # Errors
    /// `NotConnected` if the context was dropped, ENOSPC if 2^28 operations are in flight,
    /// `InvalidInput` for the flags IO_LINK, IO_HARDLINK, IO_DRAIN and CQE_SKIP_SUCCESS, which
    /// reach beyond this operation; `held` comes back.
    ///
    /// # Safety
    /// Every pointer in `entry` must stay valid, and what it points to must not be accessed in a
    /// way that conflicts with the kernel's accesses, until the callback runs or the context was
    /// dropped: point only into what `held` owns, in places that do not move with it. Descriptors
    /// must stay open until the next turn has begun.
    pub unsafe fn submit(&self, entry: squeue::Entry, held: T) -> Result<OperationId, Refused<T>> {
        let Some(context) = self.context.upgrade() else {
            let why = "the event loop of these operations was dropped";
            return Err(Refused { error: io::Error::new(io::ErrorKind::NotConnected, why), value: held });
        };
        let ring = match check_flags(&entry).and_then(|()| ring_with_room(&context, 1)) {
            Ok(ring) => ring,
            Err(error) => return Err(Refused { error, value: held }),
        };
        let key = self.owner.hold(held);
        let owner = Rc::clone(&self.owner).as_owner();
        // SAFETY: the caller's promise, for as long as the owner holds `held`.
        Ok(OperationId(unsafe { ring.submit(entry, (owner, key), Completes::Once, &context.sources.stats) }))
    }

    /// How many operations were submitted here whose callback has not begun.
    pub fn in_flight(&self) -> usize {
        self.owner.len()
    }
}

/// Refuses flags of an SQE that reach beyond the operation itself, to the loop's own requests on
/// the same ring.
#[inline]
pub(super) fn check_flags(entry: &squeue::Entry) -> io::Result<()> {
    const REFUSED: squeue::Flags = squeue::Flags::IO_LINK
        .union(squeue::Flags::IO_HARDLINK)
        .union(squeue::Flags::IO_DRAIN)
        .union(squeue::Flags::SKIP_SUCCESS);
    let refused = flags_of(entry).intersection(REFUSED);
    if refused.is_empty() { Ok(()) } else { Err(why_refused(refused)) }
}

#[cold]
fn why_refused(flags: squeue::Flags) -> io::Error {
    let why = if flags.intersects(squeue::Flags::IO_LINK | squeue::Flags::IO_HARDLINK) {
        "IO_LINK and IO_HARDLINK would link this operation to whatever the loop submits next; use \
         AioContext::submit_chain"
    } else if flags.contains(squeue::Flags::IO_DRAIN) {
        "IO_DRAIN would wait for the loop's own polls, which do not complete, and stop everything behind it; submit \
         the operation from the callback of the one that it is to follow"
    } else {
        "CQE_SKIP_SUCCESS would hide the completion, and what the operation holds would be kept for ever; leave it out"
    };
    io::Error::new(io::ErrorKind::InvalidInput, why)
}

/// A callback for one operation.
struct OneShot<T, F>(Cell<Option<(T, F)>>);

impl<T, F: FnOnce(&AioContext, i32, T)> Owner<AioContext> for OneShot<T, F> {
    fn complete(&self, context: &AioContext, _key: usize, result: i32, flags: u32) {
        if !cqueue::more(flags)
            && let Some((held, callback)) = self.0.take()
        {
            callback(context, result, held);
        }
    }
}

/// A callback for each completion of one operation.
struct Multishot<T, F> {
    held: T,
    callback: F,
}

impl<T, F: Fn(&AioContext, i32, u32, &T)> Owner<AioContext> for Multishot<T, F> {
    fn complete(&self, context: &AioContext, _key: usize, result: i32, flags: u32) {
        (self.callback)(context, result, flags, &self.held);
    }
}

impl AioContext {
    /// Makes a callback for many operations of one kind. Home thread; feature `raw-sqe`.
    ///
    /// The callback may turn the loop. It may then be entered again from there, for another
    /// operation; that is why it is `Fn`.
    ///
    /// # Errors
    /// `Unsupported` if the monitor is not io_uring; the message has the reason.
    pub fn operations<T: 'static>(
        &self,
        callback: impl Fn(&AioContext, i32, T) + 'static,
    ) -> io::Result<Operations<T>> {
        ring_with_room(&self.parts, 1)?;
        let owner = Rc::new(SharedCallback { held: RefCell::new(Slab::new()), callback });
        Ok(Operations { context: Rc::downgrade(&self.parts), owner })
    }

    /// # Safety
    /// As for [`Operations::submit`], as long as `owner` is not dropped.
    unsafe fn submit_for(
        &self,
        ring: &UringMonitor<Held<Self>>,
        entry: squeue::Entry,
        owner: Rc<dyn Owner<Self>>,
        completes: Completes,
    ) -> OperationId {
        // SAFETY: the caller's promise.
        OperationId(unsafe { ring.submit(entry, (owner, 0), completes, &self.parts.sources.stats) })
    }

    /// Queues one operation with a callback of its own, which costs an allocation; otherwise as
    /// [`Operations::submit`]. For operations that [`op`](crate::op) does not have. Home thread;
    /// feature `raw-sqe`.
    ///
    /// # Errors
    /// `Unsupported` if the monitor is not io_uring, else as for [`Operations::submit`]; `held`
    /// comes back.
    ///
    /// # Safety
    /// As for [`Operations::submit`].
    pub unsafe fn submit<T: 'static>(
        &self,
        entry: squeue::Entry,
        held: T,
        callback: impl FnOnce(&AioContext, i32, T) + 'static,
    ) -> Result<OperationId, Refused<T>> {
        let ring = match check_flags(&entry).and_then(|()| ring_with_room(&self.parts, 1)) {
            Ok(ring) => ring,
            Err(error) => return Err(Refused { error, value: held }),
        };
        let owner = Rc::new(OneShot(Cell::new(Some((held, callback)))));
        // SAFETY: the caller's promise; the owner keeps `held` until the last completion.
        Ok(unsafe { self.submit_for(ring, entry, owner, Completes::Once) })
    }

    /// Queues an operation with several completions. The callback gets the result and the flags of
    /// each; the last one is without `IORING_CQE_F_MORE` (see [`io_uring::cqueue::more`]). It may
    /// turn the loop, and may then be entered again from there. Home thread; one allocation;
    /// feature `raw-sqe`.
    ///
    /// # Errors
    /// As for [`submit`](Self::submit).
    ///
    /// # Safety
    /// As for [`Operations::submit`], until the last completion.
    pub unsafe fn submit_multishot<T: 'static>(
        &self,
        entry: squeue::Entry,
        held: T,
        callback: impl Fn(&AioContext, i32, u32, &T) + 'static,
    ) -> Result<OperationId, Refused<T>> {
        let ring = match check_flags(&entry).and_then(|()| ring_with_room(&self.parts, 1)) {
            Ok(ring) => ring,
            Err(error) => return Err(Refused { error, value: held }),
        };
        // SAFETY: as above.
        Ok(unsafe { self.submit_for(ring, entry, Rc::new(Multishot { held, callback }), Completes::Often) })
    }
}

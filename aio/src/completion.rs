//! Operations given to io_uring, and the callbacks for their completions.
//!
//! An operation owns what it was given, usually the buffer that the kernel reads or fills, from `submit` until its last
//! completion has been reaped, whatever is dropped meanwhile. Submitting makes no system call: the SQE rides on the
//! next wait, and a queued SQE keeps the loop from sleeping without it.
#![expect(unsafe_code, reason = "the SQE of a user, whose pointers the user vouches for")]

use crate::agenda::{Agenda, Item};
use crate::context::{AioContext, Inner};
use crate::monitor::UringMonitor;
use crate::stats::Counters;
use crate::token::{Kind, Token};
use io_uring::{cqueue, opcode, squeue, types};
use slab::Slab;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::rc::{Rc, Weak};

/// Names an operation in flight, for [`AioContext::cancel`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OperationId(Token);

/// An operation that was not submitted: why, and what it was to own, back.
pub struct SubmitError<T> {
    /// `Unsupported` on a monitor other than io_uring.
    pub error: io::Error,
    /// What the operation would have owned.
    pub held: T,
}

impl<T> fmt::Debug for SubmitError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SubmitError").field("error", &self.error).finish_non_exhaustive()
    }
}

impl<T> fmt::Display for SubmitError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.error, f)
    }
}

impl<T> std::error::Error for SubmitError<T> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

impl<T> From<SubmitError<T>> for io::Error {
    fn from(e: SubmitError<T>) -> Self {
        e.error
    }
}

/// Whoever holds the resources of operations and hears of their completions.
pub(crate) trait Owner {
    /// One completion of the operation that the owner knows as `key`; the last one has no F_MORE in `flags`.
    fn complete(&self, context: &AioContext, key: usize, result: i32, flags: u32);
}

struct Operation {
    token: Token,
    owner: Rc<dyn Owner>,
    key: usize,
    /// The last completion has been reaped; its callback may not have run.
    finished: bool,
    /// It has many completions, and nobody knows when the next one comes.
    multishot: bool,
}

/// The operations of one context, in flight or waiting for their callback.
#[derive(Default)]
pub(crate) struct Completions {
    operations: RefCell<Slab<Operation>>,
    versions: Cell<u32>,
    /// Those with one completion that the kernel still has.
    awaited: Cell<usize>,
    /// The context is being dropped: nobody would wait for the kernel to finish another operation.
    closed: Cell<bool>,
    /// Reaped, in order, for the next dispatch (of a nested poll, perhaps).
    ready: RefCell<VecDeque<(Token, i32, u32)>>,
    agenda: Rc<Agenda>,
}

impl fmt::Debug for Completions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Completions")
            .field("operations", &self.operations.borrow().len())
            .finish_non_exhaustive()
    }
}

impl Completions {
    pub(crate) fn new(agenda: &Rc<Agenda>) -> Self {
        Self { agenda: Rc::clone(agenda), ..Self::default() }
    }

    fn insert(&self, owner: Rc<dyn Owner>, key: usize, multishot: bool) -> Token {
        let version = self.versions.get().wrapping_add(1);
        self.versions.set(version);
        let mut operations = self.operations.borrow_mut();
        let entry = operations.vacant_entry();
        let token = Token::new(Kind::Operation, entry.key(), version);
        entry.insert(Operation { token, owner, key, finished: false, multishot });
        self.awaited.set(self.awaited.get() + usize::from(!multishot));
        token
    }

    /// Takes a reaped completion for the next dispatch. False (and counted) if nobody waits for it.
    #[inline(never)]
    pub(crate) fn complete(&self, token: Token, result: i32, flags: u32, stats: &Counters) -> bool {
        let mut operations = self.operations.borrow_mut();
        let Some(operation) = operations.get_mut(token.slot()).filter(|o| o.token == token) else {
            stats.stale.bump();
            return false;
        };
        operation.finished = !cqueue::more(flags);
        if operation.finished && !operation.multishot {
            self.awaited.set(self.awaited.get().saturating_sub(1));
        }
        self.ready.borrow_mut().push_back((token, result, flags));
        self.agenda.set(Item::Completions, true);
        true
    }

    /// True while the kernel works on something that it will wake the loop for.
    pub(crate) fn any_awaited(&self) -> bool {
        self.awaited.get() > 0
    }

    /// Runs the callbacks of what has been reaped, also of what a nested poll reaps meanwhile.
    #[inline(never)]
    pub(crate) fn dispatch(&self, context: &AioContext, stats: &Counters) -> bool {
        let mut progress = false;
        loop {
            let Some((token, result, flags)) = self.ready.borrow_mut().pop_front() else {
                self.agenda.set(Item::Completions, false);
                return progress;
            };
            let mut operations = self.operations.borrow_mut();
            let Some(operation) = operations.get(token.slot()).filter(|o| o.token == token) else {
                continue;
            };
            let (owner, key) = (Rc::clone(&operation.owner), operation.key);
            let last = if cqueue::more(flags) { None } else { Some(operations.remove(token.slot())) };
            drop(operations);
            drop(last);
            stats.completions.bump();
            progress = true;
            owner.complete(context, key, result, flags);
        }
    }

    /// Takes no operation from now on.
    pub(crate) fn close(&self) {
        self.closed.set(true);
    }

    /// What the kernel still has.
    pub(crate) fn in_flight(&self) -> Vec<Token> {
        self.operations.borrow().iter().filter(|(_, o)| !o.finished).map(|(_, o)| o.token).collect()
    }

    fn is_in_flight(&self, token: Token) -> bool {
        self.operations.borrow().get(token.slot()).is_some_and(|o| o.token == token && !o.finished)
    }

    /// Drops what has completed, without calling anybody. The kernel must have let go of everything.
    pub(crate) fn clear(&self) {
        self.ready.borrow_mut().clear();
        let operations = self.operations.take();
        drop(operations);
    }

    /// Gives up what the kernel will not let go of.
    pub(crate) fn leak(&self) {
        std::mem::forget(self.operations.take());
    }
}

/// A kind of operation with one callback: the allocation-free way to submit.
///
/// Made by [`AioContext::operations`]. Each [`submit`](Self::submit) hands over a `T`, typically a request with its
/// buffers, which comes back to the callback. Dropping this cancels nothing: operations in flight keep what they own,
/// and their completions are still called.
pub struct Operations<T> {
    context: Weak<Inner>,
    owner: Rc<dyn Holder<T>>,
}

impl<T> fmt::Debug for Operations<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Operations").field("in_flight", &self.owner.len()).finish_non_exhaustive()
    }
}

trait Holder<T>: Owner {
    fn hold(&self, held: T) -> usize;
    fn len(&self) -> usize;
    fn as_owner(self: Rc<Self>) -> Rc<dyn Owner>;
}

struct SharedCallback<T, F> {
    held: RefCell<Slab<T>>,
    callback: F,
}

impl<T: 'static, F: Fn(&AioContext, i32, T) + 'static> Owner for SharedCallback<T, F> {
    fn complete(&self, context: &AioContext, key: usize, result: i32, flags: u32) {
        if cqueue::more(flags) {
            return;
        }
        // A statement of its own: the callback may submit, so nothing may be borrowed while it runs.
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

    fn as_owner(self: Rc<Self>) -> Rc<dyn Owner> {
        self
    }
}

impl<T: 'static> Operations<T> {
    /// Queues an operation that owns `held` until it completes.
    ///
    /// The callback gets the result (bytes or `-errno`, as in the CQE) and `held`. It runs in a later turn, never inside
    /// this call. No system call, and no allocation once as many operations have been in flight before. An operation
    /// with several completions is called back with the last one; use [`AioContext::submit_multishot`] to see each.
    ///
    /// # Errors
    /// `NotConnected` if the context has been dropped; `held` comes back.
    ///
    /// # Safety
    /// Every pointer in `entry` must stay valid, and what it points to must not be accessed in a way that conflicts with
    /// the kernel's, until the callback runs or the context has been dropped: point only into what `held` owns, in
    /// places that do not move with it. Descriptors must stay open until the next turn has begun.
    pub unsafe fn submit(&self, entry: squeue::Entry, held: T) -> Result<OperationId, SubmitError<T>> {
        let context = self.context.upgrade();
        let Some(context) = context.filter(|c| !c.sink.completions.closed.get()) else {
            let error =
                io::Error::new(io::ErrorKind::NotConnected, "the event loop of these operations is gone");
            return Err(SubmitError { error, held });
        };
        let Some(ring) = context.monitor.ring() else {
            return Err(SubmitError { error: no_ring(&context), held });
        };
        let key = self.owner.hold(held);
        // SAFETY: the caller's promise, for as long as the owner holds `held`.
        Ok(unsafe { start(&context, ring, entry, Rc::clone(&self.owner).as_owner(), key, false) })
    }

    /// Operations submitted here whose callback has not begun.
    pub fn in_flight(&self) -> usize {
        self.owner.len()
    }
}

/// # Safety
/// As for [`Operations::submit`].
unsafe fn start(
    context: &Inner,
    ring: &UringMonitor,
    entry: squeue::Entry,
    owner: Rc<dyn Owner>,
    key: usize,
    multishot: bool,
) -> OperationId {
    let token = context.sink.completions.insert(owner, key, multishot);
    // SAFETY: the caller's promise.
    unsafe { ring.submit(entry.user_data(token.bits()), &context.sink.stats) };
    OperationId(token)
}

fn no_ring(context: &Inner) -> io::Error {
    let info = &context.info;
    io::Error::new(
        io::ErrorKind::Unsupported,
        format!("completions need the io_uring monitor; this context has {} ({})", info.kind, info.reason),
    )
}

/// A callback for one operation.
struct OneShot<T, F>(Cell<Option<(T, F)>>);

impl<T, F: FnOnce(&AioContext, i32, T)> Owner for OneShot<T, F> {
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

impl<T, F: Fn(&AioContext, i32, u32, &T)> Owner for Multishot<T, F> {
    fn complete(&self, context: &AioContext, _key: usize, result: i32, flags: u32) {
        (self.callback)(context, result, flags, &self.held);
    }
}

impl AioContext {
    /// Makes a callback for many operations of one kind. Home thread.
    ///
    /// # Errors
    /// `Unsupported` if the monitor is not io_uring; the message says why it is not.
    pub fn operations<T: 'static>(
        &self,
        callback: impl Fn(&AioContext, i32, T) + 'static,
    ) -> io::Result<Operations<T>> {
        if self.inner.monitor.ring().is_none() {
            return Err(no_ring(&self.inner));
        }
        let owner = Rc::new(SharedCallback { held: RefCell::new(Slab::new()), callback });
        Ok(Operations { context: Rc::downgrade(&self.inner), owner })
    }

    /// Queues one operation with a callback of its own, which costs an allocation; otherwise as
    /// [`Operations::submit`].
    ///
    /// # Errors
    /// `Unsupported` if the monitor is not io_uring; `held` comes back.
    ///
    /// # Safety
    /// As for [`Operations::submit`].
    pub unsafe fn submit<T: 'static>(
        &self,
        entry: squeue::Entry,
        held: T,
        callback: impl FnOnce(&AioContext, i32, T) + 'static,
    ) -> Result<OperationId, SubmitError<T>> {
        let Some(ring) = self.inner.monitor.ring() else {
            return Err(SubmitError { error: no_ring(&self.inner), held });
        };
        // SAFETY: the caller's promise; the operation's entry keeps the owner, and so `held`, until the last completion.
        Ok(unsafe {
            start(&self.inner, ring, entry, Rc::new(OneShot(Cell::new(Some((held, callback))))), 0, false)
        })
    }

    /// Queues an operation with several completions. The callback gets the result and the flags of each; the last one
    /// is without `IORING_CQE_F_MORE` (see [`io_uring::cqueue::more`]).
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
    ) -> Result<OperationId, SubmitError<T>> {
        let Some(ring) = self.inner.monitor.ring() else {
            return Err(SubmitError { error: no_ring(&self.inner), held });
        };
        // SAFETY: as above.
        Ok(unsafe { start(&self.inner, ring, entry, Rc::new(Multishot { held, callback }), 0, true) })
    }

    /// Asks the kernel to cancel an operation. Its callback runs all the same, with `-ECANCELED` or, if it was too late,
    /// with its own result. False if the operation has completed already. No system call: rides on the next wait.
    pub fn cancel(&self, operation: OperationId) -> bool {
        let live = self.inner.sink.completions.is_in_flight(operation.0);
        if live && let Some(ring) = self.inner.monitor.ring() {
            ring.cancel(operation.0, &self.inner.sink.stats);
        }
        live
    }

    /// Reads from `file` at `offset` into the whole of `buffer` (or to the end of the file), which comes back with the
    /// number of bytes. A safe [`submit`](Self::submit): the operation owns file and buffer.
    ///
    /// # Errors
    /// As for [`submit`](Self::submit); file and buffer come back.
    pub fn read_at<F: AsFd + 'static>(
        &self,
        file: F,
        mut buffer: Vec<u8>,
        offset: u64,
        callback: impl FnOnce(&AioContext, io::Result<usize>, F, Vec<u8>) + 'static,
    ) -> Result<OperationId, SubmitError<(F, Vec<u8>)>> {
        let fd = types::Fd(file.as_fd().as_raw_fd());
        let len = u32::try_from(buffer.len()).unwrap_or(u32::MAX);
        let entry = opcode::Read::new(fd, buffer.as_mut_ptr(), len).offset(offset).build();
        let done = move |ctx: &AioContext, result, (file, buffer)| callback(ctx, bytes(result), file, buffer);
        // SAFETY: the entry points to the heap of the buffer, which the operation owns and which does not move with it.
        unsafe { self.submit(entry, (file, buffer), done) }
    }

    /// Writes `buffer` to `file` at `offset`; the buffer comes back with the number of bytes written, which may be short.
    ///
    /// # Errors
    /// As for [`submit`](Self::submit); file and buffer come back.
    pub fn write_at<F: AsFd + 'static>(
        &self,
        file: F,
        buffer: Vec<u8>,
        offset: u64,
        callback: impl FnOnce(&AioContext, io::Result<usize>, F, Vec<u8>) + 'static,
    ) -> Result<OperationId, SubmitError<(F, Vec<u8>)>> {
        let fd = types::Fd(file.as_fd().as_raw_fd());
        let len = u32::try_from(buffer.len()).unwrap_or(u32::MAX);
        let entry = opcode::Write::new(fd, buffer.as_ptr(), len).offset(offset).build();
        let done = move |ctx: &AioContext, result, (file, buffer)| callback(ctx, bytes(result), file, buffer);
        // SAFETY: as for `read_at`; the kernel only reads.
        unsafe { self.submit(entry, (file, buffer), done) }
    }
}

/// The result of a transfer, from its CQE.
fn bytes(result: i32) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::from_raw_os_error(result.wrapping_neg()))
}

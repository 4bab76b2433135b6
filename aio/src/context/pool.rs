//! Operations of one kind with one callback: the way to start them without allocations.
#![expect(unsafe_code, reason = "submits the entry of an operation, which stays in its place until then")]

use super::operation::{OperationId, ring_with_room};
use super::parts::{Owner, Parts};
use super::turn::AioContext;
use crate::completion::Completes;
use crate::op::{Operation, Place};
use crate::refused::Refused;
use io_uring::cqueue;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::rc::{Rc, Weak};

/// Operations of one kind with one callback. Starting one allocates nothing, once as many were in
/// flight before.
///
/// Made by [`AioContext::operation_pool`]. Each [`start`](Self::start) hands over an operation and
/// a `T`, typically the request that it belongs to. Dropping the pool cancels nothing: operations
/// in flight keep what they own, and the callback is still called for their completions. Home
/// thread.
///
/// ```
/// use aio::op::ReadAt;
/// # use std::{cell::Cell, fs::File, rc::Rc};
/// # fn main() -> std::io::Result<()> {
/// # let ctx = aio::AioContext::new()?;
/// # if ctx.monitor().kind != aio::MonitorKind::IoUring { return Ok(()); }
/// # let disk = Rc::new(File::open("/dev/zero")?);
/// # let done = Rc::new(Cell::new(0));
/// # let count = Rc::clone(&done);
/// struct Request {
///     tag: u16,
/// }
///
/// type Read = ReadAt<Rc<File>, Vec<u8>>;
/// let reads = ctx.operation_pool::<Read, Request>(move |_, (result, _disk, buffer), request| {
///     assert_eq!(result.unwrap(), buffer.len());
///     println!("request {} is done", request.tag);
/// #   count.set(count.get() + 1);
/// })?;
/// for tag in 0..4 {
///     let read = ReadAt::new(Rc::clone(&disk), vec![0; 512], 512 * u64::from(tag));
///     reads.start(read, Request { tag })?;
/// }
/// while reads.in_flight() > 0 {
///     ctx.poll(true)?;
/// }
/// # assert_eq!(done.get(), 4);
/// # Ok(())
/// # }
/// ```
pub struct OperationPool<O: Operation, T = ()> {
    context: Weak<Parts<AioContext>>,
    pool: Rc<dyn Pool<O, T>>,
}

/// An operation that is, or was, in flight.
struct Pooled<O, T> {
    place: Place<O>,
    held: Cell<Option<T>>,
}

struct Places<O, T> {
    /// By key. Each stays where it is, because the kernel may point into it.
    all: Vec<Rc<Pooled<O, T>>>,
    free: Vec<usize>,
}

struct SharedCallback<O, T, F> {
    places: RefCell<Places<O, T>>,
    callback: F,
}

trait Pool<O, T>: Owner<AioContext> {
    /// A place that is free, and its key.
    fn take(&self) -> (usize, Rc<Pooled<O, T>>);
    /// Empties a place that `take` has returned, and frees it.
    fn abandon(&self, key: usize);
    fn in_flight(&self) -> usize;
    fn as_owner(self: Rc<Self>) -> Rc<dyn Owner<AioContext>>;
}

impl<O: Operation, T: 'static, F: Fn(&AioContext, O::Output, T) + 'static> SharedCallback<O, T, F> {
    /// Takes the operation with this key out, and frees its place.
    fn finish(&self, key: usize, result: i32) -> Option<(O::Output, T)> {
        let pooled = self.places.borrow().all.get(key).map(Rc::clone)?;
        let finished = pooled.place.finish(result).zip(pooled.held.take());
        self.places.borrow_mut().free.push(key);
        finished
    }
}

impl<O: Operation, T: 'static, F: Fn(&AioContext, O::Output, T) + 'static> Owner<AioContext>
    for SharedCallback<O, T, F>
{
    fn complete(&self, context: &AioContext, key: usize, result: i32, flags: u32) {
        if cqueue::more(flags) {
            return;
        }
        if let Some((output, held)) = self.finish(key, result) {
            (self.callback)(context, output, held);
        }
    }

    fn discard(&self, key: usize, result: i32, flags: u32) {
        if !cqueue::more(flags) {
            drop(self.finish(key, result));
        }
    }
}

impl<O: Operation, T: 'static, F: Fn(&AioContext, O::Output, T) + 'static> Pool<O, T>
    for SharedCallback<O, T, F>
{
    fn take(&self) -> (usize, Rc<Pooled<O, T>>) {
        let mut places = self.places.borrow_mut();
        let key = places.free.pop().unwrap_or(places.all.len());
        if let Some(pooled) = places.all.get(key) {
            return (key, Rc::clone(pooled));
        }
        let pooled = Rc::new(Pooled { place: Place::default(), held: Cell::new(None) });
        places.all.push(Rc::clone(&pooled));
        (key, pooled)
    }

    fn abandon(&self, key: usize) {
        let mut places = self.places.borrow_mut();
        let operation = places.all.get(key).and_then(|pooled| pooled.place.take());
        places.free.push(key);
        drop(places);
        drop(operation);
    }

    fn in_flight(&self) -> usize {
        let places = self.places.borrow();
        places.all.len() - places.free.len()
    }

    fn as_owner(self: Rc<Self>) -> Rc<dyn Owner<AioContext>> {
        self
    }
}

/// Frees a place if making the entry has panicked: it runs code of the user's file and buffer.
struct Abandon<'a, O, T> {
    pool: &'a dyn Pool<O, T>,
    key: usize,
}

impl<O, T> Drop for Abandon<'_, O, T> {
    fn drop(&mut self) {
        self.pool.abandon(self.key);
    }
}

impl<O: Operation, T: 'static> OperationPool<O, T> {
    /// Queues an operation, as [`AioContext::start`]. The callback of the pool gets its output and
    /// `held`, in a later turn. No system call.
    ///
    /// # Errors
    /// As for [`AioContext::start`]; operation and `held` come back.
    pub fn start(&self, operation: O, held: T) -> Result<OperationId, Refused<(O, T)>> {
        let refuse = |error, operation, held| Err(Refused { error, value: (operation, held) });
        let Some(context) = self.context.upgrade() else {
            let why = "the event loop of these operations was dropped";
            return refuse(io::Error::new(io::ErrorKind::NotConnected, why), operation, held);
        };
        let ring = match ring_with_room(&context, 1) {
            Ok(ring) => ring,
            Err(error) => return refuse(error, operation, held),
        };
        let (key, pooled) = self.pool.take();
        let unless_it_panics = Abandon { pool: &*self.pool, key };
        // SAFETY: the place is free, and the pool, which the ring keeps until the completion,
        // leaves it where it is.
        let entry = unsafe { pooled.place.put(operation, context.ring_id) };
        std::mem::forget(unless_it_panics);
        pooled.held.set(Some(held));
        let owner = Rc::clone(&self.pool).as_owner();
        // SAFETY: what the entry points to is owned by the operation, in its place.
        Ok(OperationId(unsafe { ring.submit(entry, (owner, key), Completes::Once, &context.sources.stats) }))
    }

    /// How many operations were started here whose callback has not begun.
    pub fn in_flight(&self) -> usize {
        self.pool.in_flight()
    }
}

impl<O: Operation, T: 'static> fmt::Debug for OperationPool<O, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OperationPool").field("in_flight", &self.in_flight()).finish_non_exhaustive()
    }
}

impl AioContext {
    /// Makes a callback for many operations of one kind. Home thread; no system call.
    ///
    /// The callback may turn the loop. It may then be entered again from there, for another
    /// operation; that is why it is `Fn`.
    ///
    /// # Errors
    /// `Unsupported` if the monitor is not io_uring; the message has the reason.
    pub fn operation_pool<O: Operation, T: 'static>(
        &self,
        callback: impl Fn(&AioContext, O::Output, T) + 'static,
    ) -> io::Result<OperationPool<O, T>> {
        ring_with_room(&self.parts, 1)?;
        let places = RefCell::new(Places { all: Vec::new(), free: Vec::new() });
        let pool = Rc::new(SharedCallback { places, callback });
        Ok(OperationPool { context: Rc::downgrade(&self.parts), pool })
    }
}

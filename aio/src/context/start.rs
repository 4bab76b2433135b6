//! Starting an operation that owns what the kernel needs.
#![expect(unsafe_code, reason = "submits the entry of an operation, which stays in its place until then")]

use super::operation::{OperationId, ring_with_room};
use super::parts::Owner;
use super::turn::AioContext;
use crate::completion::Completes;
use crate::op::{
    Again, MultishotOperation, Next, Operation, Place, ReadAt, RingFile, Shot, StableBuffer, StableBufferMut,
    WriteAt,
};
use crate::refused::Refused;
use io_uring::cqueue;
use std::cell::{Cell, OnceCell};
use std::io;
use std::rc::Rc;

/// An operation in flight, and its callback.
struct Started<O, F> {
    place: Place<O>,
    callback: Cell<Option<F>>,
}

impl<O: Operation, F: FnOnce(&AioContext, O::Output)> Owner<AioContext> for Started<O, F> {
    fn complete(&self, context: &AioContext, _key: usize, result: i32, flags: u32) {
        if cqueue::more(flags) {
            return;
        }
        if let (Some(output), Some(callback)) = (self.place.finish(result), self.callback.take()) {
            callback(context, output);
        }
    }

    fn discard(&self, _key: usize, result: i32, flags: u32) {
        if !cqueue::more(flags) {
            drop(self.place.finish(result));
        }
    }
}

/// An operation with many completions, and its callback.
struct Shots<O, F> {
    place: Place<O>,
    callback: F,
    /// Set once the operation was submitted.
    again: OnceCell<Again>,
}

impl<O: MultishotOperation, F> Shots<O, F> {
    /// The last completion was dispatched. Starts the operation again, has it wait for that, or
    /// takes it out if it has ended. Calls no user code.
    fn go_on(&self, context: &AioContext, result: i32) -> Option<(O, Option<io::Error>)> {
        let (ring, again) = (context.parts.monitor.ring()?, self.again.get()?);
        let next = self.place.next(result);
        let goes_on = match next {
            // SAFETY: the entry that it was submitted with, and the operation is in its place.
            Next::Start => unsafe {
                ring.submit_again(again.token, again.entry.clone(), &context.parts.sources.stats)
            },
            Next::Wait => ring.completions().park(again.token),
            Next::End => false,
        };
        if goes_on {
            if next == Next::Wait {
                self.place.wait(again);
            }
            return None;
        }
        // The dispatch holds this, too.
        drop(ring.completions().remove(again.token));
        let result = if next == Next::End { result } else { -libc::ECANCELED };
        Some((self.place.take()?, Place::<O>::error(result)))
    }
}

impl<O: MultishotOperation, F: Fn(&AioContext, Shot<O>)> Owner<AioContext> for Shots<O, F> {
    fn complete(&self, context: &AioContext, _key: usize, result: i32, flags: u32) {
        let item = self.place.item(result, flags);
        // Before the callback, which may unwind, or cancel the operation.
        let ended = if cqueue::more(flags) { None } else { self.go_on(context, result) };
        if let Some(item) = item {
            (self.callback)(context, Shot::Item(item));
        }
        if let Some((operation, error)) = ended {
            (self.callback)(context, Shot::Ended { operation, error });
        }
    }

    fn discard(&self, _key: usize, result: i32, flags: u32) {
        drop(self.place.item(result, flags));
    }
}

impl AioContext {
    /// Queues an operation. Its callback gets the output in a later turn, never inside this call.
    ///
    /// Makes no system call: the next wait submits it. One allocation, for the operation and the
    /// callback. Dropping the id cancels nothing; see [`cancel`](Self::cancel). The callback may do
    /// everything, also turn the loop. Home thread. For an example, see [`op`](crate::op).
    ///
    /// If the context is dropped, the operation is cancelled, and callback and operation are
    /// dropped when the kernel is done with it.
    ///
    /// # Errors
    /// `Unsupported` if the monitor is not io_uring, with the reason; `NotConnected` while the
    /// context is being dropped; ENOSPC if 2^28 operations are in flight. The operation comes back;
    /// [`Operation::refuse`] makes its output. Every other error is in the output.
    pub fn start<O: Operation>(
        &self,
        operation: O,
        callback: impl FnOnce(&AioContext, O::Output) + 'static,
    ) -> Result<OperationId, Refused<O>> {
        let ring = match ring_with_room(&self.parts, 1) {
            Ok(ring) => ring,
            Err(error) => return Err(Refused { error, value: operation }),
        };
        let started = Rc::new(Started { place: Place::default(), callback: Cell::new(Some(callback)) });
        // SAFETY: the place is new, and the ring keeps it until the completion.
        let entry = unsafe { started.place.put(operation, self.parts.ring_id) };
        // SAFETY: what the entry points to is owned by the operation, in its place.
        Ok(OperationId(unsafe {
            ring.submit(entry, (started, 0), Completes::Once, &self.parts.sources.stats)
        }))
    }

    /// Queues an operation with many results. The callback gets each [item](Shot::Item), and the
    /// operation when it [has ended](Shot::Ended), in later turns.
    ///
    /// ```
    /// use aio::op::{AcceptMultishot, Shot};
    /// # use std::{cell::Cell, io, net::{TcpListener, TcpStream}, rc::Rc};
    /// # fn main() -> io::Result<()> {
    /// # use aio::AioContext;
    /// # let ctx = AioContext::new()?;
    /// # if ctx.monitor().kind != aio::MonitorKind::IoUring { return Ok(()); }
    /// # let Ok(listener) = TcpListener::bind("127.0.0.1:0") else { return Ok(()) };
    /// # let address = listener.local_addr()?;
    /// # let accepted = Rc::new(Cell::new(0));
    /// # let seen = Rc::clone(&accepted);
    /// # let serve = move |_| seen.set(seen.get() + 1);
    /// ctx.start_multishot(AcceptMultishot::new(listener), move |_, shot| match shot {
    ///     Shot::Item(connection) => serve(connection),
    ///     // Such as EMFILE. Start `operation` again once there is room.
    ///     Shot::Ended { error, .. } => eprintln!("accept: {error:?}"),
    /// })?;
    /// # let _peers = [TcpStream::connect(address)?, TcpStream::connect(address)?];
    /// # while accepted.get() < 2 { ctx.poll(true)?; }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// Otherwise as [`start`](Self::start). The callback may turn the loop, and may then be entered
    /// again from there, for the next item; that is why it is `Fn`.
    ///
    /// # Errors
    /// As for [`start`](Self::start); the operation comes back.
    pub fn start_multishot<O: MultishotOperation>(
        &self,
        operation: O,
        callback: impl Fn(&AioContext, Shot<O>) + 'static,
    ) -> Result<OperationId, Refused<O>> {
        let ring = match ring_with_room(&self.parts, 1) {
            Ok(ring) => ring,
            Err(error) => return Err(Refused { error, value: operation }),
        };
        let shots = Rc::new(Shots { place: Place::default(), callback, again: OnceCell::new() });
        // SAFETY: as in `start`, until the last completion.
        let entry = unsafe { shots.place.put_multishot(operation, self.parts.ring_id) };
        let (again, held) = (entry.clone(), (Rc::clone(&shots) as Rc<dyn Owner<Self>>, 0));
        // SAFETY: as in `start`.
        let token = unsafe { ring.submit(entry, held, Completes::UntilRemoved, &self.parts.sources.stats) };
        let _ = shots.again.set(Again { token, entry: again });
        Ok(OperationId(token))
    }

    /// Reads from `file` at `offset`, in bytes, into the whole of `buffer`. The callback gets the
    /// number of bytes, which may be less than all, also before the end of the file, with the file
    /// and the buffer. The same as [`start`](Self::start) with [`ReadAt`].
    ///
    /// # Errors
    /// As for [`start`](Self::start); file and buffer come back.
    pub fn read_at<F: RingFile, B: StableBufferMut>(
        &self,
        file: F,
        buffer: B,
        offset: u64,
        callback: impl FnOnce(&AioContext, io::Result<usize>, F, B) + 'static,
    ) -> Result<OperationId, Refused<(F, B)>> {
        let done = move |ctx: &AioContext, (result, file, buffer)| callback(ctx, result, file, buffer);
        self.start(ReadAt::new(file, buffer, offset), done)
            .map_err(|Refused { error, value }| Refused { error, value: value.into_parts() })
    }

    /// Writes `buffer` to `file` at `offset`. The callback gets the number of bytes written, which
    /// may be less than all, the file and the buffer. The same as [`start`](Self::start) with
    /// [`WriteAt`].
    ///
    /// # Errors
    /// As for [`start`](Self::start); file and buffer come back.
    pub fn write_at<F: RingFile, B: StableBuffer>(
        &self,
        file: F,
        buffer: B,
        offset: u64,
        callback: impl FnOnce(&AioContext, io::Result<usize>, F, B) + 'static,
    ) -> Result<OperationId, Refused<(F, B)>> {
        let done = move |ctx: &AioContext, (result, file, buffer)| callback(ctx, result, file, buffer);
        self.start(WriteAt::new(file, buffer, offset), done)
            .map_err(|Refused { error, value }| Refused { error, value: value.into_parts() })
    }
}

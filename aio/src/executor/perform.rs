//! Awaiting an operation of the ring.

use crate::context::{AioContext, OperationId, Performing, WeakContext};
use crate::op::Operation;
use crate::refused::Refused;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

/// A future of the output of an operation. Made by [`AioContext::perform`].
///
/// Dropping it cancels the operation. What the operation owns, such as its buffer, stays with it
/// until the kernel is done, and is dropped then; so is what the kernel has returned, such as a
/// descriptor. Never done if the context is dropped before. Home thread.
#[must_use = "an operation is not started before it is awaited"]
pub struct Perform<O: Operation> {
    context: WeakContext,
    state: State<O>,
}

enum State<O: Operation> {
    New(O),
    InFlight(Rc<Performing<O>>, OperationId),
    Done,
}

/// Nothing in it is pinned: an operation is moved to its place before the kernel hears of it.
impl<O: Operation> Unpin for Perform<O> {}

impl<O: Operation> Future for Perform<O> {
    type Output = O::Output;

    /// # Panics
    /// If it is polled after it returned the output.
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<O::Output> {
        match std::mem::replace(&mut self.state, State::Done) {
            State::New(operation) => {
                let started = match self.context.upgrade() {
                    Some(context) => context.start_performing(operation),
                    None => {
                        let why = "this event loop was dropped";
                        let error = io::Error::new(io::ErrorKind::NotConnected, why);
                        Err(Refused { error, value: operation })
                    }
                };
                match started {
                    Ok((performing, id)) => {
                        // It waits for its completion, which a later turn runs.
                        let _ = performing.poll_output(cx.waker()).is_pending();
                        self.state = State::InFlight(performing, id);
                        Poll::Pending
                    }
                    Err(Refused { error, value }) => Poll::Ready(value.refuse(error)),
                }
            }
            State::InFlight(performing, id) => {
                let output = performing.poll_output(cx.waker());
                if output.is_pending() {
                    self.state = State::InFlight(performing, id);
                }
                output
            }
            State::Done => panic!("a Perform was polled after it returned the output"),
        }
    }
}

impl<O: Operation> Drop for Perform<O> {
    fn drop(&mut self) {
        if let State::InFlight(performing, id) = &self.state
            && performing.abandon()
            && let Some(context) = self.context.upgrade()
        {
            context.cancel(*id);
        }
    }
}

impl<O: Operation> fmt::Debug for Perform<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.state {
            State::New(_) => "Perform(New)",
            State::InFlight(..) => "Perform(InFlight)",
            State::Done => "Perform(Done)",
        })
    }
}

impl AioContext {
    /// A future of the output of an operation, which is queued when the future is first polled.
    /// Makes no system call of its own, and one allocation.
    ///
    /// The output has the result of the operation and returns what the operation owned. If the
    /// operation cannot be started, the output has the reason: `Unsupported` if the monitor is not
    /// io_uring, `NotConnected` if the context was dropped, ENOSPC if 2^28 operations are in
    /// flight.
    ///
    /// ```
    /// use aio::op::{ReadAt, WriteAt};
    /// # fn main() -> std::io::Result<()> {
    /// # let ctx = aio::AioContext::new()?;
    /// # if ctx.monitor().kind != aio::MonitorKind::IoUring { return Ok(()); }
    /// # let path = std::env::temp_dir().join(format!("aio-doc-perform-{}", std::process::id()));
    /// # let options = std::fs::File::options().read(true).write(true).create_new(true).clone();
    /// # let file = options.open(&path)?;
    /// let local = ctx.local_handle();
    /// let copied = ctx.block_on(async move {
    ///     let (written, file, _) = local.perform(WriteAt::new(file, "hello", 0)).await;
    ///     assert_eq!(written?, 5);
    ///     let (read, _file, buffer) = local.perform(ReadAt::new(file, vec![0; 16], 0)).await;
    ///     read.map(|n| buffer[..n].to_vec())
    /// })??;
    /// assert_eq!(copied, b"hello");
    /// # std::fs::remove_file(path)?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn perform<O: Operation>(&self, operation: O) -> Perform<O> {
        Perform { context: self.downgrade(), state: State::New(operation) }
    }
}

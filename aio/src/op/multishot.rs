//! Operations that complete many times: one item for each connection, or each piece of data.
#![expect(unsafe_code, reason = "the promise that what an entry points to stays where it is")]

use super::entry::{Again, Entry, Next, RingId, Sealed};
use super::file::{RingFile, on};
use super::group::{BufferGroup, LentBuffer};
use super::path::new_descriptor;
use super::seat::Seat;
use io_uring::{cqueue, opcode, squeue, types};
use std::io;
use std::os::fd::OwnedFd;

/// An operation with many results, each of them an item.
///
/// The kinds of operations are those of this module; others cannot be added. Start one with
/// [`AioContext::start_multishot`](crate::AioContext::start_multishot). It goes on until it is
/// cancelled, fails, or comes to the end of its stream; it then [comes back](Shot::Ended). If the
/// context is dropped, so are the operation and the items that nobody got.
///
/// The kernel ends such operations for reasons of its own: the completion queue is full, or no
/// buffer is free. The library then starts the operation again, with the same id, and the callback
/// does not notice. Nothing is lost by that.
///
/// # Safety
/// As for [`Operation`](super::Operation).
pub unsafe trait MultishotOperation: Sized + 'static {
    /// What the callback gets, again and again.
    type Item: 'static;

    /// The SQE, for this ring. The operation is in its final place. Called once for each start.
    #[doc(hidden)]
    fn entry(&mut self, ring: RingId, sealed: Sealed) -> Entry;

    /// The item in a CQE, if there is one. Called once for each CQE.
    #[doc(hidden)]
    fn item(&self, result: i32, flags: u32, sealed: Sealed) -> Option<Self::Item>;

    /// What follows the last CQE, which has this result.
    #[doc(hidden)]
    fn next(&self, result: i32, sealed: Sealed) -> Next;

    /// [`Next::Wait`]: keeps what is needed to start the operation again.
    #[doc(hidden)]
    fn wait(&self, again: &Again, sealed: Sealed) {
        let _ = (again, sealed);
    }
}

/// What the callback of a [`MultishotOperation`] gets.
#[derive(Debug)]
pub enum Shot<O: MultishotOperation> {
    /// One more item. The operation goes on.
    Item(O::Item),
    /// The operation has ended: nothing follows. It can be started again.
    Ended {
        /// What was started.
        operation: O,
        /// `None` at the end of a stream: recv(2) has returned zero. That never ends an
        /// [`AcceptMultishot`]. Otherwise the reason: ECANCELED if it was
        /// [cancelled](crate::AioContext::cancel), or what accept4(2) or recv(2) returns.
        error: Option<io::Error>,
    },
}

/// Accepts connections, as accept4(2). Each item is a connection, which is close-on-exec and
/// blocking; ask it for its peer's address with getpeername(2). Linux 5.19. For an example, see
/// [`AioContext::start_multishot`](crate::AioContext::start_multishot).
#[derive(Debug)]
pub struct AcceptMultishot<F> {
    listener: F,
}

impl<F: RingFile> AcceptMultishot<F> {
    /// An operation that accepts the connections of a listening socket.
    pub fn new(listener: F) -> Self {
        Self { listener }
    }

    /// The listener, of an operation that has ended or was not started.
    pub fn into_listener(self) -> F {
        self.listener
    }
}

// SAFETY: the entry points to nothing.
unsafe impl<F: RingFile> MultishotOperation for AcceptMultishot<F> {
    type Item = OwnedFd;

    fn entry(&mut self, ring: RingId, _: Sealed) -> Entry {
        let accept = |fd| opcode::AcceptMulti::new(fd).flags(libc::SOCK_CLOEXEC).build();
        Entry(on(&self.listener, ring, accept))
    }

    fn item(&self, result: i32, _: u32, _: Sealed) -> Option<OwnedFd> {
        u32::try_from(result).ok().map(new_descriptor)
    }

    fn next(&self, result: i32, _: Sealed) -> Next {
        // After a connection there is no reason to end but a full completion queue.
        if result >= 0 { Next::Start } else { Next::End }
    }
}

/// Receives from a socket, as recv(2), into buffers of a group. Each item is what has come at once.
/// Linux 6.0.
///
/// If all buffers of the group are lent out, the data stays in the socket, and the operation
/// [waits](BufferGroup::waiting) until a buffer returns. Operations of one group are served in
/// turn. The end of a stream ends the operation without an error; so does an empty datagram.
///
/// With many more operations than buffers this is known to work on Linux 6.18. On 6.12 some of 300
/// that shared four buffers got none in our test; it is not known why. Have about as many buffers
/// as receive at the same time.
///
/// A socket that itself reports ENOBUFS, as netlink(7) does when it has lost messages, goes on in
/// the same way: use [`Recv`](super::Recv) to see that.
///
/// ```
/// use aio::op::{RecvMultishot, Shot};
/// # use std::{cell::{Cell, RefCell}, io::Write, os::unix::net::UnixStream, rc::Rc};
/// # fn main() -> std::io::Result<()> {
/// # let ctx = aio::AioContext::new()?;
/// # if ctx.monitor().kind != aio::MonitorKind::IoUring { return Ok(()); }
/// # let (ours, mut theirs) = UnixStream::pair()?;
/// # let (bytes, ended) = (Rc::new(RefCell::new(Vec::new())), Rc::new(Cell::new(false)));
/// # let (seen, end) = (bytes, Rc::clone(&ended));
/// # if ctx.buffer_group(1, 1).is_err() { return Ok(()); } // an old kernel
/// let group = ctx.buffer_group(8, 4096)?; // one group for all connections
/// ctx.start_multishot(RecvMultishot::new(ours, &group, 0), move |_, shot| match shot {
///     // The buffer returns to the group at the end of this arm.
///     Shot::Item(buffer) => seen.borrow_mut().extend_from_slice(&buffer),
///     Shot::Ended { operation, error } => {
/// #       if error.is_none() { assert_eq!(seen.borrow().as_slice(), b"hello"); }
/// #       end.set(true);
///         drop(operation.into_socket()); // closes it
///     }
/// })?;
/// # theirs.write_all(b"hello")?;
/// # drop(theirs);
/// # while !ended.get() { ctx.poll(true)?; }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct RecvMultishot<F> {
    socket: F,
    seat: Seat,
    flags: i32,
}

impl<F: RingFile> RecvMultishot<F> {
    /// An operation that receives from `socket` into buffers of `group`, which must be of the
    /// context that the operation is started on (EBADF otherwise). `flags` are those of recv(2),
    /// without MSG_WAITALL.
    pub fn new(socket: F, group: &BufferGroup, flags: i32) -> Self {
        Self { socket, seat: Seat::new(group), flags }
    }

    /// The socket, of an operation that has ended or was not started.
    pub fn into_socket(self) -> F {
        self.socket
    }
}

// SAFETY: the entry points to nothing. The buffers are those of the group, which the operation
// owns a handle of.
unsafe impl<F: RingFile> MultishotOperation for RecvMultishot<F> {
    type Item = LentBuffer;

    fn entry(&mut self, ring: RingId, _: Sealed) -> Entry {
        let flags = self.flags;
        Entry(match self.seat.group().number_on(ring) {
            Some(group) => {
                on(&self.socket, ring, |fd| opcode::RecvMulti::new(fd, group).flags(flags).build())
            }
            None => no_file(),
        })
    }

    fn item(&self, result: i32, flags: u32, _: Sealed) -> Option<LentBuffer> {
        let len = u32::try_from(result).unwrap_or(0);
        // A buffer without bytes returns to its group here.
        let lent = cqueue::buffer_select(flags).map(|id| self.seat.lend(id, len));
        lent.filter(|_| len > 0)
    }

    fn next(&self, result: i32, _: Sealed) -> Next {
        match result {
            // With data there is no reason to end but a full completion queue.
            1.. => Next::Start,
            _ if result == -libc::ENOBUFS => Next::Wait,
            _ => {
                self.seat.leave();
                Next::End
            }
        }
    }

    fn wait(&self, again: &Again, _: Sealed) {
        self.seat.wait(again);
    }
}

/// An entry that completes with EBADF.
fn no_file() -> squeue::Entry {
    opcode::RecvMulti::new(types::Fd(-1), 0).build()
}

//! Messages of a Unix socket that carry descriptors (SCM_RIGHTS).
#![expect(unsafe_code, reason = "entries that point into the operation, which owns what they point to")]

use super::Operation;
use super::buffer::{StableBuffer, StableBufferMut};
use super::control;
use super::entry::{Entry, RingId, Sealed, bytes};
use super::file::{RingFile, on};
use crate::sys::fd::is_stream_socket;
use io_uring::opcode;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

/// A message header and what it points to, which is in the operation or on the heap.
struct Header {
    message: libc::msghdr,
    iovec: libc::iovec,
    control: Box<[u64]>,
}

impl Header {
    fn new(control: Box<[u64]>) -> Self {
        // SAFETY: a struct of integers and pointers, for which all-zero is valid.
        let message = unsafe { std::mem::zeroed() };
        Self { message, iovec: libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }, control }
    }

    /// Ties the parts together; the header is in its final place. `control_len` is in bytes.
    fn tie(&mut self, buffer: *mut u8, len: usize, control_len: usize) -> *mut libc::msghdr {
        self.iovec = libc::iovec { iov_base: buffer.cast(), iov_len: len };
        self.message.msg_iov = &raw mut self.iovec;
        self.message.msg_iovlen = 1;
        if control_len > 0 {
            self.message.msg_control = self.control.as_mut_ptr().cast();
            self.message.msg_controllen = control_len as _;
        }
        &raw mut self.message
    }
}

/// Sends bytes and descriptors through a Unix socket, as sendmsg(2) with SCM_RIGHTS. The output is
/// the number of bytes, which may be less than all, the socket, the buffer and the descriptors.
///
/// The descriptors go with the first byte. On a stream, an empty buffer would therefore lose them:
/// EINVAL, if there are any. (The type of the socket is asked for then, with a system call; that of
/// a [`FixedFile`](crate::FixedFile) is not known and counts as a stream.) If the rest has to be
/// sent by another operation, it is sent without them. EINVAL for more than 253 descriptors. EPIPE
/// if the other end is closed; never raises SIGPIPE.
///
/// The receiver gets descriptors of its own. What comes back can be closed, also before the message
/// was received.
///
/// ```
/// use aio::op::{RecvMessage, SendMessage};
/// use std::os::unix::net::UnixStream;
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let ctx = aio::AioContext::new()?;
/// # if ctx.monitor().kind != aio::MonitorKind::IoUring { return Ok(()); }
/// let (ours, theirs) = UnixStream::pair()?;
/// let (reader, writer) = std::io::pipe()?;
/// let send = SendMessage::new(ours, "a pipe", vec![writer]);
/// let (sent, _ours, _, writers) = ctx.block_on(ctx.perform(send))?;
/// assert_eq!(sent?, 6);
/// drop(writers); // the message has one of its own
///
/// let receive = RecvMessage::new(theirs, vec![0; 64], 1);
/// let (received, _theirs, buffer) = ctx.block_on(ctx.perform(receive))?;
/// let received = received?;
/// assert_eq!(&buffer[..received.bytes], b"a pipe");
/// assert_eq!(received.descriptors.len(), 1); // closed when they are dropped
/// # drop(reader);
/// # Ok(())
/// # }
/// ```
pub struct SendMessage<F, B, D> {
    socket: F,
    buffer: B,
    descriptors: Vec<D>,
    header: Header,
    /// The kernel would take the message, and lose the descriptors.
    is_refused: bool,
}

impl<F: RingFile, B: StableBuffer, D: AsFd + 'static> SendMessage<F, B, D> {
    /// An operation that sends `buffer` and `descriptors` through `socket`.
    pub fn new(socket: F, buffer: B, descriptors: Vec<D>) -> Self {
        Self { socket, buffer, descriptors, header: Header::new(Box::default()), is_refused: false }
    }
}

// SAFETY: the buffer is stable, the control message is on the heap, and the header and its vector
// stay with the operation, which owns all of them.
unsafe impl<F: RingFile, B: StableBuffer, D: AsFd + 'static> Operation for SendMessage<F, B, D> {
    type Output = (io::Result<usize>, F, B, Vec<D>);

    fn entry(&mut self, ring: RingId, _: Sealed) -> Entry {
        let target = self.socket.target(ring, Sealed(()));
        let loses_descriptors = self.buffer.byte_len() == 0 && !self.descriptors.is_empty();
        self.is_refused = loses_descriptors && (target.is_fixed() || is_stream_socket(target.fd().0));
        if self.is_refused {
            return Entry(opcode::Nop::new().build());
        }
        let numbers: Vec<_> = self.descriptors.iter().map(|d| d.as_fd().as_raw_fd()).collect();
        let (control, control_len) = control::rights(&numbers);
        self.header.control = control;
        let (pointer, len) = (self.buffer.stable_ptr().cast_mut(), self.buffer.byte_len());
        let message = self.header.tie(pointer, len, control_len);
        let flags = libc::MSG_NOSIGNAL as u32;
        Entry(target.entry(|fd| opcode::SendMsg::new(fd, message).flags(flags).build()))
    }

    fn complete(self, result: io::Result<u32>, _: Sealed) -> Self::Output {
        let result = match self.is_refused {
            true => result.and(Err(io::Error::from_raw_os_error(libc::EINVAL))),
            false => bytes(result),
        };
        (result, self.socket, self.buffer, self.descriptors)
    }
}

impl<F, B, D> fmt::Debug for SendMessage<F, B, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SendMessage").field("descriptors", &self.descriptors.len()).finish_non_exhaustive()
    }
}

/// What [`RecvMessage`] has received.
#[derive(Debug)]
#[non_exhaustive]
pub struct Received {
    /// The number of bytes; zero at the end of a stream.
    pub bytes: usize,
    /// The descriptors that came with them, in the order in which they were sent. They are
    /// close-on-exec.
    pub descriptors: Vec<OwnedFd>,
    /// More descriptors came than there was room for (MSG_CTRUNC). The kernel has closed them.
    pub descriptors_truncated: bool,
    /// The message was longer than the buffer, and its rest is lost (MSG_TRUNC). Not on a stream.
    pub truncated: bool,
}

/// Receives bytes and descriptors from a Unix socket, as recvmsg(2) with SCM_RIGHTS. The output is
/// what was [`Received`], the socket and the buffer. For an example, see
/// [`SendMessage`](super::SendMessage).
///
/// Other control messages are ignored. They take room of the descriptors, so do not ask for them
/// (SO_PASSCRED and the like) on this socket.
pub struct RecvMessage<F, B> {
    socket: F,
    buffer: B,
    most: usize,
    header: Header,
}

impl<F: RingFile, B: StableBufferMut> RecvMessage<F, B> {
    /// An operation that receives into `buffer`, with at most `descriptors` descriptors (253 are
    /// the most that one message can carry).
    pub fn new(socket: F, buffer: B, descriptors: usize) -> Self {
        let most = descriptors.min(control::MOST);
        Self { socket, buffer, most, header: Header::new(control::room(most)) }
    }
}

// SAFETY: as for `SendMessage`.
unsafe impl<F: RingFile, B: StableBufferMut> Operation for RecvMessage<F, B> {
    type Output = (io::Result<Received>, F, B);

    fn entry(&mut self, ring: RingId, _: Sealed) -> Entry {
        let (pointer, len) = (self.buffer.stable_mut_ptr(), self.buffer.byte_len());
        let message = self.header.tie(pointer, len, control::len(self.most));
        let flags = libc::MSG_CMSG_CLOEXEC as u32;
        Entry(on(&self.socket, ring, |fd| opcode::RecvMsg::new(fd, message).flags(flags).build()))
    }

    fn complete(self, result: io::Result<u32>, _: Sealed) -> Self::Output {
        let Header { message, control, .. } = self.header;
        let received = result.map(|bytes| Received {
            bytes: bytes as usize,
            // The kernel has filled as much of the control buffer as the header says now.
            descriptors: control::descriptors(&control, message.msg_controllen as _),
            descriptors_truncated: message.msg_flags & libc::MSG_CTRUNC != 0,
            truncated: message.msg_flags & libc::MSG_TRUNC != 0,
        });
        (received, self.socket, self.buffer)
    }
}

impl<F, B> fmt::Debug for RecvMessage<F, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecvMessage").field("most", &self.most).finish_non_exhaustive()
    }
}

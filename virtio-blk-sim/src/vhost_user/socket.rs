//! recvmsg(2) and sendmsg(2) with file descriptors in the ancillary data (unix(7), SCM_RIGHTS), and
//! poll(2) for a blocking client.
//!
//! MSG_DONTWAIT makes each call non-blocking, independent of O_NONBLOCK: that flag belongs to the
//! open file description, which an inherited socket shares with unknown processes.
#![expect(unsafe_code, reason = "recvmsg(2), sendmsg(2), poll(2) and the macros of cmsg(3)")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// Maximum number of file descriptors in one message (specification, "Back-end communication", and
/// region0 to region7 of a table).
pub const MAX_FDS: usize = 8;

/// Maximum number of descriptors that the kernel accepts in one call (unix(7), SCM_MAX_FD).
const SCM_MAX_FD: usize = 253;

const fn control_size(fds: usize) -> usize {
    // SAFETY: CMSG_SPACE only computes a number.
    unsafe { libc::CMSG_SPACE((fds * size_of::<RawFd>()) as u32) as usize }
}

/// A buffer for ancillary data. cmsg(3) requires the alignment of a cmsghdr.
#[repr(C)]
union Control<const SIZE: usize> {
    bytes: [u8; SIZE],
    _align: libc::cmsghdr,
}

/// The result of one [`receive`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Received {
    /// Number of bytes; 0 means that the peer has closed its end.
    pub(super) bytes: usize,
    /// Some descriptors were lost: there was no room for them in the message or in this process.
    pub(super) truncated: bool,
}

/// Receives at most as many bytes as fit into `into` (at least one), and appends the descriptors
/// that come with them to `fds`, close-on-exec. Does not block: returns `WouldBlock` if there is no
/// data.
///
/// The kernel attaches descriptors to the first byte that they were sent with. The read that
/// returns this byte returns all of them.
pub(super) fn receive(
    socket: BorrowedFd<'_>,
    into: &mut [u8],
    fds: &mut Vec<OwnedFd>,
) -> io::Result<Received> {
    debug_assert!(
        !into.is_empty(),
        "the buffer is empty: a read of 0 bytes would look like the end of the stream"
    );
    const SIZE: usize = control_size(MAX_FDS);
    let mut control = Control::<SIZE> { bytes: [0; SIZE] };
    let mut iov = libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() };
    let mut message = empty_message();
    message.msg_iov = &raw mut iov;
    message.msg_iovlen = 1;
    message.msg_control = (&raw mut control).cast();
    message.msg_controllen = SIZE;
    let flags = libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
    // SAFETY: `message` points to `iov` and `control`, `iov` points to `into`. All are live and
    // writable, with the given lengths.
    let bytes = retry(|| unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, flags) })?;
    take_descriptors(&message, fds);
    Ok(Received { bytes, truncated: message.msg_flags & libc::MSG_CTRUNC != 0 })
}

/// Moves the descriptors that recvmsg(2) stored in `message` to `fds`.
fn take_descriptors(message: &libc::msghdr, fds: &mut Vec<OwnedFd>) {
    // SAFETY: recvmsg has filled `message`: its control buffer is live, and msg_controllen bytes of
    // it are initialised.
    let mut cmsg = unsafe { libc::CMSG_FIRSTHDR(message) };
    while !cmsg.is_null() {
        // SAFETY: CMSG_FIRSTHDR and CMSG_NXTHDR return complete headers inside the control buffer,
        // or null. Control aligns it.
        let header = unsafe { *cmsg };
        if header.cmsg_level == libc::SOL_SOCKET && header.cmsg_type == libc::SCM_RIGHTS {
            // SAFETY: CMSG_LEN only computes a number.
            let empty = unsafe { libc::CMSG_LEN(0) } as usize;
            let count = header.cmsg_len.saturating_sub(empty) / size_of::<RawFd>();
            // SAFETY: `cmsg` is a header inside the control buffer, and its data follows it.
            let data = unsafe { libc::CMSG_DATA(cmsg) }.cast::<RawFd>();
            for at in 0..count {
                // SAFETY: the kernel wrote cmsg_len bytes, so there are `count` descriptors; they
                // may be unaligned.
                let fd = unsafe { data.add(at).read_unaligned() };
                // SAFETY: the kernel just installed this descriptor for this process, and nothing
                // else owns it.
                fds.push(unsafe { OwnedFd::from_raw_fd(fd) });
            }
        }
        // SAFETY: as for CMSG_FIRSTHDR; `cmsg` was returned by it or by the previous CMSG_NXTHDR.
        cmsg = unsafe { libc::CMSG_NXTHDR(message, cmsg) };
    }
}

/// Sends the first part of `bytes` (at least one byte), and all of `fds` with the first byte.
/// Returns the number of bytes sent. Does not block: returns `WouldBlock` if the peer's buffer is
/// full; then nothing was sent. If the peer has closed the socket, returns `BrokenPipe` and raises
/// no signal.
pub(super) fn send(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[impl AsFd]) -> io::Result<usize> {
    if fds.len() > SCM_MAX_FD {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "more than 253 descriptors in one message"));
    }
    const SIZE: usize = control_size(SCM_MAX_FD);
    let mut control = Control::<SIZE> { bytes: [0; SIZE] };
    let mut iov = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let mut message = empty_message();
    message.msg_iov = &raw mut iov;
    message.msg_iovlen = 1;
    if !fds.is_empty() {
        message.msg_control = (&raw mut control).cast();
        message.msg_controllen = control_size(fds.len());
        // SAFETY: the control buffer is live, zeroed, and has room for SCM_MAX_FD descriptors.
        let cmsg = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
        // SAFETY: msg_controllen is at least the size of one header, so CMSG_FIRSTHDR returned a
        // header in the control buffer.
        let header = unsafe { &mut *cmsg };
        header.cmsg_level = libc::SOL_SOCKET;
        header.cmsg_type = libc::SCM_RIGHTS;
        // SAFETY: CMSG_LEN only computes a number.
        header.cmsg_len = unsafe { libc::CMSG_LEN((fds.len() * size_of::<RawFd>()) as u32) } as usize;
        // SAFETY: the header's data follows it directly.
        let data = unsafe { libc::CMSG_DATA(cmsg) }.cast::<RawFd>();
        for (at, fd) in fds.iter().enumerate() {
            // SAFETY: CMSG_SPACE(4 * SCM_MAX_FD) has room for that many descriptors, and the check
            // above limits their number.
            unsafe { data.add(at).write_unaligned(fd.as_fd().as_raw_fd()) };
        }
    }
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: `message` points to `iov` and `control`, `iov` points to `bytes`. All are live, and
    // sendmsg only reads them.
    retry(|| unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, flags) })
}

/// Waits until `socket` is readable (or writable, if `writable`) or has failed, at most for
/// `timeout`. Returns false on timeout.
pub(super) fn wait(socket: BorrowedFd<'_>, writable: bool, timeout: Duration) -> io::Result<bool> {
    let events = if writable { libc::POLLOUT } else { libc::POLLIN };
    let mut poll = libc::pollfd { fd: socket.as_raw_fd(), events, revents: 0 };
    // Round up to the next millisecond, so that a caller with a deadline does not spin during the
    // last one.
    let timeout_ms = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX).saturating_add(1);
    // SAFETY: one live and writable pollfd.
    let ready = unsafe { libc::poll(&raw mut poll, 1, timeout_ms) };
    match ready {
        0 => Ok(false),
        1.. => Ok(true),
        // Interrupted: the caller tries again and computes the remaining time.
        _ if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => Ok(true),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Returns true if the peer has closed the connection, whatever is left to read. Does not block.
pub(super) fn has_hung_up(socket: &UnixStream) -> bool {
    let mut poll = libc::pollfd { fd: socket.as_raw_fd(), events: libc::POLLRDHUP, revents: 0 };
    // SAFETY: one live and writable pollfd.
    let ready = unsafe { libc::poll(&raw mut poll, 1, 0) };
    ready == 1
}

fn empty_message() -> libc::msghdr {
    // SAFETY: all-zero is a valid msghdr: null pointers with lengths of 0.
    unsafe { std::mem::zeroed() }
}

/// Repeats the call while a signal interrupts it (EINTR).
fn retry(mut call: impl FnMut() -> isize) -> io::Result<usize> {
    loop {
        if let Ok(bytes) = usize::try_from(call()) {
            return Ok(bytes);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

//! Checks of a file descriptor that a caller passed in.
#![expect(
    unsafe_code,
    reason = "fstat(2), fcntl(2) and getsockopt(2) on a caller's descriptor, getrlimit(2)"
)]

use super::{check, epoll::Epoll};
use std::io;
use std::os::fd::RawFd;

/// Rejects descriptors that no monitor can watch: a closed one (EBADF), and one that is always
/// ready (EPERM, as from epoll_ctl(2)): most regular files, a directory, a device without a poll
/// operation. ppoll and io_uring accept these, and the loop would spin.
///
/// The type of a file does not say whether it can be polled: regular files of /proc and sysfs can,
/// if the driver supports it, as can a tty, but not /dev/null. So epoll decides for all of them,
/// which makes the monitors agree. Sockets and pipes are not asked about.
pub(crate) fn check_pollable(fd: RawFd) -> io::Result<()> {
    // SAFETY: all-zero is a valid `stat` (plain integers).
    let mut st: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: `st` is a live, writable stat buffer; a bad `fd` is an error, not undefined
    // behaviour.
    let r = unsafe { libc::fstat(fd, &raw mut st) };
    check(r.into()).map_err(|e| explain(e, fd))?;
    match st.st_mode & libc::S_IFMT {
        libc::S_IFSOCK | libc::S_IFIFO => Ok(()),
        _ => Epoll::new()?.add(fd, 0, 0).map_err(|e| explain(e, fd)),
    }
}

/// Adds the descriptor and the remedy to the two errors that a caller's mistake can cause in a
/// registration.
pub(crate) fn explain(e: io::Error, fd: RawFd) -> io::Error {
    match e.raw_os_error() {
        Some(libc::EPERM) => io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!(
                "fd {fd} is always ready (a regular file, a directory, or a device like /dev/null), so there is nothing to \
                 wait for; start its I/O with AioContext::start instead"
            ),
        ),
        Some(libc::EBADF) => io::Error::new(
            io::ErrorKind::InvalidInput,
            format!(
                "fd {fd} is closed (EBADF); register a descriptor while it is open and drop its registration before closing it"
            ),
        ),
        _ => e,
    }
}

/// The soft limit RLIMIT_NOFILE (getrlimit(2)).
pub(crate) fn descriptor_limit() -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the call fills the live `limit`.
    check(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) }.into())?;
    Ok(limit.rlim_cur)
}

/// Returns true for a socket that transfers bytes without boundaries of messages (SO_TYPE of
/// socket(7)). Anything else is none.
pub(crate) fn is_stream_socket(fd: RawFd) -> bool {
    let mut kind: libc::c_int = 0;
    let mut len = size_of_val(&kind) as libc::socklen_t;
    // SAFETY: the call fills `kind`, whose size is `len`; a bad `fd` is an error.
    let r = unsafe {
        libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_TYPE, (&raw mut kind).cast(), &raw mut len)
    };
    r == 0 && kind == libc::SOCK_STREAM
}

/// Returns true if O_NONBLOCK is set (fcntl(2) F_GETFL).
pub(crate) fn is_nonblocking(fd: RawFd) -> io::Result<bool> {
    // SAFETY: F_GETFL takes no argument and touches no memory.
    let flags = check(unsafe { libc::fcntl(fd, libc::F_GETFL) }.into()).map_err(|e| explain(e, fd))?;
    Ok(flags as libc::c_int & libc::O_NONBLOCK != 0)
}

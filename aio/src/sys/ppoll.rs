//! ppoll(2).
#![expect(unsafe_code, reason = "ppoll(2) on a pollfd slice borrowed from the caller")]

use super::{TimeoutNs, check, timespec};
use std::io;
use std::os::fd::RawFd;
use std::ptr;

/// Sleeps until one of `fds` is ready or the timeout; returns how many have `revents`. EINTR is
/// returned as an error.
pub(crate) fn ppoll(fds: &mut [libc::pollfd], timeout: TimeoutNs) -> io::Result<usize> {
    let ts = timeout.map(timespec);
    let ts = ts.as_ref().map_or(ptr::null(), ptr::from_ref);
    // SAFETY: the kernel reads and writes `fds.len()` entries of the slice and reads `ts`, both of
    // which are live; a null signal mask leaves the mask alone.
    let n = unsafe { libc::ppoll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, ts, ptr::null()) };
    check(n.into()).map(|n| n as usize)
}

/// Polls one descriptor once, without sleeping.
pub(crate) fn is_readable(fd: RawFd) -> io::Result<bool> {
    is_ready(fd, libc::POLLIN)
}

/// The same for room to write.
pub(crate) fn is_writable(fd: RawFd) -> io::Result<bool> {
    is_ready(fd, libc::POLLOUT)
}

fn is_ready(fd: RawFd, events: libc::c_short) -> io::Result<bool> {
    let mut fds = [libc::pollfd { fd, events, revents: 0 }];
    ppoll(&mut fds, Some(0))?;
    Ok(fds[0].revents & events != 0)
}

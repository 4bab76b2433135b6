//! System calls that the standard library does not have.
#![expect(unsafe_code, reason = "libc calls on integers and on descriptors that a Rust object owns")]

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// Returns true if the other end of a pipe is closed in every process and no request holds it.
pub(crate) fn has_hung_up(end: &impl AsFd) -> bool {
    let mut pollfd = libc::pollfd { fd: end.as_fd().as_raw_fd(), events: 0, revents: 0 };
    // SAFETY: one pollfd, which lives across the call.
    let r = unsafe { libc::poll(&raw mut pollfd, 1, 0) };
    assert!(r >= 0, "{}", io::Error::last_os_error());
    pollfd.revents & (libc::POLLHUP | libc::POLLERR) != 0
}

/// Makes a pipe as small as it can be, and returns its size in bytes.
pub(crate) fn shrink_pipe(end: &impl AsFd) -> usize {
    // SAFETY: integers only.
    let size = unsafe { libc::fcntl(end.as_fd().as_raw_fd(), libc::F_SETPIPE_SZ, 4096) };
    usize::try_from(size).expect("F_SETPIPE_SZ")
}

/// How many descriptors this process has open.
pub(crate) fn open_descriptors() -> usize {
    // One of the entries is the directory itself, each time.
    std::fs::read_dir("/proc/self/fd").expect("/proc is mounted").count()
}

//! An inherited connection to the frontend.
#![expect(unsafe_code, reason = "takes over a file descriptor that this process inherited")]

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

/// Takes over an inherited file descriptor, which must be a connected Unix stream socket. Call it
/// before this process opens anything, or the number may be that of its own descriptor.
pub(crate) fn inherited(fd: i32) -> Result<UnixStream, String> {
    if (0..=2).contains(&fd) {
        return Err(format!("--fd {fd}: 0 to 2 are the standard streams; pass the socket as 3 or higher"));
    }
    // SAFETY: F_GETFD takes no argument and touches no memory.
    if unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0 {
        let error = io::Error::last_os_error();
        return Err(format!("--fd {fd}: no such descriptor was inherited ({error})"));
    }
    let wrong = || format!("--fd {fd}: not a connected Unix stream socket");
    let is = |option, value| socket_option(fd, option) == Some(value);
    if !is(libc::SO_DOMAIN, libc::AF_UNIX) || !is(libc::SO_TYPE, libc::SOCK_STREAM) {
        return Err(wrong());
    }
    // SAFETY: the file descriptor is open, and the parent process passed its number on the command
    // line, so it is ours to own.
    let stream = UnixStream::from(unsafe { OwnedFd::from_raw_fd(fd) });
    // Reject a listening socket: this process would never receive a message on it.
    if stream.peer_addr().is_ok() { Ok(stream) } else { Err(wrong()) }
}

/// Returns the value of an integer option of SOL_SOCKET, or `None` if `fd` is not a socket.
fn socket_option(fd: i32, option: libc::c_int) -> Option<libc::c_int> {
    let mut value: libc::c_int = 0;
    let mut size = size_of_val(&value) as libc::socklen_t;
    // SAFETY: `value` is ours and has `size` bytes.
    let result =
        unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, option, (&raw mut value).cast(), &mut size) };
    (result == 0).then_some(value)
}

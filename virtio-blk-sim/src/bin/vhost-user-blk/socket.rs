//! The socket to the frontend: a listening socket, or an inherited connection.
#![expect(unsafe_code, reason = "takes over a file descriptor that this process inherited")]

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use virtio_blk_sim::vhost_user::{self, SocketFile};

/// Listens on a Unix socket at `path`; see [`vhost_user::bind`].
pub(crate) fn bind(path: &Path) -> Result<(UnixListener, SocketFile), String> {
    vhost_user::bind(path).map_err(|error| format!("--socket {}: {error}", path.display()))
}

/// Takes over an inherited file descriptor, which must be a connected Unix stream socket.
pub(crate) fn inherited(fd: i32) -> Result<UnixStream, String> {
    // SAFETY: F_GETFD takes no argument and touches no memory.
    if fd < 3 || unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0 {
        let error = io::Error::last_os_error();
        return Err(format!("--fd {fd}: no such descriptor was inherited ({error})"));
    }
    // SAFETY: the file descriptor is open, and the parent process passed its number on the command
    // line, so it is ours to own.
    let stream = UnixStream::from(unsafe { OwnedFd::from_raw_fd(fd) });
    // Reject a listening socket: this process would never receive a message on it.
    match stream.peer_addr() {
        Ok(_) => Ok(stream),
        Err(_) => Err(format!("--fd {fd}: not a connected Unix stream socket")),
    }
}

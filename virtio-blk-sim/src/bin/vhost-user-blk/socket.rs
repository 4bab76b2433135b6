//! The socket to the frontend: listened on, or inherited.
#![expect(unsafe_code, reason = "a descriptor that this process inherited")]

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use virtio_blk_sim::vhost_user::{self, SocketFile};

/// Listens at `path`, as [`vhost_user::bind`].
pub(crate) fn bind(path: &Path) -> Result<(UnixListener, SocketFile), String> {
    vhost_user::bind(path).map_err(|error| format!("--socket {}: {error}", path.display()))
}

/// Takes over an inherited descriptor.
pub(crate) fn inherited(fd: i32) -> Result<UnixStream, String> {
    // SAFETY: F_GETFD takes no argument and touches no memory.
    if fd < 3 || unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0 {
        let error = io::Error::last_os_error();
        return Err(format!("--fd {fd}: no such descriptor was inherited ({error})"));
    }
    // SAFETY: it is open, and whoever started this process passed it by its number on the command
    // line.
    let stream = UnixStream::from(unsafe { OwnedFd::from_raw_fd(fd) });
    // Not a listening socket, on which no frontend would ever be heard.
    match stream.peer_addr() {
        Ok(_) => Ok(stream),
        Err(_) => Err(format!("--fd {fd}: not a connected Unix stream socket")),
    }
}

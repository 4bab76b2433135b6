//! The Unix socket: only its owner may connect, and its name is removed at exit.
#![expect(unsafe_code, reason = "umask(2), SO_PEERCRED, kill(2) with signal 0, and an inherited descriptor")]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// A socket's name in the file system. Dropping it removes the name.
#[derive(Debug)]
pub(crate) struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Ignores the error: the file may have been removed already.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Listens on `path`, for its owner only (mode 0600). Replaces a stale socket that a killed server
/// left behind. Fails if a server is listening on it, or if the file is not a socket.
pub(crate) fn bind(path: &Path) -> Result<(UnixListener, SocketFile), String> {
    let name = path.display();
    if let Ok(metadata) = std::fs::symlink_metadata(path) {
        if !metadata.file_type().is_socket() {
            return Err(format!(
                "--socket {name}: the file exists and is not a socket; remove it or use another path"
            ));
        }
        if UnixStream::connect(path).is_ok_and(|stream| is_alive(&stream)) {
            return Err(format!("--socket {name}: another server is listening there"));
        }
        std::fs::remove_file(path).map_err(|error| format!("--socket {name}: {error}"))?;
    }
    // Set through the umask and not afterwards, so that the mode is right from the start.
    // SAFETY: umask(2) takes an integer; no other thread creates files yet.
    let old = unsafe { libc::umask(0o177) };
    let listener = UnixListener::bind(path);
    // SAFETY: as above.
    unsafe { libc::umask(old) };
    match listener {
        Ok(listener) => Ok((listener, SocketFile(path.to_owned()))),
        Err(error) => Err(format!("--socket {name}: {error}")),
    }
}

/// Returns true if the listening process is alive. The socket of a killed process may accept for a
/// moment longer: the kernel cancels the io_uring requests on it after the process has exited.
fn is_alive(stream: &UnixStream) -> bool {
    let mut peer = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut size = size_of_val(&peer) as libc::socklen_t;
    let fd = stream.as_raw_fd();
    // SAFETY: SO_PEERCRED writes a ucred into `peer`, which has `size` bytes. It holds the
    // credentials of the process that called listen(2) (unix(7)).
    let got = unsafe {
        libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_PEERCRED, (&raw mut peer).cast(), &mut size)
    };
    if got < 0 || peer.pid <= 0 {
        // The peer is in another PID namespace. All we know is that it accepts connections.
        return true;
    }
    // SAFETY: signal 0 only checks that the process exists.
    let asked = unsafe { libc::kill(peer.pid, 0) };
    asked == 0 || io::Error::last_os_error().raw_os_error() != Some(libc::ESRCH)
}

/// Takes over an inherited descriptor.
pub(crate) fn inherited(fd: i32) -> Result<UnixStream, String> {
    // SAFETY: F_GETFD takes no argument and touches no memory.
    if fd < 3 || unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0 {
        let error = io::Error::last_os_error();
        return Err(format!("--fd {fd}: no such descriptor was inherited ({error})"));
    }
    // SAFETY: the descriptor is open, and whoever started this process passed its ownership on the
    // command line.
    let stream = UnixStream::from(unsafe { OwnedFd::from_raw_fd(fd) });
    // A listening socket has no peer, so it would never receive a message.
    match stream.peer_addr() {
        Ok(_) => Ok(stream),
        Err(_) => Err(format!("--fd {fd}: not a connected Unix stream socket")),
    }
}

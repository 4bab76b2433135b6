//! The socket: made for its owner alone, and removed at the end.
#![expect(
    unsafe_code,
    reason = "umask(2), SO_PEERCRED, kill(2) with no signal, and a descriptor that this process inherited"
)]

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
        // Whoever removed it before us has done what we would.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Listens at `path`, which nobody but its owner may connect to. A socket that a server left there when it was killed is
/// replaced; one that is listened on is not, nor is anything else.
pub(crate) fn bind(path: &Path) -> Result<(UnixListener, SocketFile), String> {
    let name = path.display();
    if let Ok(metadata) = std::fs::symlink_metadata(path) {
        if !metadata.file_type().is_socket() {
            return Err(format!(
                "--socket {name}: something that is no socket is there; remove it or choose another name"
            ));
        }
        if UnixStream::connect(path).is_ok_and(|stream| is_alive(&stream)) {
            return Err(format!("--socket {name}: another server listens there"));
        }
        std::fs::remove_file(path).map_err(|error| format!("--socket {name}: {error}"))?;
    }
    // The mode counts from the first moment on, so it is not set afterwards.
    // SAFETY: umask(2) takes an integer; no other thread makes files yet.
    let old = unsafe { libc::umask(0o177) };
    let listener = UnixListener::bind(path);
    // SAFETY: as above.
    unsafe { libc::umask(old) };
    match listener {
        Ok(listener) => Ok((listener, SocketFile(path.to_owned()))),
        Err(error) => Err(format!("--socket {name}: {error}")),
    }
}

/// Whether the process that listens at the other end lives. A killed one's socket may still answer for a moment: what
/// io_uring waited for on it is given up after the process has gone.
fn is_alive(stream: &UnixStream) -> bool {
    let mut peer = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut size = size_of_val(&peer) as libc::socklen_t;
    let fd = stream.as_raw_fd();
    // SAFETY: SO_PEERCRED writes a ucred, which is ours and has `size` bytes. (unix(7): those of who called listen(2).)
    let got = unsafe {
        libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_PEERCRED, (&raw mut peer).cast(), &mut size)
    };
    if got < 0 || peer.pid <= 0 {
        // Of another namespace: nothing is known of it but that it answers.
        return true;
    }
    // SAFETY: signal 0 of kill(2) only asks.
    let asked = unsafe { libc::kill(peer.pid, 0) };
    asked == 0 || io::Error::last_os_error().raw_os_error() != Some(libc::ESRCH)
}

/// Takes over an inherited descriptor.
pub(crate) fn inherited(fd: i32) -> Result<UnixStream, String> {
    // SAFETY: F_GETFD takes no argument and touches no memory.
    if fd < 3 || unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0 {
        let error = io::Error::last_os_error();
        return Err(format!("--fd {fd}: this process has not inherited such a descriptor ({error})"));
    }
    // SAFETY: it is open, and whoever started us has given it to us, by its number on our command line.
    let stream = UnixStream::from(unsafe { OwnedFd::from_raw_fd(fd) });
    // Not one that listens, on which no frontend would ever be heard.
    match stream.peer_addr() {
        Ok(_) => Ok(stream),
        Err(_) => Err(format!("--fd {fd}: this is no connected Unix stream socket")),
    }
}

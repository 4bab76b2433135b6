//! A listening socket in the file system: made for its owner alone, and removed at the end.
#![expect(unsafe_code, reason = "umask(2), SO_PEERCRED, and kill(2) with no signal")]

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// A socket's name in the file system. Dropping it removes the name.
#[derive(Debug)]
pub struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // If somebody else removed it first, there is nothing left to do.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Listens at `path`, to which only its owner may connect. A socket that a killed server left there is
/// replaced. A socket on which a server listens is not, and neither is any other kind of file.
///
/// Changes the umask for a moment, so call it before there are threads that make files.
///
/// # Errors
/// `AlreadyExists` if something is there that is not replaced; what unlink(2) and bind(2) return.
pub fn bind(path: &Path) -> io::Result<(UnixListener, SocketFile)> {
    let taken = |why| Err(io::Error::new(io::ErrorKind::AlreadyExists, why));
    if let Ok(metadata) = std::fs::symlink_metadata(path) {
        if !metadata.file_type().is_socket() {
            return taken("something that is no socket is there; remove it or choose another name");
        }
        if UnixStream::connect(path).is_ok_and(|stream| is_alive(&stream)) {
            return taken("another server listens there");
        }
        std::fs::remove_file(path)?;
    }
    // With the umask the mode is right from the first moment on; chmod(2) would come too late.
    // SAFETY: umask(2) takes an integer; no other thread makes files yet.
    let old = unsafe { libc::umask(0o177) };
    let listener = UnixListener::bind(path);
    // SAFETY: as above.
    unsafe { libc::umask(old) };
    Ok((listener?, SocketFile(path.to_owned())))
}

/// Returns whether the process that listens at the other end is alive. The socket of a killed process may
/// still accept for a moment, while io_uring cancels what it waited for on that socket.
fn is_alive(stream: &UnixStream) -> bool {
    let mut peer = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut size = size_of_val(&peer) as libc::socklen_t;
    let fd = stream.as_raw_fd();
    // SAFETY: SO_PEERCRED writes a ucred, which is ours and has `size` bytes. (unix(7): the credentials are
    // those of the process that called listen(2).)
    let got = unsafe {
        libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_PEERCRED, (&raw mut peer).cast(), &mut size)
    };
    if got < 0 || peer.pid <= 0 {
        // In another PID namespace: all that is known is that it answers.
        return true;
    }
    // SAFETY: signal 0 of kill(2) only asks.
    let asked = unsafe { libc::kill(peer.pid, 0) };
    asked == 0 || io::Error::last_os_error().raw_os_error() != Some(libc::ESRCH)
}

//! A listening socket in the file system: made for its owner alone, and removed at the end.
//!
//! A name can be taken over: somebody removes the socket and puts another one, or a file, in its
//! place. So nothing is removed by name alone. At the end the name is removed only if it still
//! refers to the socket that was bound here. At the start a socket is replaced only if no process
//! has it open. Both are a check followed by a removal, and take the flock(2) of the directory, so
//! that two servers do not do this at the same time.
#![expect(
    unsafe_code,
    reason = "socket(2), bind(2), flock(2), fchownat(2), fstatat(2), unlinkat(2), openat(2), SO_PEERCRED"
)]

use std::ffi::{CStr, CString};
use std::fs::{File, Metadata, OpenOptions, Permissions};
use std::io::{self, Error, ErrorKind};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::Path;
use std::time::{Duration, Instant};

/// How long a process that was killed may take to close its socket.
const DYING: Duration = Duration::from_secs(2);

/// How long to wait for another server to release the directory's lock. It holds it for a moment,
/// or while it waits for a dying process. A stranger may hold it for ever, which must not keep a
/// server from starting.
const LOCKED: Duration = Duration::from_secs(3);

/// Connections that wait to be accepted. At the rate of `accept.rs`, whoever comes after a flood of
/// them waits for little more than a second.
const BACKLOG: libc::c_int = 128;

/// A socket's name in the file system. Dropping it removes the name, unless the name refers to
/// something else by then.
#[derive(Debug)]
pub struct SocketFile {
    directory: File,
    name: CString,
    /// The socket's inode (O_PATH). While it is open, no other file gets its inode number.
    inode: File,
}

impl SocketFile {
    /// Changes the user of the socket, its group, or both, as chown(2) does. Do it before
    /// [`set_mode`](Self::set_mode) lets a group connect. Blocks as the file system does.
    ///
    /// # Errors
    /// `PermissionDenied` if this process may not do that; what else fchownat(2) returns.
    pub fn set_owner(&self, user: Option<u32>, group: Option<u32>) -> io::Result<()> {
        // The last number stands for "no change".
        let (user, group) = (user.unwrap_or(u32::MAX), group.unwrap_or(u32::MAX));
        // SAFETY: the descriptor is open, and the path is an empty C string.
        let result =
            unsafe { libc::fchownat(self.inode.as_raw_fd(), c"".as_ptr(), user, group, libc::AT_EMPTY_PATH) };
        if result < 0 { Err(Error::last_os_error()) } else { Ok(()) }
    }

    /// Changes the mode of the socket. Who may write to it may connect (unix(7)). Needs /proc.
    /// Blocks as the file system does.
    ///
    /// # Errors
    /// What chmod(2) returns.
    pub fn set_mode(&self, mode: u32) -> io::Result<()> {
        // fchmod(2) does not take a descriptor of O_PATH, but the link to its file is followed.
        let link = format!("/proc/self/fd/{}", self.inode.as_raw_fd());
        std::fs::set_permissions(link, Permissions::from_mode(mode & 0o777))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _lock = DirectoryLock::take(&self.directory);
        let same = |now: &libc::stat, ours: &Metadata| (now.st_dev, now.st_ino) == (ours.dev(), ours.ino());
        // If somebody else removed or replaced it, there is nothing left to do.
        if let (Ok(now), Ok(ours)) = (stat_at(&self.directory, &self.name), self.inode.metadata())
            && same(&now, &ours)
        {
            // SAFETY: the descriptor is open, and the name is a C string.
            unsafe { libc::unlinkat(self.directory.as_raw_fd(), self.name.as_ptr(), 0) };
        }
    }
}

/// Listens at `path`, to which only its owner may connect. A socket that a killed server left there
/// is replaced. A socket of any type that a process has open is not, and neither is any other kind
/// of file. Waits for at most five seconds, and normally not at all.
///
/// # Errors
/// `AlreadyExists` if something is there that is not replaced; `InvalidInput` for a path that is no
/// address of a socket; what open(2) returns for the directory, and what unlink(2) and bind(2)
/// return.
pub fn bind(path: &Path) -> io::Result<(UnixListener, SocketFile)> {
    let name = path.file_name().and_then(|name| CString::new(name.as_bytes()).ok());
    let name = name.ok_or_else(|| Error::new(ErrorKind::InvalidInput, "the path has no file name"))?;
    let directory = open_directory(path)?;
    let lock = DirectoryLock::take(&directory);
    if let Ok(metadata) = std::fs::symlink_metadata(path) {
        if !metadata.file_type().is_socket() {
            return Err(taken("something that is no socket is there; remove it or choose another name"));
        }
        if wait_until_dead(path)? {
            std::fs::remove_file(path)?;
        }
    }
    let socket = bind_for_owner(path)?;
    // SAFETY: the descriptor is open, and the name is a C string.
    let inode = unsafe {
        libc::openat(directory.as_raw_fd(), name.as_ptr(), libc::O_PATH | libc::O_NOFOLLOW | libc::O_CLOEXEC)
    };
    if inode < 0 {
        return Err(Error::last_os_error());
    }
    // SAFETY: the kernel has just returned this descriptor; nobody else owns it.
    let inode = File::from(unsafe { OwnedFd::from_raw_fd(inode) });
    drop(lock);
    let file = SocketFile { directory, name, inode };
    if file.inode.metadata()?.mode() & 0o177 != 0 {
        return Err(Error::other("the socket is not for its owner alone: this kernel gave it another mode"));
    }
    // Nobody could connect before.
    // SAFETY: takes integers.
    if unsafe { libc::listen(socket.as_raw_fd(), BACKLOG) } < 0 {
        return Err(Error::last_os_error());
    }
    Ok((socket.into(), file))
}

/// A stream socket with a name to which only its owner may connect.
fn bind_for_owner(path: &Path) -> io::Result<OwnedFd> {
    let address = address_of(path);
    // One byte is left for the end of the path.
    let length = path.as_os_str().as_bytes().len();
    if length >= address.sun_path.len() {
        let most = address.sun_path.len() - 1;
        let why = format!("the path is too long for a socket: {length} bytes, and {most} are possible");
        return Err(Error::new(ErrorKind::InvalidInput, why));
    }
    let socket = stream_socket(0)?;
    // The name gets the mode of the socket (unix_bind_bsd() in net/unix/af_unix.c), less the umask.
    // So the mode is right from the first moment on, and the umask, which belongs to all threads,
    // stays as it is.
    // SAFETY: takes integers.
    if unsafe { libc::fchmod(socket.as_raw_fd(), 0o600) } < 0 {
        return Err(Error::last_os_error());
    }
    let size = size_of_val(&address) as libc::socklen_t;
    // SAFETY: `address` is ours and has `size` bytes.
    if unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), size) } < 0 {
        return Err(Error::last_os_error());
    }
    Ok(socket)
}

fn stream_socket(flags: libc::c_int) -> io::Result<OwnedFd> {
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | flags;
    // SAFETY: takes integers.
    let fd = unsafe { libc::socket(libc::AF_UNIX, kind, 0) };
    if fd < 0 {
        return Err(Error::last_os_error());
    }
    // SAFETY: the kernel has just returned this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn taken(why: &str) -> Error {
    Error::new(ErrorKind::AlreadyExists, why)
}

fn open_directory(path: &Path) -> io::Result<File> {
    let directory = match path.parent() {
        Some(directory) if directory != Path::new("") => directory,
        _ => Path::new("."),
    };
    let open = |flags| OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY | flags).open(directory);
    // Without the right to list the directory, it cannot be locked.
    open(0).or_else(|error| match error.kind() {
        ErrorKind::PermissionDenied => open(libc::O_PATH),
        _ => Err(error),
    })
}

/// Returns true if no process has the socket open, and false if it was removed meanwhile. Waits for
/// a process that is dying.
///
/// # Errors
/// `AlreadyExists` if a process has it open; what connect(2) returns, such as `PermissionDenied`.
fn wait_until_dead(path: &Path) -> io::Result<bool> {
    let deadline = Instant::now() + DYING;
    loop {
        match probe(path)? {
            Found::Nothing => return Ok(false),
            Found::Dead => return Ok(true),
            Found::Listening { alive: false } if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Found::Listening { .. } => return Err(taken("another server listens there")),
            Found::InUse => return Err(taken("another program uses the socket there")),
        }
    }
}

/// What is behind a socket's name.
enum Found {
    Nothing,
    /// No process has it open.
    Dead,
    /// A stream socket that accepts connections. `alive` tells whether the process that called
    /// listen(2) lives. The socket of a killed process accepts for a moment, while io_uring cancels
    /// what it waited for on that socket. But a child may also have taken over a socket from its
    /// parent, which ended.
    Listening {
        alive: bool,
    },
    /// A socket of another type, or one that does not listen (yet).
    InUse,
}

/// Finds out without waiting what is behind a socket's name.
fn probe(path: &Path) -> io::Result<Found> {
    // Connecting a datagram socket sends nothing. The kernel looks up the socket first, and then
    // compares the types, so ECONNREFUSED means that no socket is bound to this file, whatever its
    // type (unix_find_bsd() in net/unix/af_unix.c).
    let Err(error) = UnixDatagram::unbound()?.connect(path) else { return Ok(Found::InUse) };
    match error.raw_os_error() {
        Some(libc::ECONNREFUSED) => Ok(Found::Dead),
        Some(libc::ENOENT) => Ok(Found::Nothing),
        Some(libc::EPROTOTYPE) => connect_stream(path),
        // A datagram socket that is connected to another one.
        Some(libc::EPERM) => Ok(Found::InUse),
        _ => Err(error),
    }
}

/// The address of a path that fits into one.
fn address_of(path: &Path) -> libc::sockaddr_un {
    // SAFETY: zero is valid for this structure of integers.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    for (to, from) in address.sun_path.iter_mut().zip(path.as_os_str().as_bytes()) {
        *to = from.cast_signed() as libc::c_char;
    }
    address
}

/// Tells apart the sockets that are no datagram sockets.
fn connect_stream(path: &Path) -> io::Result<Found> {
    let address = address_of(path);
    let socket = stream_socket(libc::SOCK_NONBLOCK)?;
    let size = size_of_val(&address) as libc::socklen_t;
    // SAFETY: `address` is ours and has `size` bytes; the datagram socket was connected to
    // this path, so it fits.
    if unsafe { libc::connect(socket.as_raw_fd(), (&raw const address).cast(), size) } == 0 {
        return Ok(Found::Listening { alive: is_alive(&socket) });
    }
    Ok(match Error::last_os_error().raw_os_error() {
        // Its queue of connections is full. A blocking connect(2) would wait.
        Some(libc::EAGAIN) => Found::Listening { alive: true },
        _ => Found::InUse,
    })
}

/// Returns whether the process that listens at the other end is alive.
fn is_alive(stream: &OwnedFd) -> bool {
    let mut peer = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut size = size_of_val(&peer) as libc::socklen_t;
    let fd = stream.as_raw_fd();
    // SAFETY: SO_PEERCRED writes a ucred, which is ours and has `size` bytes. (unix(7): the
    // credentials are those of the process that called listen(2).)
    let got = unsafe {
        libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_PEERCRED, (&raw mut peer).cast(), &mut size)
    };
    if got < 0 || peer.pid <= 0 {
        // In another PID namespace: all that is known is that it answers.
        return true;
    }
    // SAFETY: signal 0 of kill(2) only asks.
    let asked = unsafe { libc::kill(peer.pid, 0) };
    asked == 0 || Error::last_os_error().raw_os_error() != Some(libc::ESRCH)
}

fn stat_at(directory: &File, name: &CStr) -> io::Result<libc::stat> {
    // SAFETY: zero is valid for this structure of integers.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: the descriptor is open, the name is a C string, and `stat` is writable.
    let result = unsafe {
        libc::fstatat(directory.as_raw_fd(), name.as_ptr(), &raw mut stat, libc::AT_SYMLINK_NOFOLLOW)
    };
    if result == 0 { Ok(stat) } else { Err(Error::last_os_error()) }
}

/// The flock(2) of a directory. Only servers of this crate take it, for a check and a removal.
struct DirectoryLock<'a>(&'a File);

impl<'a> DirectoryLock<'a> {
    /// `None` if the lock is not to be obtained: then the check and the removal are done without.
    fn take(directory: &'a File) -> Option<Self> {
        let deadline = Instant::now() + LOCKED;
        loop {
            // SAFETY: takes integers.
            if unsafe { libc::flock(directory.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } == 0 {
                return Some(Self(directory));
            }
            // Another error: an O_PATH descriptor, or a file system without this lock.
            let held = Error::last_os_error().kind() == ErrorKind::WouldBlock;
            if !held || Instant::now() >= deadline {
                return None;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for DirectoryLock<'_> {
    fn drop(&mut self) {
        // SAFETY: takes integers.
        unsafe { libc::flock(self.0.as_raw_fd(), libc::LOCK_UN) };
    }
}

#[cfg(test)]
mod tests;

//! Sockets that this process inherited: by `--fd`, or from a service manager (sd_listen_fds(3)).
#![expect(unsafe_code, reason = "takes over file descriptors that this process inherited")]

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;

use crate::spec::DiskSpec;

/// A socket through which frontends reach a disk.
#[derive(Debug)]
pub(crate) enum Socket {
    Listening(UnixListener),
    /// The only frontend.
    Connected(UnixStream),
}

/// Listening sockets by the id of their disk. They stay open while the process runs, so a disk that
/// is removed can be added again.
#[derive(Debug, Clone, Default)]
pub(crate) struct Listeners(Arc<BTreeMap<String, UnixListener>>);

/// What this process inherited.
#[derive(Debug, Default)]
pub(crate) struct Inherited {
    /// For the disk of the command line.
    pub(crate) only: Option<Socket>,
    /// For the disks of the configuration file.
    pub(crate) listeners: Listeners,
}

impl Inherited {
    /// Takes over what there is. Call it once, and before this process opens anything, or a number
    /// may be that of its own descriptor. `has_many` is true if the sockets have the ids of the
    /// disks as their names.
    pub(crate) fn take(fd: Option<i32>, has_many: bool) -> Result<Self, String> {
        let mut passed = passed().map_err(|error| format!("LISTEN_FDS: {error}"))?;
        if let Some(fd) = fd {
            if !passed.is_empty() {
                return Err(
                    "LISTEN_FDS gives this process a socket, and so does --fd; use one of them".into()
                );
            }
            let only = Some(socket(fd, &format!("--fd {fd}"))?);
            return Ok(Self { only, ..Self::default() });
        }
        if has_many {
            return Ok(Self { listeners: Listeners::of(passed)?, ..Self::default() });
        }
        let Some((fd, _)) = passed.pop() else { return Ok(Self::default()) };
        if !passed.is_empty() {
            let count = passed.len() + 1;
            return Err(format!("LISTEN_FDS: {count} sockets, but the disk of the command line has one"));
        }
        Ok(Self { only: Some(socket(fd, "LISTEN_FDS")?), ..Self::default() })
    }

    /// Returns true if the only frontend is connected already.
    pub(crate) fn is_connected(&self) -> bool {
        matches!(self.only, Some(Socket::Connected(_)))
    }
}

/// The sockets of the service manager, and their names. Empty if they are for another process.
fn passed() -> io::Result<Vec<(i32, String)>> {
    // Names without sockets are an error in the next call.
    match sd_notify::listen_fds()?.len() {
        0 => Ok(Vec::new()),
        _ => Ok(sd_notify::listen_fds_with_names()?.collect()),
    }
}

impl Listeners {
    fn of(passed: Vec<(i32, String)>) -> Result<Self, String> {
        let mut listeners = BTreeMap::new();
        for (fd, name) in passed {
            let what = format!("LISTEN_FDS: descriptor {fd}, named {name:?}");
            let Socket::Listening(listener) = socket(fd, &what)? else {
                return Err(format!("{what}: not a listening socket"));
            };
            if listeners.insert(name, listener).is_some() {
                return Err(format!(
                    "{what}: there are two of this name (FileDescriptorName= of the socket)"
                ));
            }
        }
        Ok(Self(Arc::new(listeners)))
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Returns the socket of a disk.
    pub(crate) fn of_disk(&self, id: &str) -> Result<Option<UnixListener>, String> {
        let copy = self.0.get(id).map(UnixListener::try_clone).transpose();
        copy.map_err(|error| format!("the inherited socket {id}: {error}"))
    }

    /// Makes sure that a disk has exactly one socket.
    pub(crate) fn check(&self, spec: &DiskSpec) -> Result<(), String> {
        let id = &spec.id;
        match (spec.socket.is_some(), self.0.contains_key(id)) {
            (false, false) => Err(format!("disk {id} needs a socket")),
            (true, true) => {
                Err(format!("disk {id} has a socket, and inherited one of this name; leave one of them out"))
            }
            (false, true) if spec.socket_mode.is_some() || spec.socket_owner.is_some() => {
                Err(format!("disk {id}: the owner and the mode of an inherited socket are those it has"))
            }
            _ => Ok(()),
        }
    }
}

/// Takes over an inherited descriptor, which must be a Unix stream socket that listens or is
/// connected. `what` begins the sentence if it is something else.
fn socket(fd: i32, what: &str) -> Result<Socket, String> {
    if (0..=2).contains(&fd) {
        return Err(format!("{what}: 0 to 2 are the standard streams; pass the socket as 3 or higher"));
    }
    // SAFETY: F_GETFD takes no argument and touches no memory.
    if unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0 {
        let error = io::Error::last_os_error();
        return Err(format!("{what}: no such descriptor was inherited ({error})"));
    }
    let wrong = || format!("{what}: not a Unix stream socket that listens or is connected");
    let is = |option, value| socket_option(fd, option) == Some(value);
    if !is(libc::SO_DOMAIN, libc::AF_UNIX) || !is(libc::SO_TYPE, libc::SOCK_STREAM) {
        return Err(wrong());
    }
    // SAFETY: the file descriptor is open, and the parent process passed its number, so it is ours
    // to own.
    let fd_owned = unsafe { OwnedFd::from_raw_fd(fd) };
    if is(libc::SO_ACCEPTCONN, 1) {
        return Ok(Socket::Listening(UnixListener::from(fd_owned)));
    }
    let stream = UnixStream::from(fd_owned);
    if stream.peer_addr().is_ok() { Ok(Socket::Connected(stream)) } else { Err(wrong()) }
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

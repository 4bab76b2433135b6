//! Tells the service manager how the process is (sd_notify(3)): that it is ready, that it reads its
//! configuration again, that it ends, and that its loops turn.
//!
//! The socket is connected once, at the start, because the sandbox forbids that later. No message
//! waits: `Host::notify_ready` tries again with the one whose loss would matter.

use std::env;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;

use sd_notify::NotifyState;

/// The service manager's socket. Without a service manager, nothing is sent.
#[derive(Debug, Default)]
pub(crate) struct Notifier(Option<File>);

impl Notifier {
    /// Connects to the socket that `NOTIFY_SOCKET` names. The error is one sentence.
    pub(crate) fn of_environment() -> Result<Self, String> {
        let Some(address) = env::var_os("NOTIFY_SOCKET").filter(|address| !address.is_empty()) else {
            return Ok(Self::default());
        };
        let wrong = |error: io::Error| format!("NOTIFY_SOCKET {}: {error}", address.display());
        connect(&address).map(|socket| Self(Some(socket))).map_err(wrong)
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.0.is_some()
    }

    /// The process serves its disks, or has read its configuration. Returns false if it has to be
    /// sent again, because the service manager is behind with its messages.
    #[must_use]
    pub(crate) fn ready(&self, status: &str) -> bool {
        self.send(&[NotifyState::Ready, NotifyState::Status(status)])
    }

    /// A line for people.
    pub(crate) fn status(&self, status: &str) {
        self.send(&[NotifyState::Status(status)]);
    }

    /// The configuration is being read again. [`ready`](Self::ready) ends that. The time is that of
    /// the start of it, which `Type=notify-reload` (systemd 253) needs.
    pub(crate) fn reloading(&self) {
        if let Ok(now) = NotifyState::monotonic_usec_now() {
            self.send(&[NotifyState::Reloading, now, NotifyState::Status("reading the configuration")]);
        }
    }

    /// The process ends.
    pub(crate) fn stopping(&self) {
        self.send(&[NotifyState::Stopping, NotifyState::Status("completing the requests in flight")]);
    }

    /// All loops have turned.
    pub(crate) fn watchdog(&self) {
        self.send(&[NotifyState::Watchdog]);
    }

    /// Returns false if there is no room for the message now.
    fn send(&self, states: &[NotifyState<'_>]) -> bool {
        let Some(mut socket) = self.0.as_ref() else { return true };
        let lines: Vec<String> = states.iter().map(|state| state.to_string().replace('\n', " ")).collect();
        // One write(2) is one datagram. Other errors mean that nobody listens any more.
        let written = socket.write(lines.join("\n").as_bytes());
        !written.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    }
}

/// `address` is a path, or a name in the abstract namespace that begins with `@`.
fn connect(address: &OsStr) -> io::Result<File> {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::net::SocketAddr;
    let address = match address.as_bytes() {
        [b'/', ..] => SocketAddr::from_pathname(address)?,
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => return Err(io::Error::new(ErrorKind::Unsupported, "this is no Unix socket")),
    };
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&address)?;
    socket.set_nonblocking(true)?;
    Ok(File::from(OwnedFd::from(socket)))
}

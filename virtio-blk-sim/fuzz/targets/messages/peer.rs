//! The frontend, which executes the input, and its environment.

mod guest;
mod requests;

use std::cell::RefCell;
use std::fs::File;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::rc::Rc;

use aio::{AioContext, EventNotifier, MonitorKind, Reset};
use virtio_blk_sim::blk::Disk;
use virtio_blk_sim::blk::backend::Backend;
use virtio_blk_sim::blk::device::{BlockDevice, DeviceConfig};
use virtio_blk_sim::vhost_user::{Connection, Frame, Inflight, Loops, Reply, Served, Server};

use super::QUEUES;
use super::input::{Fd, Input, Step};
use super::oracle::Oracle;

/// Sizes of the files that back guest memory.
const FILES: [u64; 4] = [0x5000, 0x2000, 100, 0];
/// Entries of a ring that `SetUp` makes. Ring `n` is at `n * RING_STEP`.
const RING: u16 = 16;
const RING_STEP: u64 = 0x800;
/// Number of turns after which the server has sent everything that it has to send.
const MANY_TURNS: u32 = 64;

/// The frontend and its environment.
pub(super) struct Peer {
    // Dropped in this order: the server before its loop.
    server: Rc<Server<Disk>>,
    context: AioContext,
    connection: Connection,
    oracle: Oracle,
    gone: bool,
    files: Vec<File>,
    kicks: Vec<EventNotifier>,
    inflight: RefCell<Option<OwnedFd>>,
    inflight_description: Option<Inflight>,
}

impl Peer {
    pub(super) fn new(input: &Input) -> Self {
        let mut config = DeviceConfig::new(64);
        config.num_queues = QUEUES;
        config.read_only = input.read_only;
        let disk = Disk::new(
            BlockDevice::new(config).expect("such a disk can be made"),
            Backend::memory(64).expect("32 KiB"),
        );
        let reset = if input.autoreset { Reset::Autoreset } else { Reset::Classic };
        // What a frontend is held up for depends on the time.
        let disk = Served { reset, throttles: false, ..Served::new(disk) };
        // The ring is dear to make and knows nothing of vhost-user: not one input in three.
        let kind = match input.monitor {
            0..8 => MonitorKind::Poll,
            255 => MonitorKind::IoUring,
            _ => MonitorKind::Epoll,
        };
        let build = |kind| AioContext::builder().monitor(kind).build();
        let context = build(kind).or_else(|_| build(MonitorKind::Epoll)).expect("epoll works everywhere");
        let server = Server::new(disk, Loops::own());
        let files = FILES.map(|size| {
            let file = memfd();
            file.set_len(size).expect("resizing a memfd must work");
            file
        });
        let kick = || EventNotifier::new(Reset::Classic).expect("an eventfd");
        let connection = connect(&server, &context);
        Self {
            server,
            context,
            connection,
            oracle: Oracle::new(),
            gone: false,
            files: files.into(),
            kicks: vec![kick(), kick()],
            inflight: RefCell::new(None),
            inflight_description: None,
        }
    }

    pub(super) fn step(&mut self, step: Step) {
        match step {
            Step::Message { ask, need_reply, cut, damage, more, fds } => {
                let frame = self.request(ask).encode(need_reply);
                let mut bytes = frame.bytes().to_vec();
                let mut with = copies(frame.fds());
                with.extend(fds.iter().map(|fd| self.fd(fd)));
                if let Some((at, value)) = damage {
                    let at = usize::from(at) % bytes.len();
                    bytes[at] = value;
                }
                bytes.resize(bytes.len().saturating_add_signed(more.into()), 0xff);
                let cut = cut.map_or(bytes.len(), |cut| usize::from(cut).min(bytes.len()));
                let rest = bytes.split_off(cut);
                self.send(bytes, with);
                if !rest.is_empty() {
                    self.turn(1);
                    self.send(rest, Vec::new());
                }
            }
            Step::Raw(bytes, fds) => {
                let fds = fds.iter().map(|fd| self.fd(fd)).collect();
                self.send(bytes, fds);
            }
            Step::SetUp { vring, protocol, base, inflight } => {
                self.set_up(vring % 2, protocol, base, inflight)
            }
            Step::Turn(turns) => self.turn(u32::from(turns % 8) + 1),
            Step::Post { vring, kind, sector, len, ring } => self.post(vring % 2, kind, sector, len, ring),
            Step::Guest { file, at, bytes } => {
                let file = &self.files[usize::from(file) % FILES.len()];
                // Limited, because writing past the end makes the file longer.
                let _ = file.write_all_at(&bytes, u64::from(at) % 0x5000);
            }
            Step::Truncate { file, size } => {
                let file = &self.files[usize::from(file) % FILES.len()];
                file.set_len(u64::from(size) % 0x6000).expect("the memfd is not sealed");
            }
            Step::Resize(sectors) => {
                // The disk itself keeps its size: accesses past its end are I/O errors.
                if self.server.device().device.resize(sectors.into()).is_ok() {
                    self.server.config_changed();
                }
            }
            Step::Listen => {
                self.turn(2);
                self.listen();
            }
            Step::Reconnect => {
                self.hang_up();
                self.connection = connect(&self.server, &self.context);
                (self.oracle, self.gone) = (Oracle::new(), false);
            }
        }
    }

    /// Disconnects the last frontend and shuts the server down.
    pub(super) fn leave(&mut self) {
        self.hang_up();
        self.server.shut_down(&self.context);
    }

    /// Lets the server handle everything that was sent, checks for missing replies, and
    /// disconnects.
    fn hang_up(&mut self) {
        for _ in 0..MANY_TURNS {
            if self.gone || !self.settle() {
                break;
            }
        }
        if !self.gone && !self.connection.wants_write() {
            self.oracle.nobody_waits();
        }
        // Dropping the old connection closes it, so the server finds the end of the stream.
        let (dead, _) = UnixStream::pair().expect("a socket pair");
        self.connection = Connection::new(dead);
        for _ in 0..MANY_TURNS {
            if !self.server.is_connected() {
                return;
            }
            self.turn(1);
        }
        panic!("the server did not notice that its frontend disconnected");
    }

    /// Returns true if there was any progress.
    fn settle(&mut self) -> bool {
        let flushed = self.connection.wants_write() && self.connection.flush().is_ok();
        let turned = self.context.poll(false).expect("polling the loop must work");
        self.listen() || turned || flushed
    }

    fn turn(&mut self, turns: u32) {
        for _ in 0..turns {
            self.context.poll(false).expect("polling the loop must work");
        }
    }

    fn send(&mut self, bytes: Vec<u8>, fds: Vec<OwnedFd>) {
        if self.gone || bytes.is_empty() {
            return;
        }
        let (copy, had_fds) = (bytes.clone(), !fds.is_empty());
        match self.connection.send(Frame::raw(bytes, fds)) {
            Ok(()) => self.oracle.sent(&copy, had_fds),
            Err(_) => self.gone = true,
        }
    }

    /// Receives and checks the replies. Returns true if there were any.
    fn listen(&mut self) -> bool {
        let mut any = false;
        while !self.gone {
            match self.connection.receive() {
                Ok(Some(incoming)) => {
                    any = true;
                    let header = incoming.header;
                    let reply = Reply::parse(header.request, &header, incoming.body, incoming.fds)
                        .expect("the server's replies must be valid");
                    self.oracle.answered(header.request, &reply);
                    if let Reply::Inflight(description, fd) = reply {
                        self.inflight_description = fd.is_some().then_some(description);
                        self.inflight.replace(fd);
                    }
                }
                Ok(None) => break,
                Err(_) => self.gone = true,
            }
        }
        any
    }

    fn fd(&self, fd: &Fd) -> OwnedFd {
        let copy =
            |fd: &dyn AsFd| fd.as_fd().try_clone_to_owned().expect("duplicating a descriptor must work");
        match fd {
            Fd::Memory(which) => copy(&self.files[usize::from(*which) % FILES.len()]),
            Fd::Kick(which) => copy(&self.kicks[usize::from(*which) % self.kicks.len()]),
            Fd::Event => copy(&EventNotifier::new(Reset::Classic).expect("an eventfd")),
            Fd::DevNull => File::open("/dev/null").expect("/dev/null").into(),
            Fd::Socket => UnixStream::pair().expect("a socket pair").0.into(),
            Fd::Pipe => std::io::pipe().expect("a pipe").0.into(),
            Fd::Inflight => match &*self.inflight.borrow() {
                Some(fd) => copy(fd),
                None => copy(&self.files[0]),
            },
        }
    }
}

fn connect(server: &Rc<Server<Disk>>, context: &AioContext) -> Connection {
    let (ours, theirs) = UnixStream::pair().expect("a socket pair");
    server.serve(context, theirs).expect("the previous frontend must be disconnected");
    Connection::new(ours)
}

fn copies(fds: &[OwnedFd]) -> Vec<OwnedFd> {
    fds.iter().map(|fd| fd.try_clone().expect("duplicating a descriptor must work")).collect()
}

/// Creates a file that can be truncated, unlike those of the library.
#[expect(unsafe_code, reason = "std has no memfd_create(2)")]
fn memfd() -> File {
    // SAFETY: the name is a NUL-terminated string that the call does not keep.
    let fd = unsafe { libc::memfd_create(c"fuzz".as_ptr(), libc::MFD_CLOEXEC) };
    assert!(fd >= 0, "memfd_create: {}", std::io::Error::last_os_error());
    // SAFETY: the kernel has just returned this descriptor; nothing else owns it.
    unsafe { File::from_raw_fd(fd) }
}

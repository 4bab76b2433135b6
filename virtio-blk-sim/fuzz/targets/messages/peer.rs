//! The frontend, which does what the input says, and everything around it.

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

/// Bytes of the files that guest memory is made of.
const FILES: [u64; 4] = [0x5000, 0x2000, 100, 0];
/// Entries of a ring that `SetUp` makes; ring `n` is at `n * RING_STEP`.
const RING: u16 = 16;
const RING_STEP: u64 = 0x800;
/// Turns after which a server that has something to say has said it.
const MANY_TURNS: u32 = 64;

/// The frontend, and everything around it.
pub(super) struct Peer {
    // Dropped in this order: the server before the loop it is on.
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
        let disk = Served { reset, ..Served::new(disk) };
        // The ring is dear to make and knows nothing of vhost-user: not one input in three.
        let kind = match input.monitor {
            0..8 => MonitorKind::Poll,
            255 => MonitorKind::IoUring,
            _ => MonitorKind::Epoll,
        };
        let build = |kind| AioContext::builder().monitor(kind).build();
        let context = build(kind).or_else(|_| build(MonitorKind::Epoll)).expect("epoll is everywhere");
        let server = Server::new(disk, Loops::own());
        let files = FILES.map(|size| {
            let file = memfd();
            file.set_len(size).expect("a memfd of a few pages");
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
                // Behind the end it would make the file longer than anybody wants to map.
                let _ = file.write_all_at(&bytes, u64::from(at) % 0x5000);
            }
            Step::Truncate { file, size } => {
                let file = &self.files[usize::from(file) % FILES.len()];
                file.set_len(u64::from(size) % 0x6000).expect("nobody seals it");
            }
            Step::Resize(sectors) => {
                // The disk itself stays: what lies behind its end is an I/O error.
                if self.server.device().device.resize(sectors.into()).is_ok() {
                    let _ = self.server.config_changed();
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

    /// The last frontend hangs up, and the server is told to stop.
    pub(super) fn leave(&mut self) {
        self.hang_up();
        self.server.shut_down(&self.context);
    }

    /// Lets the server finish with all that was sent, and checks that nobody waits in vain.
    fn hang_up(&mut self) {
        for _ in 0..MANY_TURNS {
            if self.gone || !self.settle() {
                break;
            }
        }
        if !self.gone && !self.connection.wants_write() {
            self.oracle.nobody_waits();
        }
        // The server finds the end of the stream.
        let (dead, _) = UnixStream::pair().expect("a socket pair");
        self.connection = Connection::new(dead);
        for _ in 0..MANY_TURNS {
            if !self.server.is_connected() {
                return;
            }
            self.turn(1);
        }
        panic!("the server holds on to a frontend that has gone");
    }

    /// True if anything went on.
    fn settle(&mut self) -> bool {
        let flushed = self.connection.wants_write() && self.connection.flush().is_ok();
        let turned = self.context.poll(false).expect("the loop turns");
        self.listen() || turned || flushed
    }

    fn turn(&mut self, turns: u32) {
        for _ in 0..turns {
            self.context.poll(false).expect("the loop turns");
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

    /// Takes the answers that have come. True if there was any.
    fn listen(&mut self) -> bool {
        let mut any = false;
        while !self.gone {
            match self.connection.receive() {
                Ok(Some(incoming)) => {
                    any = true;
                    let header = incoming.header;
                    let reply = Reply::parse(header.request, &header, incoming.body, incoming.fds)
                        .expect("the server's answers make sense");
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
        let copy = |fd: &dyn AsFd| fd.as_fd().try_clone_to_owned().expect("descriptors are left");
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
    server.serve(context, theirs).expect("the last frontend has gone");
    Connection::new(ours)
}

fn copies(fds: &[OwnedFd]) -> Vec<OwnedFd> {
    fds.iter().map(|fd| fd.try_clone().expect("descriptors are left")).collect()
}

/// A file that can be cut off, unlike the library's own.
#[expect(unsafe_code, reason = "memfd_create(2) has no safe form in std")]
fn memfd() -> File {
    // SAFETY: the name is a NUL-terminated string that the call does not keep.
    let fd = unsafe { libc::memfd_create(c"fuzz".as_ptr(), libc::MFD_CLOEXEC) };
    assert!(fd >= 0, "memfd_create: {}", std::io::Error::last_os_error());
    // SAFETY: the kernel has just given us this descriptor; nobody else owns it.
    unsafe { File::from_raw_fd(fd) }
}

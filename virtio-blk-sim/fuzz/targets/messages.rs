//! The vhost-user server under a frontend that sends any bytes in any pieces with any descriptors, while its guest does what
//! it likes, takes memory away, hangs up and comes back. All of it is real: the socket, the codec, the session, the event
//! loop, the queues; one thread.
//!
//! Checked: nothing panics; a request that waits for an answer gets one, of its own number, in order, or the frontend is hung
//! up on; nobody is answered who has not asked; what makes no sense is refused in words; when all is over, as many file
//! descriptors are open as before.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fs::File;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::rc::Rc;

use aio::{AioContext, EventNotifier, MonitorKind, Reset};
use arbitrary::{Arbitrary, Unstructured};
use virtio_blk_sim::backend::Backend;
use virtio_blk_sim::device::{BlockDevice, DeviceConfig};
use virtio_blk_sim::transport::vhost_user::{
    Code, ConfigAccess, ConfigData, Connection, Disk, F_PROTOCOL_FEATURES, Frame, HEADER_SIZE, Header,
    Inflight, Loops, MAX_BODY_SIZE, MemoryRegion, ProtocolFeatures, Reply, Request, Server, VringAddr,
    VringFd, VringState,
};
use virtio_blk_sim::virtqueue::Descriptor;

const QUEUES: u16 = 2;
/// Where the frontend sees the guest's memory, by region.
const USER: u64 = 0x7f00_0000_0000;
const REGION_STEP: u64 = 0x10_0000;
/// Entries of a ring that `SetUp` makes; ring `n` is at `n * RING_STEP`.
const RING: u16 = 16;
const RING_STEP: u64 = 0x800;
/// Bytes of the files that guest memory is made of.
const FILES: [u64; 4] = [0x5000, 0x2000, 100, 0];
/// Turns after which a server that has something to say has said it.
const MANY_TURNS: u32 = 64;

#[derive(Debug, Arbitrary)]
struct Input {
    monitor: u8,
    autoreset: bool,
    read_only: bool,
    steps: Vec<Step>,
}

#[derive(Debug, Arbitrary)]
enum Step {
    /// A message, perhaps damaged: in two pieces, with a header of another kind, with more or fewer bytes.
    Message {
        ask: Ask,
        need_reply: bool,
        cut: Option<u8>,
        damage: Option<(u8, u8)>,
        more: i8,
        fds: Vec<Fd>,
    },
    Raw(Vec<u8>, Vec<Fd>),
    /// All that a ring needs to run.
    SetUp {
        vring: u8,
        protocol: bool,
        base: u8,
        inflight: bool,
    },
    Turn(u8),
    /// The guest makes a request available and rings.
    Post {
        vring: u8,
        kind: u8,
        sector: u8,
        len: u8,
        ring: bool,
    },
    Guest {
        file: u8,
        at: u16,
        bytes: Vec<u8>,
    },
    Truncate {
        file: u8,
        size: u16,
    },
    Resize(u16),
    /// Reads the answers, and looks whether they are what was asked for.
    Listen,
    Reconnect,
}

#[derive(Debug, Arbitrary)]
enum Fd {
    Memory(u8),
    Kick(u8),
    Event,
    DevNull,
    Socket,
    Pipe,
    Inflight,
}

#[derive(Debug, Arbitrary)]
enum Ask {
    /// A request without a body: any number.
    Plain(u8),
    Features(u64),
    OfferedFeatures(u64, bool),
    Protocol(u32),
    Table(Vec<(Region, Fd)>),
    AddRegion(Region, Fd),
    RemRegion(Region),
    Num(u8, u16),
    Base(u8, u16),
    Addr(u8, [u16; 3]),
    GetBase(u8),
    Kick(u8, Option<Fd>),
    Call(u8, Option<Fd>),
    Err(u8, Option<Fd>),
    Enable(u8, bool),
    Channel(Fd),
    GetConfig(u16, u16),
    SetConfig(u8, Vec<u8>),
    GetInflight(u8, u16),
    SetInflight(Option<(u32, u16, u8, u16)>, Fd),
    Status(u8),
}

#[derive(Debug, Arbitrary)]
struct Region {
    guest: Place,
    user: Place,
    size: Size,
    offset: Size,
}

#[derive(Debug, Arbitrary)]
enum Place {
    Slot(u8, u16),
    Any(u64),
}

impl Place {
    fn get(&self, base: u64) -> u64 {
        match *self {
            Self::Slot(slot, more) => base + u64::from(slot % 8) * REGION_STEP + u64::from(more),
            Self::Any(at) => at,
        }
    }
}

#[derive(Debug, Arbitrary)]
enum Size {
    Pages(u8),
    Bytes(u16),
    Any(u64),
}

impl Size {
    fn get(&self) -> u64 {
        match *self {
            Self::Pages(pages) => 4096 * u64::from(pages % 8),
            Self::Bytes(bytes) => bytes.into(),
            Self::Any(bytes) => bytes,
        }
    }
}

impl Region {
    fn get(&self) -> MemoryRegion {
        MemoryRegion {
            guest_addr: self.guest.get(0),
            size: self.size.get(),
            user_addr: self.user.get(USER),
            mmap_offset: self.offset.get(),
        }
    }
}

/// Carries out what `data` says.
pub(crate) fn run(data: &[u8]) {
    // Too short to say anything: as good as nothing.
    let Ok(input) = Input::arbitrary_take_rest(Unstructured::new(data)) else { return };
    let before = open_descriptors();
    {
        let mut peer = Peer::new(&input);
        for step in input.steps {
            peer.step(step);
        }
        peer.hang_up();
        peer.server.shut_down(&peer.context);
    }
    // What another thread of a test process has open for a moment is none of ours.
    let leaked = |_| open_descriptors().into_iter().filter(|fd| !before.contains(fd)).collect::<Vec<_>>();
    let leaked = (0..100).map(leaked).find(Vec::is_empty).unwrap_or_else(|| leaked(100));
    assert!(leaked.is_empty(), "file descriptors leak: {leaked:?} are open, {before:?} were");
}

/// What /proc/self/fd shows, the directory itself included.
fn open_descriptors() -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir("/proc/self/fd")
        .expect("/proc is mounted")
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}

/// A message that was sent whole.
#[derive(Debug)]
struct Asked {
    header: Header,
    /// None that makes the server's reaction to a known request doubtful.
    body: Vec<u8>,
    had_fds: bool,
}

/// The frontend, and everything around it.
struct Peer {
    // Dropped in this order: the server before the loop it is on.
    server: Rc<Server>,
    context: AioContext,
    connection: Connection,
    /// Sent and not yet a whole message; `None` behind a header that ends the stream.
    partial: Option<Vec<u8>>,
    partial_fds: bool,
    asked: VecDeque<Asked>,
    /// REPLY_ACK as the server sees it; `None` where it is not known.
    reply_ack: Option<bool>,
    gone: bool,
    files: Vec<File>,
    kicks: Vec<EventNotifier>,
    inflight: RefCell<Option<OwnedFd>>,
    inflight_description: Option<Inflight>,
}

impl Peer {
    fn new(input: &Input) -> Self {
        let mut config = DeviceConfig::new(64);
        config.num_queues = QUEUES;
        config.read_only = input.read_only;
        let disk = Disk {
            device: BlockDevice::new(config).expect("such a disk can be made").into(),
            backend: Backend::memory(64).expect("32 KiB"),
            limit: None,
            reset: if input.autoreset { Reset::Autoreset } else { Reset::Classic },
        };
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
            partial: Some(Vec::new()),
            partial_fds: false,
            asked: VecDeque::new(),
            reply_ack: Some(false),
            gone: false,
            files: files.into(),
            kicks: vec![kick(), kick()],
            inflight: RefCell::new(None),
            inflight_description: None,
        }
    }

    fn step(&mut self, step: Step) {
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
                let _ = self.server.resize(sectors.into());
            }
            Step::Listen => {
                self.turn(2);
                self.listen();
            }
            Step::Reconnect => {
                self.hang_up();
                self.connection = connect(&self.server, &self.context);
                (self.partial, self.partial_fds, self.gone) = (Some(Vec::new()), false, false);
                self.reply_ack = Some(false);
            }
        }
    }

    /// Lets the server finish with all that was sent, and checks that nobody waits in vain.
    fn hang_up(&mut self) {
        for _ in 0..MANY_TURNS {
            if self.gone || !self.settle() {
                break;
            }
        }
        if !self.gone && !self.connection.wants_write() {
            let mut reply_ack = self.reply_ack;
            for asked in &self.asked {
                assert_ne!(waits(asked, reply_ack), Some(true), "nobody answers {asked:?}");
                reply_ack = after(asked, reply_ack, None);
            }
        }
        self.asked.clear();
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
            Ok(()) => self.note(&copy, had_fds),
            Err(_) => self.gone = true,
        }
    }

    /// Keeps account of what the server can be expected to answer.
    fn note(&mut self, bytes: &[u8], had_fds: bool) {
        let Some(partial) = &mut self.partial else { return };
        partial.extend_from_slice(bytes);
        self.partial_fds |= had_fds;
        while let Some((header, rest)) = partial.split_first_chunk::<HEADER_SIZE>() {
            let header = Header::decode(header);
            let size = header.size as usize;
            if !header.is_version_1() || size > MAX_BODY_SIZE {
                self.partial = None;
                return;
            }
            let Some(body) = rest.get(..size) else { return };
            // What makes no sense, with or without descriptors, is refused in words.
            if let Err(error) = Request::parse(&header, body, Vec::new()) {
                assert!(error.to_string().len() > 20, "{error}");
            }
            // Which of several messages in a piece the descriptors belong to is the kernel's business.
            self.asked.push_back(Asked { header, body: body.to_vec(), had_fds: self.partial_fds });
            partial.drain(..HEADER_SIZE + size);
            self.partial_fds = had_fds && !partial.is_empty();
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
                    self.answered(header.request, reply);
                }
                Ok(None) => break,
                Err(_) => self.gone = true,
            }
        }
        any
    }

    fn answered(&mut self, request: u32, reply: Reply) {
        while let Some(asked) = self.asked.pop_front() {
            let before = self.reply_ack;
            let waits_before = waits(&asked, before);
            // The answer to this message, or to a later one of the same kind that asked for it.
            let is_own = asked.header.request == request && asked.header.needs_reply();
            let accepted = match &reply {
                Reply::Ack(ack) if is_own && (before != Some(false) || ack.ok) => Some(ack.ok),
                _ => None,
            };
            self.reply_ack = after(&asked, before, accepted);
            let may_be_answered = waits_before != Some(false) || waits(&asked, self.reply_ack) != Some(false);
            if asked.header.request == request && may_be_answered {
                if let Reply::Inflight(description, fd) = reply {
                    self.inflight_description = fd.is_some().then_some(description);
                    self.inflight.replace(fd);
                }
                return;
            }
            assert_ne!(
                waits_before,
                Some(true),
                "the answer to {asked:?} is left out: {request} is answered"
            );
        }
        panic!("request {request} is answered, which nobody has asked: {reply:?}");
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

    fn request(&self, ask: Ask) -> Request {
        let vring = |index: u8| u32::from(index % 4);
        let user = |offset: u16| USER + u64::from(offset);
        let vring_fd =
            |index: u8, fd: Option<Fd>| VringFd { index: index % 4, fd: fd.map(|fd| self.fd(&fd)) };
        match ask {
            Ask::Plain(which) => match which % 9 {
                0 => Request::GetFeatures,
                1 => Request::SetOwner,
                2 => Request::ResetOwner,
                3 => Request::GetProtocolFeatures,
                4 => Request::GetQueueNum,
                5 => Request::ResetDevice,
                6 => Request::GetMaxMemSlots,
                7 => Request::GetStatus,
                _ => Request::GetVringBase { index: 0 },
            },
            Ask::Features(bits) => Request::SetFeatures(bits),
            Ask::OfferedFeatures(without, protocol) => Request::SetFeatures(offered(without, protocol)),
            Ask::Protocol(bits) => Request::SetProtocolFeatures(ProtocolFeatures::from_bits(bits.into())),
            Ask::Table(regions) => {
                Request::SetMemTable(regions.iter().map(|(region, fd)| (region.get(), self.fd(fd))).collect())
            }
            Ask::AddRegion(region, fd) => Request::AddMemReg(region.get(), self.fd(&fd)),
            Ask::RemRegion(region) => Request::RemMemReg(region.get()),
            Ask::Num(index, num) => Request::SetVringNum(VringState { index: vring(index), num: num.into() }),
            Ask::Base(index, num) => {
                Request::SetVringBase(VringState { index: vring(index), num: num.into() })
            }
            Ask::Addr(index, [descriptor, available, used]) => Request::SetVringAddr(VringAddr {
                index: vring(index),
                flags: 0,
                descriptor: user(descriptor),
                used: user(used),
                available: user(available),
                log: 0,
            }),
            Ask::GetBase(index) => Request::GetVringBase { index: vring(index) },
            Ask::Kick(index, fd) => Request::SetVringKick(vring_fd(index, fd)),
            Ask::Call(index, fd) => Request::SetVringCall(vring_fd(index, fd)),
            Ask::Err(index, fd) => Request::SetVringErr(vring_fd(index, fd)),
            Ask::Enable(index, enable) => Request::SetVringEnable { index: vring(index), enable },
            Ask::Channel(fd) => Request::SetBackendReqFd(self.fd(&fd)),
            Ask::GetConfig(offset, size) => {
                Request::GetConfig(ConfigAccess { offset: offset.into(), size: size.into(), flags: 0 })
            }
            Ask::SetConfig(offset, data) => {
                Request::SetConfig(ConfigData { offset: offset.into(), flags: 0, data })
            }
            Ask::GetInflight(queues, size) => Request::GetInflightFd(Inflight {
                mmap_size: 0,
                mmap_offset: 0,
                num_queues: queues.into(),
                queue_size: size,
            }),
            Ask::SetInflight(wanted, fd) => {
                let description = match wanted {
                    Some((size, offset, queues, entries)) => Inflight {
                        mmap_size: size.into(),
                        mmap_offset: offset.into(),
                        num_queues: queues.into(),
                        queue_size: entries,
                    },
                    None => self.inflight_description.unwrap_or(Inflight::NONE),
                };
                Request::SetInflightFd(description, self.fd(&fd))
            }
            Ask::Status(status) => Request::SetStatus(status),
        }
    }

    /// A frontend that knows what it does.
    fn set_up(&mut self, vring: u8, protocol: bool, base: u8, inflight: bool) {
        let index = u32::from(vring);
        let at = u64::from(vring) * RING_STEP;
        let region = MemoryRegion { guest_addr: 0, size: FILES[0], user_addr: USER, mmap_offset: 0 };
        let addr = VringAddr {
            index,
            flags: 0,
            descriptor: USER + at,
            available: USER + at + 0x200,
            used: USER + at + 0x300,
            log: 0,
        };
        let mut requests = vec![
            Request::SetFeatures(offered(0, protocol)),
            Request::SetProtocolFeatures(all_protocol()),
            Request::SetMemTable(vec![(region, self.fd(&Fd::Memory(0)))]),
            Request::SetVringNum(VringState { index, num: RING.into() }),
            Request::SetVringBase(VringState { index, num: base.into() }),
            Request::SetVringAddr(addr),
            Request::SetVringCall(VringFd { index: vring, fd: Some(self.fd(&Fd::Event)) }),
        ];
        if let Some(description) = self.inflight_description.filter(|_| inflight) {
            requests.push(Request::SetInflightFd(description, self.fd(&Fd::Inflight)));
        }
        requests.push(Request::SetVringKick(VringFd { index: vring, fd: Some(self.fd(&Fd::Kick(vring))) }));
        requests.push(Request::SetVringEnable { index, enable: true });
        for request in requests {
            let frame = request.encode(false);
            self.send(frame.bytes().to_vec(), copies(frame.fds()));
        }
        self.turn(2);
    }

    /// The guest's driver, as far as the memory is there.
    fn post(&mut self, vring: u8, kind: u8, sector: u8, len: u8, ring: bool) {
        let (file, at) = (&self.files[0], u64::from(vring) * RING_STEP);
        let write = |offset: u64, bytes: &[u8]| {
            let _ = file.write_all_at(bytes, offset);
        };
        let mut idx = [0; 2];
        // A file that was cut off reads as if it began anew.
        let _ = file.read_at(&mut idx, at + 0x202);
        let idx = u16::from_le_bytes(idx);
        let slot = u64::from(idx % 4);
        let head = (slot * 3) as u16;
        let (header, data, status) = (0x3000 + 16 * slot, 0x4000 + 0x200 * slot, 0x3f00 + slot);
        write(
            header,
            &[&u32::from(kind % 16).to_le_bytes()[..], &[0; 4], &u64::from(sector).to_le_bytes()].concat(),
        );
        let data_flags = if kind.is_multiple_of(2) { Descriptor::WRITE } else { 0 };
        let chain = [
            Descriptor { addr: header, len: 16, flags: Descriptor::NEXT, next: head + 1 },
            Descriptor {
                addr: data,
                len: if len == 0 { 512 } else { len.into() },
                flags: Descriptor::NEXT | data_flags,
                next: head + 2,
            },
            Descriptor { addr: status, len: 1, flags: Descriptor::WRITE, next: 0 },
        ];
        write(at + 16 * u64::from(head), &chain.map(Descriptor::to_bytes).concat());
        write(at + 0x204 + 2 * u64::from(idx % RING), &head.to_le_bytes());
        write(at + 0x202, &idx.wrapping_add(1).to_le_bytes());
        if ring {
            self.kicks[usize::from(vring)].notify().expect("an eventfd of our own");
        }
    }
}

/// The features that the server offers, less some.
fn offered(without: u64, protocol: bool) -> u64 {
    const VERSION_1: u64 = 1 << 32;
    let device = BlockDevice::new(DeviceConfig { num_queues: QUEUES, ..DeviceConfig::new(64) });
    let all = device.expect("such a disk can be made").offered().bits();
    (all & !without) | VERSION_1 | if protocol { F_PROTOCOL_FEATURES } else { 0 }
}

fn all_protocol() -> ProtocolFeatures {
    ProtocolFeatures::MQ
        | ProtocolFeatures::REPLY_ACK
        | ProtocolFeatures::BACKEND_REQ
        | ProtocolFeatures::CONFIG
        | ProtocolFeatures::INFLIGHT_SHMFD
        | ProtocolFeatures::RESET_DEVICE
        | ProtocolFeatures::CONFIGURE_MEM_SLOTS
}

/// Whether the sender waits for an answer to this; `None` where it depends on what is not known.
fn waits(asked: &Asked, reply_ack: Option<bool>) -> Option<bool> {
    let header = &asked.header;
    let has_answer = matches!(
        Code::from_number(header.request),
        Some(
            Code::GetFeatures
                | Code::GetVringBase
                | Code::GetProtocolFeatures
                | Code::GetQueueNum
                | Code::GetConfig
                | Code::GetInflightFd
                | Code::GetMaxMemSlots
        )
    );
    if has_answer {
        return Some(true);
    }
    if header.needs_reply() { reply_ack } else { Some(false) }
}

/// REPLY_ACK when this message has been carried out, or refused.
fn after(asked: &Asked, reply_ack: Option<bool>, accepted: Option<bool>) -> Option<bool> {
    let header = &asked.header;
    if header.request != Code::SetProtocolFeatures.number() {
        return reply_ack;
    }
    match Request::parse(header, &asked.body, Vec::new()) {
        Ok(Request::SetProtocolFeatures(features))
            if features.without(all_protocol()) == ProtocolFeatures::NONE =>
        {
            let new = features.contains(ProtocolFeatures::REPLY_ACK);
            match accepted {
                Some(false) => reply_ack,
                Some(true) => Some(new),
                // Descriptors that do not belong there would have had it refused.
                None if asked.had_fds && reply_ack != Some(new) => None,
                None => Some(new),
            }
        }
        _ => reply_ack,
    }
}

fn connect(server: &Rc<Server>, context: &AioContext) -> Connection {
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

//! Tests the console of `examples/vhost-user-console.rs` on its queues, with a client of its
//! chardev that does anything. Besides what `device` checks:
//!
//! - what the guest receives is what the clients have sent, in order, and all of it for the last
//!   client;
//! - what a client receives is what the guest has sent, in order and without a gap;
//! - a second client is hung up on;
//! - the buffers are bounded.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use arbitrary::{Arbitrary, Unstructured};
use virtio_blk_sim::chardev::{Chardev, Clients, LIMIT, MAX_SEND};

use crate::console_device::{Console, Size};
use crate::descriptors::Descriptors;
use crate::device::{self, Options, Post, Rig};
use crate::guest::Guest;

const RX: usize = 0;
const TX: usize = 1;
/// Clients of one input; a byte of a client has its number in the upper three bits.
const MAX_CLIENTS: usize = 8;
/// The lower five bits count its bytes.
const PERIOD: usize = 31;
/// Bytes of the guest count up to this.
const OUTPUT_PERIOD: usize = 251;
/// What the chardev reads at a time may exceed its limit.
const PART: usize = 4096;

#[derive(Debug, Arbitrary)]
struct Input {
    options: Options,
    steps: Vec<Step>,
}

#[derive(Debug, Arbitrary)]
enum Step {
    Device(device::Step),
    /// Replaces the client. `hasty`: before the chardev has seen the old one leave.
    Connect {
        hasty: bool,
    },
    /// A second client.
    Intrude,
    Send(u16),
    Read(u16),
    ShutDown {
        reading: bool,
        writing: bool,
    },
    Leave,
    Resize(u16, u16),
}

/// The stream from the guest to clients.
#[derive(Default)]
struct Output {
    /// Bytes in chains that the guest has posted.
    posted: usize,
    /// Bytes that the present client has received, and the next one that it must receive.
    received: usize,
    expected: Option<usize>,
}

struct Peer {
    rig: Rig<Console>,
    chardev: Arc<Chardev>,
    clients: Option<Clients>,
    address: SocketAddr,
    client: Option<UnixStream>,
    /// Bytes that each client has sent, and that the guest has received.
    input: Vec<(usize, usize)>,
    /// The present client is certainly served.
    served: bool,
    output: Output,
    /// Number of the client whose bytes were received last.
    last_heard: usize,
}

/// Runs the input in `data`.
pub(crate) fn run(data: &[u8]) {
    // Ignore data that is too short for an input.
    let Ok(input) = Input::arbitrary_take_rest(Unstructured::new(data)) else { return };
    // Its memory stays mapped for the next input.
    drop(Guest::new(0));
    let before = Descriptors::open_now();
    let mut peer = Peer::new(&input.options);
    for step in input.steps {
        peer.step(step);
        peer.check();
    }
    peer.finish();
    drop(peer);
    before.assert_no_others();
}

impl Peer {
    fn new(options: &Options) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("fuzz-console-{}-{count}", std::process::id());
        let address = SocketAddr::from_abstract_name(name).expect("a name");
        let listener = UnixListener::bind_addr(&address).expect("nobody else has the name");
        let rig = Rig::new(Console::default(), options);
        let chardev = Arc::clone(&rig.device.chardev);
        let clients = Arc::clone(&chardev).listen(&rig.context, listener).expect("a socket can be watched");
        Self {
            rig,
            chardev,
            clients: Some(clients),
            address,
            client: None,
            input: Vec::new(),
            served: false,
            output: Output::default(),
            last_heard: 0,
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Device(step) => {
                if matches!(step, device::Step::Reset(_)) {
                    // What is posted and not answered is lost, and the rest is not.
                    self.rig.settle();
                    self.take();
                    self.forget_unanswered();
                }
                let posted = &mut self.output.posted;
                self.rig.step(step, |queue, bytes| {
                    if queue == TX {
                        count_up(posted, bytes);
                    }
                });
            }
            Step::Connect { hasty } => self.connect(hasty),
            Step::Intrude => {
                self.rig.settle();
                if self.chardev.is_connected() {
                    let mut second = UnixStream::connect_addr(&self.address).expect("it listens");
                    self.rig.settle();
                    assert_eq!(second.read(&mut [0; 1]).ok(), Some(0), "a second client was served");
                }
            }
            Step::Send(count) => self.send(count.into()),
            Step::Read(count) => drop(self.read(count.into())),
            Step::ShutDown { reading, writing } => {
                let how = match (reading, writing) {
                    (true, false) => Shutdown::Read,
                    (false, true) => Shutdown::Write,
                    _ => Shutdown::Both,
                };
                if let Some(client) = &self.client {
                    // Fails if the other side has hung up.
                    let _ = client.shutdown(how);
                }
            }
            Step::Leave => self.client = None,
            Step::Resize(columns, rows) => {
                self.rig.device.resize(Size { columns, rows });
                let mut space = [0; 4];
                virtio_blk_sim::queue::Device::read_config(&*self.rig.device, 0, &mut space);
                assert_eq!(space[..2], columns.to_le_bytes());
                assert_eq!(space[2..], rows.to_le_bytes());
            }
        }
        self.take();
    }

    fn connect(&mut self, hasty: bool) {
        if self.input.len() == MAX_CLIENTS {
            return;
        }
        self.client = None;
        if !hasty {
            self.rig.settle();
        }
        let client = UnixStream::connect_addr(&self.address).expect("it listens");
        client.set_nonblocking(true).expect("a socket");
        self.client = Some(client);
        self.input.push((0, 0));
        self.output.expected = None;
        self.served = false;
        if !hasty {
            let was_left = !self.chardev.is_connected();
            self.rig.settle();
            self.served = was_left && self.chardev.is_connected();
            assert!(self.served || !was_left, "a client was not served");
        }
    }

    /// Sends from the client, as much as the socket takes.
    fn send(&mut self, count: usize) {
        let (Some(client), Some(number)) = (&mut self.client, self.input.len().checked_sub(1)) else {
            return;
        };
        let sent = &mut self.input[number].0;
        let byte = |at: usize| ((number << 5) | (at % PERIOD)) as u8;
        let bytes: Vec<u8> = (*sent..*sent + count).map(byte).collect();
        // Fails if the other side has hung up, or the socket is full.
        if let Ok(taken) = client.write(&bytes) {
            *sent += taken;
        }
    }

    /// Reads in the client. Returns `None` at the end of the stream, or without a client.
    fn read(&mut self, count: usize) -> Option<usize> {
        let mut bytes = vec![0; count];
        let got = match self.client.as_mut()?.read(&mut bytes) {
            Ok(0) if count > 0 => return None,
            Ok(got) => got,
            Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
            Err(_) => return None,
        };
        for &byte in bytes[..got].iter().filter(|_| !self.rig.is_hostile()) {
            let at = self.output.expected.unwrap_or(byte.into());
            assert_eq!(usize::from(byte), at, "the client has missed something");
            self.output.expected = Some((at + 1) % OUTPUT_PERIOD);
        }
        self.output.received += got;
        assert!(self.rig.is_hostile() || self.output.received <= self.output.posted);
        Some(got)
    }

    /// Takes the answers of both queues.
    fn take(&mut self) {
        let hostile = self.rig.is_hostile();
        for answer in self.rig.take(TX) {
            assert!(hostile || answer.received.is_empty(), "tx wrote something");
        }
        for answer in self.rig.take(RX) {
            if hostile {
                continue;
            }
            for byte in answer.received {
                let (number, at) = (usize::from(byte >> 5), usize::from(byte & 31));
                assert!(number >= self.last_heard, "input of a former client came late");
                self.last_heard = number;
                let (sent, received) = &mut self.input[number];
                assert_eq!(at, *received % PERIOD, "input was lost, duplicated or moved");
                *received += 1;
                assert!(*received <= *sent);
            }
        }
    }

    /// Before a queue is reset: chains that tx has not taken will never be sent, so the bytes of
    /// the next chain are a gap for the client.
    fn forget_unanswered(&mut self) {
        if self.rig.unanswered(TX) > 0 {
            self.drain_client();
            self.output.expected = None;
        }
    }

    /// Lets the client read everything. Returns true if the chardev has hung up on it.
    fn drain_client(&mut self) -> bool {
        loop {
            match self.read(PART) {
                None => return true,
                Some(0) => {
                    self.rig.settle();
                    match self.read(PART) {
                        None => return true,
                        Some(0) => return false,
                        Some(_) => {}
                    }
                }
                Some(_) => {}
            }
        }
    }

    fn check(&self) {
        let (input, output) = self.chardev.buffered();
        assert!(input < LIMIT + PART, "{input} bytes of input");
        assert!(output < LIMIT + MAX_SEND, "{output} bytes of output");
    }

    fn finish(&mut self) {
        self.rig.settle_all();
        self.take();
        if !self.rig.is_hostile() {
            self.finish_output();
            self.finish_input();
        }
        self.rig.stop();
        self.clients = None;
        while self.rig.context.poll(false).expect("a turn of the loop") {}
        assert!(!self.chardev.is_connected());
    }

    /// The guest can send all it wants, and a client that is served receives the last of it.
    fn finish_output(&mut self) {
        let gone = self.drain_client();
        self.take();
        if !gone && self.served && self.chardev.is_connected() {
            let (before, posted) = (self.output.received, &mut self.output.posted);
            let post = Post::of(vec![99], Vec::new());
            assert!(self.rig.post(TX, &post, |bytes| count_up(posted, bytes)), "tx has room");
            self.rig.settle();
            self.take();
            self.drain_client();
            let arrived = self.output.received - before;
            assert!(arrived == 100 || !self.chardev.is_connected(), "{arrived} of 100 bytes arrived");
        }
        // A client that does not read, because it shut that down, is not waited for.
        assert!(self.rig.unanswered(TX) == 0 || !self.chardev.has_room(), "a chain was left on tx");
    }

    /// The guest takes all input, down to the last byte of a client that was served.
    fn finish_input(&mut self) {
        loop {
            let heard = |peer: &Self| peer.input.iter().map(|&(_, received)| received).sum::<usize>();
            let before = heard(self);
            while self.rig.post(RX, &Post::of(Vec::new(), vec![255, 254]), |_| ()) {}
            self.rig.settle_all();
            self.take();
            if heard(self) == before {
                break;
            }
        }
        assert!(!self.chardev.has_input(), "input is left, and rx has room");
        if let Some(&(sent, received)) = self.input.last().filter(|_| self.served) {
            assert_eq!(received, sent, "input of the last client was lost");
        }
    }
}

/// Fills `bytes` with the next numbers.
fn count_up(next: &mut usize, bytes: &mut [u8]) {
    for byte in bytes {
        *byte = (*next % OUTPUT_PERIOD) as u8;
        *next += 1;
    }
}

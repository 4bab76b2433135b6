//! Tests `DeviceQueue` with a guest that writes anything anywhere and a device that makes calls in
//! any order.
//!
//! Checked after every step:
//!
//! - nothing panics;
//! - every segment that is handed out lies in guest memory;
//! - nothing changes except the used ring and what the device writes through a chain;
//! - a head is in flight at most once, and the number in flight equals the number popped;
//! - a chain that is refused gives the device at most one byte, and the queue continues;
//! - a broken queue stays broken and writes nothing more;
//! - rings are accepted exactly if their place and size are valid.

use arbitrary::{Arbitrary, Unstructured};
use virtio_blk_sim::memory::GuestAddress;
use virtio_blk_sim::virtqueue::{Chain, Descriptor, DeviceQueue, QueueConfig, QueueError, Segment};

use crate::guest::{Guest, HIGH, HIGH_END, LOW_END, MIDDLE, flat};

/// Default place of the rings, and of indirect tables behind them.
const RINGS: u64 = 0x1000;
const TABLES: u64 = 0x2000;

/// Queue sizes; the first ones are more likely to be useful.
const SIZES: [u16; 12] = [8, 4, 1, 2, 16, 32, 64, 0, 3, 256, 32768, u16::MAX];

#[derive(Debug, Arbitrary)]
struct Input {
    size: u8,
    event_idx: bool,
    indirect: bool,
    /// Addresses of the rings chosen by the guest: descriptor table, avail ring, used ring.
    rings: Option<[Addr; 3]>,
    next_avail: u16,
    next_used: u16,
    /// Not used. Keeps the format of the inputs in the corpus.
    _spare: u8,
    steps: Vec<Step>,
}

#[derive(Debug, Arbitrary)]
enum Addr {
    Low(u16),
    High(u16),
    Table(u8),
    Edge(u8, i8),
    Any(u64),
}

impl Addr {
    fn get(&self) -> u64 {
        const EDGES: [u64; 7] = [0, MIDDLE, LOW_END, HIGH, HIGH_END, 1 << 63, u64::MAX];
        match *self {
            Self::Low(at) => u64::from(at) % LOW_END,
            Self::High(at) => HIGH + u64::from(at) % (HIGH_END - HIGH),
            Self::Table(at) => TABLES + 16 * u64::from(at),
            Self::Edge(which, by) => EDGES[usize::from(which) % EDGES.len()].wrapping_add_signed(by.into()),
            Self::Any(at) => at,
        }
    }
}

#[derive(Debug, Arbitrary)]
enum Len {
    Few(u8),
    /// The length of an indirect table with this many entries.
    Entries(u8),
    Many(u16),
    Any(u32),
}

impl Len {
    fn get(&self) -> u32 {
        match *self {
            Self::Few(len) => len.into(),
            Self::Entries(entries) => 16 * u32::from(entries),
            Self::Many(len) => len.into(),
            Self::Any(len) => len,
        }
    }
}

#[derive(Debug, Arbitrary)]
struct Desc {
    addr: Addr,
    len: Len,
    flags: u8,
    next: u8,
}

impl Desc {
    fn get(&self) -> Descriptor {
        const FLAGS: [u16; 7] = [
            0,
            Descriptor::WRITE,
            Descriptor::NEXT,
            Descriptor::NEXT | Descriptor::WRITE,
            Descriptor::INDIRECT,
            Descriptor::INDIRECT | Descriptor::NEXT,
            !7,
        ];
        let flags = FLAGS[usize::from(self.flags) % FLAGS.len()];
        Descriptor { addr: self.addr.get(), len: self.len.get(), flags, next: self.next.into() }
    }
}

#[derive(Debug, Arbitrary)]
enum Step {
    // Steps of the guest.
    Desc(u8, Desc),
    TableDesc(u8, Desc),
    Avail(u8, u16),
    AvailIdx(u16),
    /// Makes a valid linked chain available. An indirect chain gets its own table.
    Post {
        head: u8,
        indirect: bool,
        buffers: Vec<(Addr, Len, bool)>,
    },
    /// Makes a head available, whether or not it is in flight.
    Again(u8),
    Write(Addr, Vec<u8>),
    // Steps of the device.
    Pop,
    Push(u8, u32),
    /// Pushes any head, whether or not it is in flight.
    PushHead(u16),
    Publish,
    DisableKicks,
    EnableKicks,
    Resubmit(u16),
    Break,
    Read(u8, u16, u8),
    Fill(u8, u16, u16),
    Reset,
}

struct Model {
    guest: Guest,
    config: QueueConfig,
    held: Vec<Chain>,
    used: u16,
    broken: bool,
}

/// Runs the input in `data`.
pub(crate) fn run(data: &[u8]) {
    // Ignore data that is too short for an input.
    let Ok(input) = Input::arbitrary_take_rest(Unstructured::new(data)) else { return };
    let size = SIZES[usize::from(input.size) % SIZES.len()];
    let mut config = QueueConfig {
        event_idx: input.event_idx,
        indirect: input.indirect,
        ..QueueConfig::at(GuestAddress(RINGS), size)
    };
    if let Some(parts) = &input.rings {
        let [desc, avail, used] = parts.each_ref().map(|addr| GuestAddress(addr.get()));
        (config.desc_table, config.avail_ring, config.used_ring) = (desc, avail, used);
    }
    let guest = Guest::new(0);
    let open = |guest: &Guest, avail, used| DeviceQueue::resume(guest.mem.clone(), config, avail, used);
    let queue = open(&guest, input.next_avail, input.next_used);
    assert_eq!(queue.is_ok(), may_be_rings(&config), "{config:?}: {:?}", queue.err());
    let Ok(mut queue) = queue else { return };
    let mut model = Model { guest, config, held: Vec::new(), used: input.next_used, broken: false };
    model.guest.write(config.avail_ring.0 + 2, &input.next_avail.to_le_bytes());
    for step in input.steps {
        if matches!(step, Step::Reset) {
            // Like a transport: chains that are held are dropped with the old queue.
            let avail = model.avail_idx();
            queue = open(&model.guest, avail, model.used).expect("it could be opened before");
            model.held.clear();
            model.broken = false;
            continue;
        }
        model.step(&mut queue, step);
        model.check(&queue);
    }
}

/// Returns true if rings may be there (virtio 1.2, section 2.7). Independent of the code under
/// test.
fn may_be_rings(config: &QueueConfig) -> bool {
    let size = u64::from(config.size);
    let part = |addr: GuestAddress, len, align| {
        let split = addr.0 < MIDDLE && addr.0.saturating_add(len) > MIDDLE;
        addr.0.is_multiple_of(align) && flat(addr.0, len).is_some() && !split
    };
    size.is_power_of_two()
        && size <= 32768
        && part(config.desc_table, 16 * size, 16)
        && part(config.avail_ring, 6 + 2 * size, 2)
        && part(config.used_ring, 6 + 8 * size, 4)
}

impl Model {
    fn used_ring(&self) -> (u64, u64) {
        (self.config.used_ring.0, 6 + 8 * u64::from(self.config.size))
    }

    fn avail_idx(&self) -> u16 {
        let bytes = self.guest.known(&[(self.config.avail_ring.0 + 2, 2)]);
        u16::from_le_bytes([bytes[0], bytes[1]])
    }

    /// Makes `head` available, after the entries that are already there.
    fn make_available(&mut self, head: u16) {
        let idx = self.avail_idx();
        let slot = u64::from(idx & (self.config.size - 1));
        self.guest.write(self.config.avail_ring.0 + 4 + 2 * slot, &head.to_le_bytes());
        self.guest.write(self.config.avail_ring.0 + 2, &idx.wrapping_add(1).to_le_bytes());
    }

    fn post(&mut self, head: u8, indirect: bool, buffers: &[(Addr, Len, bool)]) {
        let head = u16::from(head) % self.config.size;
        // Tables of the first 16 heads do not overlap, for chains of up to 8 descriptors.
        let (table, mask) = match indirect {
            true => (TABLES + 0x80 * u64::from(head % 16), u16::MAX),
            false => (self.config.desc_table.0, self.config.size - 1),
        };
        let first = if indirect { 0 } else { head };
        let count = buffers.len().min(16) as u16;
        for (at, (addr, len, writable)) in (0..count).zip(buffers) {
            let next = (first + at + 1) & mask;
            let more = if at + 1 < count { Descriptor::NEXT } else { 0 };
            let flags = more | if *writable { Descriptor::WRITE } else { 0 };
            let descriptor = Descriptor { addr: addr.get(), len: len.get(), flags, next };
            self.guest.write(table + 16 * u64::from((first + at) & mask), &descriptor.to_bytes());
        }
        if indirect {
            let len = 16 * u32::from(count);
            let descriptor = Descriptor { addr: table, len, flags: Descriptor::INDIRECT, next: 0 };
            self.guest.write(self.config.desc_table.0 + 16 * u64::from(head), &descriptor.to_bytes());
        }
        self.make_available(head);
    }

    fn step(&mut self, queue: &mut DeviceQueue, step: Step) {
        let (was_broken, size) = (self.broken, u64::from(self.config.size));
        let held = self.held.len().max(1);
        match step {
            Step::Desc(at, desc) => {
                let at = u64::from(at) % size;
                self.guest.write(self.config.desc_table.0 + 16 * at, &desc.get().to_bytes());
            }
            Step::TableDesc(at, desc) => {
                self.guest.write(TABLES + 16 * u64::from(at), &desc.get().to_bytes())
            }
            Step::Avail(at, head) => {
                let at = u64::from(at) % size;
                self.guest.write(self.config.avail_ring.0 + 4 + 2 * at, &head.to_le_bytes());
            }
            Step::AvailIdx(idx) => self.guest.write(self.config.avail_ring.0 + 2, &idx.to_le_bytes()),
            Step::Post { head, indirect, buffers } => self.post(head, indirect, &buffers),
            Step::Again(head) => self.make_available(u16::from(head) % self.config.size),
            Step::Write(addr, bytes) => self.guest.write(addr.get(), &bytes),
            Step::Pop => {
                let mut chain = queue.new_chain();
                let may_find = queue.has_available();
                match queue.pop(&mut chain) {
                    Ok(true) => {
                        assert!(!was_broken && may_find);
                        self.take(chain);
                    }
                    Ok(false) => assert!(!was_broken && !may_find),
                    Err(error) if error.is_of_one_chain() => {
                        assert!(!was_broken && may_find);
                        self.refuse(chain, error);
                    }
                    Err(error) => self.broke(&chain, error),
                }
            }
            Step::Resubmit(head) => {
                let mut chain = queue.new_chain();
                match queue.resubmit(head, &mut chain) {
                    Ok(()) => {
                        assert!(!was_broken && chain.head() == head);
                        self.take(chain);
                    }
                    Err(error) if error.is_of_one_chain() => {
                        assert!(!was_broken && chain.head() == head);
                        self.refuse(chain, error);
                    }
                    Err(error) => self.broke(&chain, error),
                }
            }
            Step::Push(which, written) => {
                if self.held.is_empty() {
                    return;
                }
                let head = self.held.swap_remove(usize::from(which) % held).head();
                self.push(queue, head, written);
            }
            Step::PushHead(head) => match self.held.iter().position(|chain| chain.head() == head) {
                Some(at) => {
                    self.held.swap_remove(at);
                    self.push(queue, head, 0);
                }
                None => assert_eq!(queue.push(head, 0), Err(QueueError::NotInFlight { head })),
            },
            Step::Publish => assert!(!queue.publish() || !was_broken),
            Step::DisableKicks => queue.disable_kicks(),
            Step::EnableKicks => {
                let work = queue.enable_kicks();
                assert_eq!(work, queue.has_available());
            }
            Step::Break => {
                queue.mark_broken();
                self.broken = true;
            }
            Step::Read(which, offset, len) => self.read(usize::from(which) % held, offset.into(), len.into()),
            Step::Fill(which, offset, len) => self.fill(usize::from(which) % held, offset.into(), len.into()),
            // Handled in `run`, which opens the queue again.
            Step::Reset => {}
        }
        let used_ring = self.used_ring();
        // The step that detects a violation writes nothing either: `pop` never writes.
        self.guest.only_changed(if was_broken { &[] } else { std::slice::from_ref(&used_ring) });
    }

    fn take(&mut self, chain: Chain) {
        let head = chain.head();
        assert!(head < self.config.size && self.held.iter().all(|other| other.head() != head));
        let (readable, writable) = (self.guest.pieces(chain.readable()), self.guest.pieces(chain.writable()));
        let bytes = |pieces: &[(u64, u64)]| pieces.iter().map(|piece| piece.1).sum::<u64>();
        assert_eq!(chain.readable().len_bytes(), bytes(&readable));
        assert_eq!(chain.writable().len_bytes(), bytes(&writable));
        assert!(bytes(&readable) + bytes(&writable) <= 1 << 32);
        self.held.push(chain);
    }

    /// A chain that cannot be served is in flight like any other, with at most a status byte.
    fn refuse(&mut self, chain: Chain, error: QueueError) {
        assert!(chain.readable().is_empty() && chain.writable().len_bytes() <= 1);
        assert!(error.to_string().len() > 20);
        self.take(chain);
    }

    fn broke(&mut self, chain: &Chain, error: QueueError) {
        assert_eq!(error == QueueError::Broken, self.broken, "{error}");
        assert!(self.broken || (chain.readable().is_empty() && chain.writable().is_empty()));
        assert!(error.to_string().len() > 20);
        self.broken = true;
    }

    fn push(&mut self, queue: &mut DeviceQueue, head: u16, written: u32) {
        assert_eq!(queue.push(head, written), Ok(()));
        self.used = self.used.wrapping_add(u16::from(!self.broken));
        assert_eq!(queue.push(head, written), Err(QueueError::NotInFlight { head }));
    }

    /// Reads through a chain, and checks that the bytes are those of the guest.
    fn read(&mut self, which: usize, offset: u64, len: usize) {
        let Some(chain) = self.held.get(which) else { return };
        let content = self.guest.known(&self.guest.pieces(chain.readable()));
        let expected = content.get(offset as usize..).unwrap_or_default();
        let mut bytes = vec![0; len];
        let got = chain.readable().copy_to(offset, &mut bytes);
        assert_eq!(&bytes[..got], &expected[..len.min(expected.len())]);
        let mut slice: Vec<Segment> = Vec::new();
        chain.readable().slice_into(offset, len as u64, &mut slice);
        assert_eq!(self.guest.known(&self.guest.pieces(&slice)), &bytes[..got]);
    }

    /// Writes through a chain, and checks that nothing else changes.
    fn fill(&mut self, which: usize, offset: u64, len: usize) {
        let Some(chain) = self.held.get(which) else { return };
        let pieces = self.guest.pieces(chain.writable());
        let room = chain.writable().len_bytes().saturating_sub(offset).min(len as u64);
        assert_eq!(chain.writable().copy_from(offset, &vec![0xa5; len]) as u64, room);
        self.guest.only_changed(&pieces);
    }

    fn check(&self, queue: &DeviceQueue) {
        assert_eq!(usize::from(queue.in_flight()), self.held.len());
        assert!(queue.in_flight() <= queue.size() && queue.size() == self.config.size);
        assert_eq!((queue.is_broken(), queue.next_used()), (self.broken, self.used));
        assert!(!(self.broken && queue.has_available()));
    }
}

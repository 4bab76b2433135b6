//! Tests requests of a guest that puts any bytes into any buffers, which may overlap each other and
//! the rings.
//!
//! Checked for each chain:
//!
//! - either the queue breaks, or the last writable byte is the status that the device reports;
//!   there is no status if there is no such byte;
//! - the used length is not larger than the writable part;
//! - nothing outside the writable buffers changes, and only the status if the request is refused;
//! - data that was read is what the disk contains, and data that was written is on the disk;
//! - a refused request does not change the disk, and a read-only disk never changes.

use arbitrary::{Arbitrary, Unstructured};
use virtio_blk_sim::blk::backend::Memory;
use virtio_blk_sim::blk::device::{
    BlockDevice, DeviceConfig, Features, FinishedRequest, Operation, PendingRequest, RequestError,
    RequestSlot, Started, Status, Transfer,
};
use virtio_blk_sim::memory::GuestAddress;
use virtio_blk_sim::virtqueue::{DeviceQueue, DriverQueue, QueueConfig, QueueError};

use crate::guest::{Guest, LOW_END};

/// Maximum size of the disk.
const MAX_SECTORS: u64 = 40;
const QUEUE_SIZE: u16 = 16;
/// Start of the buffers that are placed one after another. The rings are below, indirect tables are
/// at `TABLE`.
const BUFFERS: u64 = 0x1000;
const TABLE: u64 = 0x800;
/// Initial content of guest memory; not a valid status.
const BACKGROUND: u8 = 0xee;
/// Request types; the first six are supported.
const KINDS: [u32; 8] = [0, 1, 4, 8, 11, 13, 14, u32::MAX];

#[derive(Debug, Arbitrary)]
struct Input {
    capacity: u8,
    read_only: bool,
    write_through: bool,
    /// Requests must be multiples of 4096 bytes.
    aligned: bool,
    /// Offered features that the driver does not accept.
    without: u64,
    chains: Vec<Posted>,
}

#[derive(Debug, Arbitrary)]
struct Posted {
    indirect: bool,
    header: Option<(u8, Sector)>,
    /// The header has a buffer of its own.
    apart: bool,
    readable: Vec<Readable>,
    writable: Vec<(Option<u16>, Len)>,
    /// If given, the transfers of a disk that moves only this many bytes at a time. Otherwise the
    /// memory backend is used.
    transfers: Option<Vec<u16>>,
    /// New size of the disk, before this chain.
    resize: Option<u8>,
}

#[derive(Debug, Arbitrary)]
enum Sector {
    Near(u8),
    Any(u64),
}

impl Sector {
    fn get(&self) -> u64 {
        match *self {
            Self::Near(sector) => sector.into(),
            Self::Any(sector) => sector,
        }
    }
}

#[derive(Debug, Arbitrary)]
enum Len {
    Sectors(u8, i8),
    Any(u16),
    One,
}

impl Len {
    fn get(&self) -> usize {
        match *self {
            Self::Sectors(sectors, more) => {
                (i64::from(sectors % 10) * 512 + i64::from(more)).unsigned_abs() as usize
            }
            Self::Any(len) => (len % 0x1800).into(),
            Self::One => 1,
        }
    }
}

#[derive(Debug, Arbitrary)]
struct Readable {
    place: Option<u16>,
    content: Content,
}

#[derive(Debug, Arbitrary)]
enum Content {
    Bytes(Vec<u8>),
    Fill(Len, u8),
    Range(Sector, u32, u8),
}

impl Content {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Bytes(bytes) => bytes.clone(),
            Self::Fill(len, byte) => vec![*byte; len.get()],
            Self::Range(sector, sectors, flags) => {
                [&sector.get().to_le_bytes()[..], &sectors.to_le_bytes(), &u32::from(*flags).to_le_bytes()]
                    .concat()
            }
        }
    }
}

/// Runs the input in `data`.
pub(crate) fn run(data: &[u8]) {
    // Ignore data that is too short for an input.
    let Ok(input) = Input::arbitrary_take_rest(Unstructured::new(data)) else { return };
    // Whole blocks.
    let block = if input.aligned { 8 } else { 1 };
    let size = |sectors: u8| (u64::from(sectors) % (MAX_SECTORS + 1)) / block * block;
    let mut config = DeviceConfig::new(size(input.capacity));
    config.read_only = input.read_only;
    config.writeback = !input.write_through;
    if input.aligned {
        config.request_alignment = 4096;
        config.logical_block_size = 4096;
        config.physical_block_size = 4096;
    }
    let device = BlockDevice::new(config).expect("the configuration must be valid");
    let features = device.offered().without(Features::from_bits(input.without)) | Features::VERSION_1;
    device.negotiate(features).expect("a subset of the offered features must be accepted");
    // The backend has the maximum size; the device's capacity must bound the requests.
    let mut disk = Memory::new(MAX_SECTORS).expect("20 KiB can be allocated");
    for (at, byte) in disk.content_mut().iter_mut().enumerate() {
        *byte = (at / 512 * 31 + at % 512 * 7) as u8;
    }

    let mut guest = Guest::new(BACKGROUND);
    let mut rings = Rings::new(&mut guest);
    let mut slot = RequestSlot::new(rings.device.new_chain());
    for posted in input.chains {
        if let Some(sectors) = posted.resize {
            device.resize(size(sectors)).expect("the size must be valid");
        }
        if rings.post(&mut guest, &posted).is_none() {
            continue;
        }
        match rings.device.pop(slot.chain_mut()) {
            Ok(true) => slot = carry_out(&mut guest, &mut rings, &device, &mut disk, slot, posted.transfers),
            // The guest has overwritten its own rings.
            Ok(false) => {}
            Err(error) if error.is_of_one_chain() => slot = refuse(&mut guest, &mut rings, slot, error),
            Err(error) => {
                assert!(error.to_string().len() > 20);
                assert_eq!(rings.device.pop(slot.chain_mut()), Err(QueueError::Broken));
                guest.only_changed(&[]);
                rings = Rings::new(&mut guest);
            }
        }
    }
}

/// Both halves of a queue.
struct Rings {
    driver: DriverQueue,
    device: DeviceQueue,
    used_ring: (u64, u64),
}

impl Rings {
    /// Creates the queue, as after a reset.
    fn new(guest: &mut Guest) -> Self {
        let config = QueueConfig::at(GuestAddress(0), QUEUE_SIZE);
        let driver = DriverQueue::new(guest.mem.clone(), config).expect("the rings must be valid");
        let device = DeviceQueue::new(guest.mem.clone(), config).expect("the rings must be valid");
        guest.learn();
        Self { driver, device, used_ring: (config.used_ring.0, 6 + 8 * u64::from(QUEUE_SIZE)) }
    }

    /// Makes a chain available. Returns `None` if the driver half refuses it.
    fn post(&mut self, guest: &mut Guest, posted: &Posted) -> Option<()> {
        let mut contents: Vec<(Option<u16>, Vec<u8>)> =
            posted.readable.iter().map(|piece| (piece.place, piece.content.bytes())).collect();
        if let Some((kind, sector)) = &posted.header {
            let kind = KINDS[usize::from(*kind) % KINDS.len()];
            let header = [&kind.to_le_bytes()[..], &[0; 4], &sector.get().to_le_bytes()].concat();
            match contents.first_mut() {
                Some((_, bytes)) if !posted.apart => drop(bytes.splice(0..0, header)),
                _ => contents.insert(0, (None, header)),
            }
        }
        let mut end = BUFFERS;
        let mut place = |place: Option<u16>, len: usize| {
            let addr = place.map_or(end + 1, |at| u64::from(at) % LOW_END);
            end = if place.is_none() { addr + len as u64 } else { end };
            (GuestAddress(addr), len as u32)
        };
        let mut readable = Vec::new();
        for (at, bytes) in contents {
            let buffer = place(at, bytes.len());
            guest.write(buffer.0.0, &bytes);
            readable.push(buffer);
        }
        let writable: Vec<_> = posted.writable.iter().map(|(at, len)| place(*at, len.get())).collect();
        let added = match posted.indirect {
            true => self.driver.add_indirect(GuestAddress(TABLE), &readable, &writable),
            false => self.driver.add(&readable, &writable),
        };
        added.ok()??;
        let _ = self.driver.publish();
        guest.learn();
        Some(())
    }
}

/// Answers a chain that cannot be served. Only its status may change.
fn refuse(guest: &mut Guest, rings: &mut Rings, mut slot: RequestSlot, error: QueueError) -> RequestSlot {
    let chain = slot.chain_mut();
    let head = chain.head();
    let place = guest.pieces(chain.writable());
    assert!(chain.readable().is_empty() && chain.writable().len_bytes() <= 1);
    let finished = slot.refuse(error);
    assert_eq!(finished.head(), head);
    assert_eq!(finished.error(), Some(&RequestError::Chain(error)));
    assert_eq!(finished.written() as usize, place.len());
    assert_eq!(finished.status(), place.first().map(|_| Status::IoErr));
    guest.only_changed(&place);
    rings.device.push(head, finished.written()).expect("the head was popped");
    let _ = rings.device.publish();
    guest.only_changed(&[rings.used_ring]);
    // If the rings were overwritten, the driver finds an error here and takes nothing.
    let _ = rings.driver.pop_used();
    guest.learn();
    finished.into_slot()
}

fn carry_out(
    guest: &mut Guest,
    rings: &mut Rings,
    device: &BlockDevice,
    disk: &mut Memory,
    mut slot: RequestSlot,
    transfers: Option<Vec<u16>>,
) -> RequestSlot {
    let chain = slot.chain_mut();
    let head = chain.head();
    let (readable, writable) = (guest.pieces(chain.readable()), guest.pieces(chain.writable()));
    let room = chain.writable().len_bytes();
    let sent = guest.known(&readable);
    let before = disk.content().to_vec();

    let mut operation = None;
    let mut all_moved = true;
    let finished = match slot.begin(device) {
        Started::Finished(finished) => finished,
        Started::Pending(request) => {
            operation = Some(*request.operation());
            match transfers {
                None => disk.execute(request),
                Some(steps) => {
                    all_moved = false;
                    in_steps(guest, request, &steps)
                }
            }
        }
    };
    assert_eq!(finished.head(), head);
    let status = finished.status();

    // Check the answer.
    let told = status.map(|status| status as u8);
    assert!(u64::from(finished.written()) <= room, "{} of {room} bytes written", finished.written());
    assert_eq!(status.is_some(), room > 0);
    let status_at = writable.last().map(|&(addr, len)| (addr + len - 1, 1));
    let refused = finished.error().copied();
    let may_change = match (refused, status_at) {
        (Some(_), Some(status)) => vec![status],
        _ => writable.clone(),
    };
    guest.only_changed(&may_change);
    let found = guest.known(&writable);
    assert_eq!(found.last().copied(), told, "the guest must see the status that the device reports");
    if let Some(error) = refused {
        assert!(error.to_string().len() > 10 && error.status() == status && operation.is_none());
        assert_eq!(u64::from(finished.written()), room.min(1));
        assert_eq!(error == RequestError::NoStatus, room == 0);
    }

    // Check the disk.
    let changes = matches!(
        operation,
        Some(Operation::Out { .. } | Operation::Discard(_) | Operation::WriteZeroes { .. })
    );
    assert!(disk.content() == before || (changes && !device.config().read_only));
    if all_moved && status == Some(Status::Ok) {
        check_data(operation, disk, &before, &sent, &writable, &found, &finished);
    }

    rings.device.push(head, finished.written()).expect("the head was popped");
    let _ = rings.device.publish();
    guest.only_changed(&[rings.used_ring]);
    // If the rings were overwritten, the driver finds an error here and takes nothing.
    let _ = rings.driver.pop_used();
    guest.learn();
    finished.into_slot()
}

/// Checks the data of a successful request.
fn check_data(
    operation: Option<Operation>,
    disk: &Memory,
    before: &[u8],
    sent: &[u8],
    writable: &[(u64, u64)],
    found: &[u8],
    finished: &FinishedRequest,
) {
    let at = |sector: u64, len: u64| (sector * 512) as usize..(sector * 512 + len) as usize;
    match operation {
        Some(Operation::In { sector, len }) => {
            assert_eq!(u64::from(finished.written()), len + 1);
            let mut sorted = writable.to_vec();
            sorted.sort_unstable();
            // If buffers overlap, the guest sees the data that was written last.
            if sorted.windows(2).all(|two| two[0].0 + two[0].1 <= two[1].0) {
                assert!(found[..found.len() - 1] == disk.content()[at(sector, len)]);
            }
        }
        Some(Operation::Out { sector, len, .. }) => {
            assert!(disk.content()[at(sector, len)] == sent[16..]);
            assert!(disk.content()[..at(sector, len).start] == before[..at(sector, len).start]);
            assert!(disk.content()[at(sector, len).end..] == before[at(sector, len).end..]);
        }
        Some(Operation::Discard(ranges) | Operation::WriteZeroes { ranges, .. }) => {
            let mut expected = before.to_vec();
            for range in ranges.iter() {
                expected[at(range.sector, range.len_bytes())].fill(0);
            }
            assert!(disk.content() == expected);
        }
        Some(Operation::Flush) | None => {}
    }
}

/// A disk that transfers the given numbers of bytes, and then the rest. It only counts; it moves no
/// data.
fn in_steps(guest: &Guest, mut request: PendingRequest, steps: &[u16]) -> FinishedRequest {
    let mut steps = steps.iter();
    loop {
        let rest = request.remaining();
        let vectors = request.iovecs();
        let bytes: u64 = vectors.iter().map(|vector| vector.iov_len as u64).sum();
        assert!(vectors.len() <= libc::UIO_MAXIOV as usize && bytes <= rest);
        assert_eq!(bytes > 0, rest > 0);
        for vector in vectors {
            let (start, len) = (vector.iov_base.addr() as u64, vector.iov_len as u64);
            assert!(guest.guest_address(start, len).is_some(), "an iovec must lie in guest memory");
        }
        match request.transferred(steps.next().map_or(bytes as usize, |&step| step.into())) {
            Transfer::Complete(finished) => return finished,
            Transfer::Short(short) => {
                assert!(short.remaining() < rest, "each step must make progress");
                request = short;
            }
        }
    }
}

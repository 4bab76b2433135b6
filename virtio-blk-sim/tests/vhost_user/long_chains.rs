//! Requests of more segments than SEG_MAX, than the ring has entries, and than one preadv(2) takes
//! (`UIO_MAXIOV`, 1024), on every backend.

use std::sync::Arc;

use aio::{AioContext, MonitorKind};
use virtio_blk_sim::blk::backend::{Backend, FileImage, Null};
use virtio_blk_sim::blk::device::{DeviceConfig, Features};
use virtio_blk_sim::memory::{GuestAddress, GuestRam};
use virtio_blk_sim::virtqueue::{Descriptor, DriverQueue, MAX_CHAIN, QueueConfig};
use vm_memory::Bytes;

use super::server::{Setup, TempPath, TestServer};
use super::session::Session;
use super::{SECTORS, Watchdog};

const SIZE: u16 = 16;
const HEADER: GuestAddress = GuestAddress(0x8000);
const STATUS: GuestAddress = GuestAddress(0x8100);
const TABLE: u64 = 0xa000;
/// End of the first region. The second one follows at once, so a buffer that crosses this address
/// becomes two segments.
const BORDER: u64 = 0x10_0000;

/// Where the data of a request is, and how it is cut.
#[derive(Debug, Clone, Copy)]
enum Data {
    /// `.0` buffers of 512 bytes, one after the other.
    Distinct(u16),
    /// `.0` times the same 1024 bytes across the border of two regions: twice as many segments.
    Crossing(u16),
}

impl Data {
    fn buffers(self) -> Vec<(GuestAddress, u32)> {
        match self {
            Self::Distinct(count) => {
                (0..u64::from(count)).map(|at| (GuestAddress(BORDER + at * 512), 512)).collect()
            }
            Self::Crossing(count) => vec![(GuestAddress(BORDER - 512), 1024); count.into()],
        }
    }

    /// The bytes of a write.
    fn fill(self, ram: &GuestRam, seed: u64) -> Vec<u8> {
        let buffers = self.buffers();
        for (at, &(addr, len)) in (0..).zip(&buffers) {
            let byte = |n: u64| (at * 7 + n * 3 + seed) as u8;
            let bytes: Vec<u8> = (0..u64::from(len)).map(byte).collect();
            ram.memory().write_slice(&bytes, addr).unwrap();
        }
        self.read(ram)
    }

    fn read(self, ram: &GuestRam) -> Vec<u8> {
        let read = |(addr, len): (GuestAddress, u32)| {
            let mut bytes = vec![0; len as usize];
            ram.memory().read_slice(&mut bytes, addr).unwrap();
            bytes
        };
        self.buffers().into_iter().flat_map(read).collect()
    }
}

struct Guest {
    ram: GuestRam,
    driver: DriverQueue,
    session: Session,
    answers: u16,
}

impl Guest {
    fn new(server: &TestServer) -> Self {
        let regions = [(GuestAddress(0), BORDER as usize), (GuestAddress(BORDER), BORDER as usize)];
        let ram = GuestRam::with_regions(&regions).unwrap();
        let queue = QueueConfig::at(GuestAddress(0), SIZE);
        let driver = DriverQueue::new(ram.map().unwrap(), queue).unwrap();
        let mut session = Session::new(server, &ram, &[]);
        session.start(server, &queue, Features::FLUSH);
        Self { ram, driver, session, answers: 0 }
    }

    /// Returns the status and the used length.
    fn request(&mut self, kind: u32, data: Data) -> (u8, u32) {
        let memory = self.ram.memory();
        memory.write_slice(&[0; 16], HEADER).unwrap();
        memory.write_obj(kind, HEADER).unwrap();
        memory.write_obj(0xff_u8, STATUS).unwrap();
        let (mut readable, mut writable) = (vec![(HEADER, 16)], vec![(STATUS, 1)]);
        match kind {
            0 => drop(writable.splice(0..0, data.buffers())),
            _ => readable.extend(data.buffers()),
        }
        // By hand: our own driver makes no chain that is longer than its queue.
        let entries = (readable.len() + writable.len()) as u16;
        let flags = readable.iter().map(|_| 0).chain(writable.iter().map(|_| Descriptor::WRITE));
        for ((at, &(addr, len)), flags) in (0..).zip(readable.iter().chain(&writable)).zip(flags) {
            let more = if at + 1 < entries { Descriptor::NEXT } else { 0 };
            let descriptor = Descriptor { addr: addr.0, len, flags: flags | more, next: at + 1 };
            memory.write_slice(&descriptor.to_bytes(), GuestAddress(TABLE + 16 * u64::from(at))).unwrap();
        }
        let (len, flags) = (u32::from(entries) * 16, Descriptor::INDIRECT);
        self.driver.write_desc(0, Descriptor { addr: TABLE, len, flags, next: 0 });
        self.driver.write_avail(self.answers, 0);
        self.answers += 1;
        self.driver.set_avail_idx(self.answers);
        assert!(!self.session.kick(&self.driver, self.answers), "the queue must not break");
        let (head, written) = self.driver.used_entry(self.answers - 1);
        assert_eq!(head, 0);
        (self.ram.memory().read_obj(STATUS).unwrap(), written)
    }

    /// Writes, reads, and reads beyond the longest chain.
    fn transfers(&mut self, stores: bool) {
        // 513 data segments with header and status is what Windows' viostor sends.
        for (seed, data) in [
            Data::Distinct(513),
            Data::Distinct(MAX_CHAIN - 2),
            Data::Crossing(600),
            Data::Crossing(MAX_CHAIN - 2),
        ]
        .into_iter()
        .enumerate()
        {
            println!("{data:?}"); // printed when the test fails
            let written = data.fill(&self.ram, seed as u64);
            assert_eq!(self.request(1, data), (0, 1), "{data:?}");
            if !stores {
                assert_eq!(self.request(0, data), (0, 1), "{data:?}");
                continue;
            }
            for (addr, len) in data.buffers() {
                self.ram.memory().write_slice(&vec![0xee; len as usize], addr).unwrap();
            }
            assert_eq!(self.request(0, data), (0, written.len() as u32 + 1), "{data:?}");
            assert!(data.read(&self.ram) == written, "{data:?}: other data was read than written");
        }
        // One descriptor more than any chain may have costs only the request.
        for (kind, data) in [(0, Data::Distinct(MAX_CHAIN - 1)), (1, Data::Distinct(MAX_CHAIN))] {
            assert_eq!(self.request(kind, data), (1, 1), "{kind} {data:?}");
            assert_eq!(self.request(kind, Data::Distinct(1)).0, 0, "the next request works");
        }
    }
}

#[test]
fn every_backend_serves_the_longest_chain() {
    let _watchdog = Watchdog::new("every_backend_serves_the_longest_chain");
    let image = TempPath::image();
    let file = |direct| FileImage::open(&image, false, direct).map(Arc::new);
    let mut backends = vec![
        ("null", Backend::Null(Null::default()), None),
        ("memory", Backend::memory(SECTORS).unwrap(), None),
        ("pool", Backend::File(file(false).unwrap()), Some(MonitorKind::Epoll)),
        ("ring", Backend::File(file(false).unwrap()), Some(MonitorKind::IoUring)),
    ];
    match file(true) {
        Ok(direct) => {
            let (pool, ring) = (Some(MonitorKind::Epoll), Some(MonitorKind::IoUring));
            backends.push(("pool, direct", Backend::File(Arc::clone(&direct)), pool));
            backends.push(("ring, direct", Backend::File(Arc::clone(&direct)), ring));
            backends.push(("linux-aio", Backend::LinuxAio(direct), None));
        }
        Err(error) => eprintln!("skipped: O_DIRECT: {error}"),
    }
    for (name, backend, monitor) in backends {
        let builder = match monitor {
            Some(kind) => AioContext::builder().monitor(kind),
            None => AioContext::builder(),
        };
        if let Err(error) = builder.clone().build() {
            eprintln!("skipped: {name}: {error}");
            continue;
        }
        println!("{name}");
        let sized = match &backend {
            Backend::File(image) | Backend::LinuxAio(image) => image.device_config(),
            _ => DeviceConfig::new(SECTORS),
        };
        // SEG_MAX is 14.
        let device = Some(DeviceConfig { queue_size: SIZE, num_queues: 1, ..sized });
        let stores = name != "null";
        let server = TestServer::new(Setup { builder, backend, device, ..Setup::default() });
        Guest::new(&server).transfers(stores);
    }
}

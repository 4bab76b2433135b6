//! Posts the table of requests, valid and invalid, from a guest behind the socket. The guest must
//! get the expected answer, nothing except the posted buffers may change, and the next valid
//! request must work.

use std::collections::BTreeSet;

use virtio_blk_sim::blk::device::{DeviceConfig, Features, Serial};
use virtio_blk_sim::memory::{GuestAddress, GuestRam};
use virtio_blk_sim::virtqueue::{DriverQueue, QueueConfig};
use vm_memory::Bytes;

use super::Watchdog;
use super::more_cases::MORE;
use super::rings;
use super::server::{Setup, TempPath, TestServer};
use super::session::{Session, snapshot, strays};

#[path = "../../src/blk/device/test_rig/posted.rs"]
mod posted;
#[path = "../../src/blk/device/tests/guests/rows.rs"]
mod rows;
#[path = "../../src/blk/device/tests/guests/table.rs"]
mod table;

pub(crate) use posted::{BACKGROUND, Posted, disk_content, header, range};
pub(crate) use rows::{CAPACITY, IOERR, OK, Row, disk, payload, read, write};

const PAGE: u64 = 4096;
/// The guest's RAM. It lies between two canary pages, which are not shared with the server.
const BASE: u64 = PAGE;
const RAM_SIZE: u64 = 1 << 17;
const END: u64 = BASE + RAM_SIZE;
const BUFFERS: u64 = BASE + 0x4000;
const CANARIES: [u64; 2] = [0, END];

/// A guest with one queue behind a socket.
pub(crate) struct Vm {
    ram: GuestRam,
    session: Session,
    queue: QueueConfig,
    driver: DriverQueue,
    answers: u16,
    /// Each buffer starts at a multiple of `.0`, plus `.1`.
    pub(crate) placement: (u64, u64),
}

impl Vm {
    /// Negotiates all offered features except `refuse`. Buffers are at unaligned addresses.
    pub(crate) fn new(server: &TestServer, refuse: Features) -> Self {
        let regions = [(0, PAGE), (BASE, RAM_SIZE), (END, PAGE)];
        let ram = GuestRam::with_regions(&regions.map(|(at, len)| (GuestAddress(at), len as usize))).unwrap();
        ram.memory().write_slice(&vec![BACKGROUND; (RAM_SIZE + 2 * PAGE) as usize], GuestAddress(0)).unwrap();
        let queue = QueueConfig::at(GuestAddress(BASE), 32);
        let driver = DriverQueue::new(ram.map().unwrap(), queue).unwrap();
        let mut session = Session::new(server, &ram, &CANARIES);
        let features = session.offered().without(refuse);
        session.start(server, &queue, features);
        Self { ram, session, queue, driver, answers: 0, placement: (1, 13) }
    }

    /// Posts a chain. Returns the used length, and the content of the writable buffers.
    pub(crate) fn run(&mut self, posted: &Posted) -> (u32, Vec<u8>) {
        let mem = self.ram.memory();
        mem.write_slice(&vec![BACKGROUND; (END - BUFFERS) as usize], GuestAddress(BUFFERS)).unwrap();
        let mut end = BUFFERS;
        let mut place = |len: usize| {
            let addr = (end + 1).next_multiple_of(self.placement.0) + self.placement.1;
            end = addr + len as u64;
            assert!(end < END, "the chain does not fit into guest RAM");
            (GuestAddress(addr), len as u32)
        };
        let readable: Vec<_> = posted.readable.iter().map(|bytes| place(bytes.len())).collect();
        let writable: Vec<_> = posted.writable.iter().map(|&len| place(len)).collect();
        for (bytes, (addr, _)) in posted.readable.iter().zip(&readable) {
            mem.write_slice(bytes, *addr).unwrap();
        }
        let head = self.driver.add(&readable, &writable).unwrap().expect("no free descriptors");
        let _ = self.driver.publish();
        let before = snapshot(&self.ram);
        self.answers = self.answers.wrapping_add(1);
        assert!(!self.session.kick(&self.driver, self.answers), "the queue must not break");
        let (used_head, written) = self.driver.pop_used().unwrap().expect("no chain was completed");
        assert_eq!(used_head, head);

        let mut allowed: Vec<_> = writable.iter().map(|(addr, len)| (addr.0, u64::from(*len))).collect();
        allowed.push((self.queue.used_ring.0, QueueConfig::part_bytes(self.queue.size).2));
        assert_eq!(
            strays(&before, &self.ram, &allowed),
            [0_u64; 0],
            "the device wrote outside the posted buffers"
        );
        let piece = |&(addr, len): &(GuestAddress, u32)| {
            let mut bytes = vec![0; len as usize];
            self.ram.memory().read_slice(&mut bytes, addr).unwrap();
            bytes
        };
        (written, writable.iter().flat_map(piece).collect())
    }
}

/// Creates a file with this content.
pub(crate) fn image_of(content: &[u8]) -> TempPath {
    let path = TempPath::new("img");
    std::fs::write(&path, content).unwrap();
    path
}

fn carry_out(row: &Row) {
    println!("case {}: {}", row.case, row.name); // printed when the test fails
    let _watchdog = Watchdog::new(row.name);
    let image = image_of(&disk_content(CAPACITY));
    let device = Some(row.device_config());
    let server = TestServer::new(Setup { backend: Setup::file(&image), device, ..Setup::default() });
    let mut vm = Vm::new(&server, row.refuse);
    assert_eq!(vm.run(&row.posted), (row.written(), row.writable(BACKGROUND)));
    let on_disk = std::fs::read(&image).unwrap();
    assert!(on_disk == row.disk_after(), "the disk is not as expected");
    // The server still runs, and the next valid request works.
    let good = [&row.disk_after()[16 * 512..24 * 512], &[0]].concat();
    assert_eq!(vm.run(&read(16, 4096)), (4097, good));
}

#[test]
fn guests_behind_a_socket_get_what_the_table_says() {
    table::table().iter().for_each(carry_out);
}

/// Every case of the project's list of malformed guests, 1 to 84, is tested here.
#[test]
fn every_case_is_tried_over_the_socket() {
    let requests = table::table().into_iter().map(|row| row.case);
    let more = MORE.iter().map(|&(case, _)| case);
    let cases: BTreeSet<u32> = rings::numbers().chain(requests).chain(more).collect();
    println!("{} cases over the socket", cases.len());
    assert_eq!(cases, (1..=84).collect());
}

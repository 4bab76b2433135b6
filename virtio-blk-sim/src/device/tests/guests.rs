//! What a guest may post, rightly or not, and what it gets: at least one row for each case of the project's
//! list of malformed requests (39 to 84; 1 to 38 are the ring's).

mod table;

use std::collections::BTreeSet;
use std::sync::Barrier;

use virtio_bindings::virtio_blk as vb;
use vm_memory::Bytes;

use super::super::test_rig::{Answer, BACKGROUND, Posted, Rig, disk_content, header, range};
use super::super::*;
use crate::backend::Memory;
use crate::memory::{GuestAddress, GuestRam};
use crate::virtqueue::{DeviceQueue, DriverQueue, QueueConfig};

const IN: u32 = vb::VIRTIO_BLK_T_IN;
const OUT: u32 = vb::VIRTIO_BLK_T_OUT;
const FLUSH: u32 = vb::VIRTIO_BLK_T_FLUSH;
const GET_ID: u32 = vb::VIRTIO_BLK_T_GET_ID;
const DISCARD: u32 = vb::VIRTIO_BLK_T_DISCARD;
const WRITE_ZEROES: u32 = vb::VIRTIO_BLK_T_WRITE_ZEROES;

const OK: Option<u8> = Some(0);
const IOERR: Option<u8> = Some(1);
const UNSUPP: Option<u8> = Some(2);
/// There is no byte to answer in.
const SILENCE: Option<u8> = None;

/// Sectors of the disk.
const CAPACITY: u64 = 64;
const SERIAL: &str = "sim-0123456789abcdef";

struct Row {
    case: u32,
    name: &'static str,
    check: Check,
}

enum Check {
    /// A chain, and what is found after it.
    Chain(Exchange),
    /// What takes more than one chain.
    Function(fn()),
}

struct Exchange {
    config: fn(&mut DeviceConfig),
    refuse: Features,
    posted: Posted,
    status: Option<u8>,
    /// What is written from the start of the writable part on. The rest must be as it was, but for the
    /// status.
    data: Vec<u8>,
    /// What changes on the disk: at that byte, these bytes.
    disk: Vec<(usize, Vec<u8>)>,
}

impl Row {
    /// A chain that changes nothing but the status.
    fn chain(case: u32, name: &'static str, posted: Posted, status: Option<u8>) -> Self {
        let (data, disk) = (Vec::new(), Vec::new());
        let exchange = Exchange { config: |_| (), refuse: Features::NONE, posted, status, data, disk };
        Self { case, name, check: Check::Chain(exchange) }
    }

    fn function(case: u32, name: &'static str, check: fn()) -> Self {
        Self { case, name, check: Check::Function(check) }
    }

    fn with(mut self, change: impl FnOnce(&mut Exchange)) -> Self {
        if let Check::Chain(exchange) = &mut self.check {
            change(exchange);
        }
        self
    }

    /// On such a device.
    fn config(self, config: fn(&mut DeviceConfig)) -> Self {
        self.with(|exchange| exchange.config = config)
    }

    /// The driver does not take these features.
    fn refuse(self, features: Features) -> Self {
        self.with(|exchange| exchange.refuse = features)
    }

    /// The guest finds that before the status.
    fn data(self, data: &[u8]) -> Self {
        self.with(|exchange| exchange.data = data.to_vec())
    }

    /// The disk has that at the sector.
    fn disk(self, sector: u64, bytes: &[u8]) -> Self {
        self.with(|exchange| exchange.disk.push((sector as usize * 512, bytes.to_vec())))
    }

    fn zeroes(self, sector: u64, sectors: usize) -> Self {
        self.disk(sector, &vec![0; sectors * 512])
    }
}

/// What the disk has there at first.
fn disk(sector: u64, sectors: u64) -> Vec<u8> {
    disk_content(CAPACITY)[sector as usize * 512..(sector + sectors) as usize * 512].to_vec()
}

/// What the guest writes. Not on the disk before.
fn payload(len: usize) -> Vec<u8> {
    (0..len).map(|at| 201 + (at % 37) as u8).collect()
}

fn read(sector: u64, len: usize) -> Posted {
    Posted::request(IN, sector).writable(len).status()
}

fn write(sector: u64, len: usize) -> Posted {
    Posted::request(OUT, sector).readable(&payload(len)).status()
}

fn ranges(kind: u32, list: &[u8]) -> Posted {
    Posted::request(kind, 0).readable(list).status()
}

#[test]
fn every_case_is_in_the_table() {
    let cases: BTreeSet<u32> = table::table().iter().map(|row| row.case).collect();
    assert_eq!(cases, (39..=84).collect());
}

#[test]
fn guests_get_what_the_table_says() {
    for Row { case, name, check } in table::table() {
        println!("case {case}: {name}"); // shown when it fails
        match check {
            Check::Chain(exchange) => carry_out(exchange),
            Check::Function(check) => check(),
        }
    }
}

fn carry_out(exchange: Exchange) {
    let mut config = DeviceConfig::new(CAPACITY);
    config.serial = Serial::new(SERIAL).unwrap();
    (exchange.config)(&mut config);
    let mut rig = Rig::new(config);
    let features = rig.device.offered().without(exchange.refuse);
    rig.device.negotiate(features).unwrap();
    let mut backend = ram_disk();

    let answer = rig.run(&exchange.posted, |request| backend.execute(request));

    let mut writable = exchange.data.clone();
    writable.resize(exchange.posted.writable_len(), BACKGROUND);
    if let (Some(status), Some(last)) = (exchange.status, writable.last_mut()) {
        *last = status;
    }
    let mut content = disk_content(CAPACITY);
    for (at, bytes) in &exchange.disk {
        content[*at..at + bytes.len()].copy_from_slice(bytes);
    }
    let written = exchange.data.len() as u32 + u32::from(exchange.status.is_some());
    assert_eq!(Answer { error: answer.error, written, writable }, answer);
    assert_eq!(exchange.status, answer.status());
    assert!(backend.content() == content, "the disk is not as expected");
    if let Some(error) = answer.error {
        assert_eq!(error.status().map(|status| status as u8), exchange.status);
        assert!(!error.to_string().is_empty());
    } else {
        assert_eq!(exchange.status, OK, "refused without a reason");
    }
}

fn ram_disk() -> Memory {
    let mut backend = Memory::new(CAPACITY).unwrap();
    backend.content_mut().copy_from_slice(&disk_content(CAPACITY));
    backend
}

/// The guest's own race: it may get any mix of the two sectors, and nothing else may change.
fn one_buffer_on_two_queues() {
    const ROUNDS: usize = 500;
    let ram = GuestRam::new(1 << 16).unwrap();
    let memory = ram.memory();
    let (headers, data, statuses) = (0x8000, 0x9000, 0xa000);
    let device = BlockDevice::new(DeviceConfig::new(CAPACITY)).unwrap();
    device.negotiate(device.offered()).unwrap();
    let barrier = Barrier::new(2);
    let serve = |queue: u64| {
        let config = QueueConfig::at(GuestAddress(queue * 0x1000), 8);
        let mut driver = DriverQueue::new(memory.clone(), config).unwrap();
        let mut device_queue = DeviceQueue::new(memory.clone(), config).unwrap();
        let mut slot = RequestSlot::new(device_queue.new_chain());
        let mut backend = ram_disk();
        let (head, status) = (GuestAddress(headers + queue * 16), GuestAddress(statuses + queue));
        memory.write_slice(&header(IN, queue), head).unwrap();
        barrier.wait();
        for _ in 0..ROUNDS {
            memory.write_obj(0xff_u8, status).unwrap();
            driver.add(&[(head, 16)], &[(GuestAddress(data), 512), (status, 1)]).unwrap().unwrap();
            let _ = driver.publish(); // nobody sleeps on either side
            assert!(device_queue.pop(slot.chain_mut()).unwrap());
            let Started::Pending(request) = slot.begin(&device) else { panic!("a read of a sector is fine") };
            let finished = backend.execute(request);
            device_queue.push(finished.head(), finished.written()).unwrap();
            let _ = device_queue.publish();
            slot = finished.into_slot();
            assert_eq!(driver.pop_used().unwrap().map(|(_, written)| written), Some(513));
            assert_eq!(memory.read_obj::<u8>(status).unwrap(), 0);
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| serve(0));
        scope.spawn(|| serve(1));
    });
    let mut content = [0; 512];
    memory.read_slice(&mut content, GuestAddress(data)).unwrap();
    for (at, byte) in content.iter().enumerate() {
        assert!([disk(0, 1)[at], disk(1, 1)[at]].contains(byte), "byte {at} is of neither sector");
    }
}

fn cache_mode_changed_in_flight() {
    let mut rig = Rig::new(DeviceConfig::new(CAPACITY));
    let mut backend = ram_disk();
    let is_durable = |request: &PendingRequest| match request.operation() {
        Operation::Out { durable, .. } | Operation::WriteZeroes { durable, .. } => *durable,
        other => panic!("not a write: {other:?}"),
    };
    let first = rig.begin_pending(&write(3, 512));
    assert!(!is_durable(&first));
    rig.device.write_config(32, &[0]);
    assert!(!is_durable(&first), "it flew already");
    rig.complete(backend.execute(first));
    for posted in [write(3, 512), ranges(WRITE_ZEROES, &range(0, 1, 0))] {
        let later = rig.begin_pending(&posted);
        assert!(is_durable(&later));
        rig.complete(backend.execute(later));
    }
    rig.device.write_config(32, &[1]);
    let last = rig.begin_pending(&write(3, 512));
    assert!(!is_durable(&last));
    rig.complete(backend.execute(last));
}

fn writeback_byte_of_any_value() {
    let device = BlockDevice::new(DeviceConfig::new(CAPACITY)).unwrap();
    device.negotiate(device.offered()).unwrap();
    for value in 0..=255 {
        device.write_config(32, &[value]);
        let mut byte = [0xee];
        device.read_config(32, &mut byte);
        assert_eq!(byte, [u8::from(value != 0)]);
        assert_eq!(device.is_write_through(), value == 0);
    }
}

fn config_read_past_the_end() {
    let device = BlockDevice::new(DeviceConfig::new(CAPACITY)).unwrap();
    for offset in [CONFIG_SPACE_SIZE as u64, 256, 1 << 32, u64::MAX] {
        let mut bytes = [0xee; 16];
        device.read_config(offset, &mut bytes);
        assert_eq!(bytes, [0; 16], "offset {offset}");
    }
    let mut over = [0xee; 300];
    device.read_config(0, &mut over);
    assert_eq!(over[..8], CAPACITY.to_le_bytes());
    assert!(over[CONFIG_SPACE_SIZE..].iter().all(|&byte| byte == 0));
    let mut last = [0xee; 4];
    device.read_config(u64::MAX - 1, &mut last);
    assert_eq!(last, [0; 4]);
}

/// [`Rig`] checks for each chain that it is kicked for, completed once and interrupted for.
fn event_index_wraps() {
    let mut rig = Rig::new(DeviceConfig::new(CAPACITY));
    let mut backend = Memory::new(CAPACITY).unwrap();
    for _ in 0..=u16::MAX as u32 + 100 {
        let request = rig.begin_pending(&Posted::request(FLUSH, 0).status());
        assert_eq!(rig.complete(backend.execute(request)), 1);
    }
}

fn failed_read_shows_nothing() {
    let mut rig = Rig::new(DeviceConfig::new(CAPACITY));
    let eio = || Err(std::io::Error::from_raw_os_error(libc::EIO));
    let answer = rig.run(&read(0, 1024), |request| request.finish(eio()));
    assert_eq!((answer.written, answer.status()), (1, IOERR));
    assert_eq!(answer.data(), [BACKGROUND; 1024]);

    // What was read before it failed was read from the disk, and is counted.
    let answer = rig.run(&read(0, 1024), |mut request| {
        request.put_data(&disk(0, 1));
        request.finish(eio())
    });
    assert_eq!((answer.written, answer.status()), (513, IOERR));
    assert_eq!(answer.data(), [disk(0, 1), vec![BACKGROUND; 512]].concat());
}

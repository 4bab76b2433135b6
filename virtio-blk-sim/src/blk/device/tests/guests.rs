//! Everything that a guest may post, valid or not, and the expected result. There is at least one
//! row for each of the cases 39 to 84 of the project's list of malformed requests; cases 1 to 38
//! are about the ring.

mod rows;
mod table;

use std::collections::BTreeSet;
use std::sync::Barrier;

use vm_memory::Bytes;

use super::super::test_rig::{Answer, BACKGROUND, Posted, Rig, disk_content, header, range};
use super::super::*;
use crate::blk::backend::Memory;
use crate::memory::{GuestAddress, GuestRam};
use crate::virtqueue::{DeviceQueue, DriverQueue, QueueConfig};
use rows::{CAPACITY, FLUSH, IN, IOERR, OK, Row, WRITE_ZEROES, disk, ranges, read, write};

/// Cases that need more than one chain, or checks that a frontend cannot make.
const MORE: [(u32, fn()); 6] = [
    (78, one_buffer_on_two_queues),
    (79, cache_mode_changed_in_flight),
    (80, writeback_byte_of_any_value),
    (81, config_read_past_the_end),
    (82, event_index_wraps),
    (84, failed_read_shows_nothing),
];

/// Together with the ring's table, every case from 1 to 84 has a row.
#[test]
fn every_case_is_in_a_table() {
    let requests = table::table().into_iter().map(|row| row.case).chain(MORE.map(|(case, _)| case));
    let cases: BTreeSet<u32> = requests.chain(crate::virtqueue::malformed_cases()).collect();
    println!("{} cases in {} rows", cases.len(), table::table().len());
    assert_eq!(cases, (1..=84).collect());
}

#[test]
fn guests_get_what_the_table_says() {
    for row in table::table() {
        println!("case {}: {}", row.case, row.name); // printed when the test fails
        carry_out(&row);
    }
    for (case, check) in MORE {
        println!("case {case}");
        check();
    }
}

fn carry_out(row: &Row) {
    let mut rig = Rig::new(row.device_config());
    let features = rig.device.offered().without(row.refuse);
    rig.device.negotiate(features).unwrap();
    let mut backend = ram_disk();

    let answer = rig.run(&row.posted, |request| backend.execute(request));

    let (written, writable) = (row.written(), row.writable(BACKGROUND));
    assert_eq!(Answer { error: answer.error, written, writable }, answer);
    assert_eq!(row.status, answer.status());
    assert!(backend.content() == row.disk_after(), "the disk is not as expected");
    if let Some(error) = answer.error {
        assert_eq!(error.status().map(|status| status as u8), row.status);
        assert!(!error.to_string().is_empty());
    } else {
        assert_eq!(row.status, OK, "an error status needs a reason");
    }

    // The next valid request works.
    let answer = rig.run(&read(16, 4096), |request| backend.execute(request));
    assert_eq!((answer.status(), answer.data()), (OK, &row.disk_after()[16 * 512..24 * 512]));
}

fn ram_disk() -> Memory {
    let mut backend = Memory::new(CAPACITY).unwrap();
    backend.content_mut().copy_from_slice(&disk_content(CAPACITY));
    backend
}

/// The guest causes this race itself. It may get any mix of the two sectors, but nothing else may
/// change.
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
            let _ = driver.publish(); // neither side sleeps
            assert!(device_queue.pop(slot.chain_mut()).unwrap());
            let Started::Pending(request) = slot.begin(&device) else {
                panic!("reading one sector must be accepted")
            };
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
        assert!([disk(0, 1)[at], disk(1, 1)[at]].contains(byte), "byte {at} comes from neither sector");
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
    assert!(!is_durable(&first), "the request was already in flight");
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

/// For each chain, [`Rig`] checks the kick, the single completion and the interrupt.
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

    // Data that was read before the error came from the disk, and is counted.
    let answer = rig.run(&read(0, 1024), |mut request| {
        request.put_data(&disk(0, 1));
        request.finish(eio())
    });
    assert_eq!((answer.written, answer.status()), (513, IOERR));
    assert_eq!(answer.data(), [disk(0, 1), vec![BACKGROUND; 512]].concat());
}

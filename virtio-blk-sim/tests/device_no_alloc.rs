//! Requests are parsed, executed and completed without any allocation, once the slots have grown.

#[path = "support/counting.rs"]
mod counting;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use aio::{AioContext, MonitorKind};
use virtio_blk_sim::blk::backend::{Backend, FileImage, Memory, Null};
use virtio_blk_sim::blk::device::{
    BlockDevice, DeviceConfig, FinishedRequest, Operation, PendingRequest, RequestSlot, Started,
};
use virtio_blk_sim::memory::{GuestAddress, GuestRam};
use virtio_blk_sim::virtqueue::{DeviceQueue, DriverQueue, QueueConfig};
use vm_memory::Bytes;

const CAPACITY_SECTORS: u64 = 64;
const DATA: GuestAddress = GuestAddress(0x1_0000);
const STATUS: GuestAddress = GuestAddress(0x8800);

/// Request type, and the number of readable and of writable data bytes between header and status.
const REQUESTS: [(u32, u32, u32); 8] = [
    (0, 0, 4096),  // in
    (1, 4096, 0),  // out
    (4, 0, 0),     // flush
    (8, 0, 20),    // get id
    (11, 16, 0),   // discard of no sectors
    (13, 32, 0),   // write zeroes of no sectors, twice
    (1, 100, 0),   // refused
    (99, 0, 4096), // refused
];

fn allocations_of_1000_rounds(mut execute: impl FnMut(PendingRequest) -> FinishedRequest) -> u64 {
    let ram = GuestRam::new(1 << 20).unwrap();
    let memory = ram.map().unwrap();
    let config = QueueConfig::at(GuestAddress(0), 64);
    let mut driver = DriverQueue::new(memory.clone(), config).unwrap();
    let mut queue = DeviceQueue::new(ram.memory().clone(), config).unwrap();
    let device = BlockDevice::new(DeviceConfig::new(CAPACITY_SECTORS)).unwrap();
    device.negotiate(device.offered()).unwrap();
    let mut slot = Some(RequestSlot::new(queue.new_chain()));
    let mut round = || {
        for (number, (kind, out, into)) in REQUESTS.into_iter().enumerate() {
            let header = GuestAddress(0x8000 + number as u64 * 16);
            memory.write_obj(kind, header).unwrap();
            // Data in two buffers, so that an iovec array is needed.
            let (first, rest) = (DATA, GuestAddress(DATA.0 + 8));
            let readable = [(header, 16), (first, 8), (rest, out.saturating_sub(8))];
            let writable = [(first, 8), (rest, into.saturating_sub(8)), (STATUS, 1)];
            let readable = if out > 0 { &readable[..] } else { &readable[..1] };
            let writable = if into > 0 { &writable[..] } else { &writable[2..] };
            driver.add(readable, writable).unwrap().unwrap();
            let _ = driver.publish();
            let mut empty = slot.take().unwrap();
            assert!(queue.pop(empty.chain_mut()).unwrap());
            let finished = match empty.begin(&device) {
                Started::Pending(request) => execute(request),
                Started::Finished(finished) => finished,
            };
            assert_eq!(finished.error().is_some(), number >= 6);
            queue.push(finished.head(), finished.written()).unwrap();
            let _ = queue.publish();
            slot = Some(finished.into_slot());
            assert!(driver.pop_used().unwrap().is_some());
            let status: u8 = memory.read_obj(STATUS).unwrap();
            assert_eq!(status == 0, number < 6, "request {number} has status {status}");
        }
    };
    // In the first rounds the slot's vectors grow.
    round();
    round();
    let before = counting::allocations();
    for _ in 0..1000 {
        round();
    }
    counting::allocations() - before
}

#[test]
fn requests_allocate_nothing() {
    let null = Null::default();
    assert_eq!(allocations_of_1000_rounds(|request| null.execute(request)), 0);

    let mut memory = Memory::new(CAPACITY_SECTORS).unwrap();
    assert_eq!(allocations_of_1000_rounds(|request| memory.execute(request)), 0);

    let path = std::env::temp_dir().join(format!("virtio-blk-sim-no-alloc-{}.img", std::process::id()));
    std::fs::write(&path, [0; CAPACITY_SECTORS as usize * 512]).unwrap();
    let file = FileImage::open(&path, false, false);
    // The file can be removed, whether or not it was opened.
    std::fs::remove_file(&path).unwrap();
    let file = file.unwrap();
    // A flush that reaches the disk takes milliseconds, so only ten of them are executed.
    let mut flushes = 0;
    let allocations = allocations_of_1000_rounds(|request| {
        if matches!(request.operation(), Operation::Flush) {
            flushes += 1;
            if flushes > 10 {
                return request.finish(Ok(()));
            }
        }
        file.execute(request)
    });
    assert_eq!(allocations, 0);
    if let Some(allocations) = inline_allocations(Arc::new(file)) {
        assert_eq!(allocations, 0);
    } else {
        println!("skipped: the machine is too busy for inline calls");
    }
}

/// The allocations of an engine that reads and writes a file in the page cache, with one system
/// call for each request. `None` if calls took too long each time this was tried, because the
/// machine was busy.
fn inline_allocations(file: Arc<FileImage>) -> Option<u64> {
    for _ in 0..20 {
        let context = AioContext::builder().monitor(MonitorKind::Epoll).build().unwrap();
        let later: Rc<RefCell<Vec<FinishedRequest>>> = Rc::default();
        let finished = Rc::clone(&later);
        let done = Rc::new(move |_: &AioContext, batch: &mut Vec<_>| finished.borrow_mut().append(batch));
        let engine = Backend::File(Arc::clone(&file)).attach(&context, done).unwrap();
        let mut transfers = 0;
        let allocations = allocations_of_1000_rounds(|request| {
            if !matches!(request.operation(), Operation::In { .. } | Operation::Out { .. }) {
                return request.finish(Ok(()));
            }
            transfers += 1;
            let mut answer = engine.submit(request);
            engine.commit(|finished| answer = Some(finished));
            while answer.is_none() {
                context.poll(true).unwrap();
                answer = later.borrow_mut().pop();
            }
            answer.unwrap()
        });
        // The first write finds out whether the file system has RWF_NOWAIT.
        let calls = engine.submit_calls();
        if engine.stalls() == 0 && later.borrow().is_empty() && calls <= transfers + 1 {
            assert!(calls >= transfers, "{calls} calls for {transfers} transfers");
            return Some(allocations);
        }
    }
    None
}

//! The hot path of both halves of the virtqueue allocates nothing, once the vectors have grown.

#[path = "support/counting.rs"]
mod counting;

use virtio_blk_sim::memory::{GuestAddress, GuestRam};
use virtio_blk_sim::virtqueue::{DeviceQueue, DriverQueue, QueueConfig};
use vm_memory::Bytes;

#[test]
fn pop_push_and_publish_allocate_nothing() {
    let ram = GuestRam::new(1 << 20).unwrap();
    let config = QueueConfig::at(GuestAddress(0), 128);
    let mut driver = DriverQueue::new(ram.map().unwrap(), config).unwrap();
    let mut device = DeviceQueue::new(ram.memory().clone(), config).unwrap();
    let mut chains: Vec<_> = (0..8).map(|_| device.new_chain()).collect();
    let header = [(GuestAddress(0x8000), 16)];
    let data: Vec<_> = (0..60).map(|page| (GuestAddress(0x1_0000 + page * 0x1000), 0x1000)).collect();
    let mut iovecs = Vec::with_capacity(64);
    let mut served = 0;
    let mut round = || {
        for slot in 0..8 {
            let table = GuestAddress(0xa000 + slot * 0x400);
            let added = match slot % 2 {
                0 => driver.add(&header, &data[..2]),
                _ => driver.add_indirect(table, &header, &data),
            };
            added.unwrap().unwrap();
        }
        assert!(driver.publish());
        device.disable_kicks();
        for chain in &mut chains {
            assert!(device.pop(chain).unwrap());
            let mut bytes = [0; 16];
            assert_eq!(chain.readable().copy_to(0, &mut bytes), 16);
            iovecs.clear();
            chain.writable().slice_into(100, 5000, &mut iovecs);
            assert_eq!(iovecs.len(), 2);
        }
        for chain in &chains {
            device.push(chain.head(), 0).unwrap();
            served += 1;
        }
        assert!(device.publish());
        assert!(!device.enable_kicks());
        while driver.pop_used().unwrap().is_some() {}
        assert!(!driver.enable_interrupts());
    };
    // In the first rounds every slot grows to its largest chain.
    round();
    round();
    let before = counting::allocations();
    for _ in 0..1000 {
        round();
    }
    assert_eq!(counting::allocations() - before, 0);
    assert_eq!(served, 8 * 1002);
}

/// A chain that cannot be served must not cost more than others do: its descriptors are read again,
/// to find its status.
#[test]
fn refusing_a_chain_allocates_nothing() {
    const LAST: u64 = 1023;
    let ram = GuestRam::new(1 << 20).unwrap();
    let memory = ram.map().unwrap();
    let config = QueueConfig::at(GuestAddress(0), 1024);
    let mut driver = DriverQueue::new(memory.clone(), config).unwrap();
    let mut device = DeviceQueue::new(ram.memory().clone(), config).unwrap();
    let mut chain = device.new_chain();
    let (table, buffer) = (GuestAddress(0x1_0000), (GuestAddress(0x2_0000), 1));
    let mut round = || {
        driver.add_indirect(table, &[], &[buffer; LAST as usize + 1]).unwrap().unwrap();
        // The last descriptor of the table points behind its end.
        let flags_and_next = (3_u32 | 2000 << 16).to_le();
        memory.write_obj(flags_and_next, GuestAddress(table.0 + LAST * 16 + 12)).unwrap();
        let _ = driver.publish();
        assert!(device.pop(&mut chain).unwrap_err().is_of_one_chain());
        device.push(chain.head(), 0).unwrap();
        let _ = device.publish();
        assert!(driver.pop_used().unwrap().is_some());
    };
    round();
    round();
    let before = counting::allocations();
    (0..100).for_each(|_| round());
    assert_eq!(counting::allocations() - before, 0);
}

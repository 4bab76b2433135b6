//! Queues that must not be enabled (cases 31 to 33), and queues that continue where another stopped.

use super::support::*;
use crate::virtqueue::error::RingPart;

fn refused(config: QueueConfig) -> QueueError {
    let ram = three_regions();
    let before = snapshot(ram.memory());
    let error = DeviceQueue::new(ram.memory().clone(), config).expect_err("this queue must be refused");
    let of_driver = DriverQueue::new(ram.memory().clone(), config).expect_err("this queue must be refused");
    assert_eq!(error, of_driver, "both halves have one layout");
    assert_eq!(changed(&before, &snapshot(ram.memory())), NOTHING, "a refused queue wrote to guest memory");
    error
}

/// 8 entries: a table of 128 bytes, an avail ring of 22, a used ring of 70.
fn good() -> QueueConfig {
    QueueConfig {
        size: 8,
        desc_table: GuestAddress(0x1000),
        avail_ring: GuestAddress(0x2000),
        used_ring: GuestAddress(0x3000),
        event_idx: false,
        indirect: false,
    }
}

pub(super) fn a_ring_outside_memory_is_refused() {
    use RingPart::{AvailRing, DescriptorTable, UsedRing};
    // In the hole, at the very end, over the end of a region, and where the address wraps.
    for at in [0x5_0000, HIGH_END, MIDDLE_END - 16, u64::MAX - 15] {
        let addr = GuestAddress(at);
        let config = QueueConfig { desc_table: addr, ..good() };
        assert_eq!(refused(config), QueueError::RingUnmapped { part: DescriptorTable, addr: at, len: 128 });
        let config = QueueConfig { avail_ring: addr, ..good() };
        assert_eq!(refused(config), QueueError::RingUnmapped { part: AvailRing, addr: at, len: 22 });
        let config = QueueConfig { used_ring: addr, ..good() };
        assert_eq!(refused(config), QueueError::RingUnmapped { part: UsedRing, addr: at, len: 70 });
    }
    // From one region into the next: contiguous for the guest, two mappings for us.
    let config = QueueConfig { used_ring: GuestAddress(LOW_END - 4), ..good() };
    assert!(matches!(refused(config), QueueError::RingUnmapped { part: UsedRing, .. }));
}

pub(super) fn a_ring_may_end_where_memory_ends() {
    let ram = three_regions();
    let config = QueueConfig {
        desc_table: GuestAddress(LOW_END - 128),
        avail_ring: GuestAddress(MIDDLE_END - 22),
        used_ring: GuestAddress(HIGH_END - 72),
        ..good()
    };
    assert!(DeviceQueue::new(ram.memory().clone(), config).is_ok());
    let config = QueueConfig { used_ring: GuestAddress(HIGH_END - 68), ..config };
    assert!(matches!(refused(config), QueueError::RingUnmapped { .. }), "avail_event is part of the ring");
}

pub(super) fn a_misaligned_ring_is_refused() {
    for (config, part, addr, align) in [
        (QueueConfig { desc_table: GuestAddress(0x1008), ..good() }, RingPart::DescriptorTable, 0x1008, 16),
        (QueueConfig { avail_ring: GuestAddress(0x2001), ..good() }, RingPart::AvailRing, 0x2001, 2),
        (QueueConfig { used_ring: GuestAddress(0x3002), ..good() }, RingPart::UsedRing, 0x3002, 4),
    ] {
        assert_eq!(refused(config), QueueError::Misaligned { part, addr, align });
    }
}

pub(super) fn a_region_at_an_odd_guest_address_cannot_hold_rings() {
    // Guest address 16 is host address 8 of a page: aligned for the guest, not for our atomics.
    let ram = GuestRam::with_regions(&[(GuestAddress(8), 0x4000)]).unwrap();
    let config = QueueConfig::at(GuestAddress(16), 8);
    let error = DeviceQueue::new(ram.memory().clone(), config).unwrap_err();
    assert!(matches!(error, QueueError::Misaligned { part: RingPart::DescriptorTable, .. }));
}

pub(super) fn a_bad_size_is_refused() {
    for size in [0, 3, 7, 9, 1000, 32767, 32769, 65535] {
        assert_eq!(refused(QueueConfig { size, ..good() }), QueueError::Size { size });
    }
}

#[test]
fn every_power_of_two_works() {
    let ram = GuestRam::new(2 << 20).unwrap();
    for shift in 0..=15 {
        let size = 1 << shift;
        let config = QueueConfig::at(GuestAddress(0), size);
        let (mut driver, mut device) = pair(&ram, config);
        let buffer = GuestAddress(QueueConfig::bytes(size).next_multiple_of(64));
        // Fill the queue, then one more must not fit.
        for _ in 0..size {
            assert!(driver.add(&[], &[(buffer, 1)]).unwrap().is_some());
        }
        assert_eq!(driver.add(&[], &[(buffer, 1)]), Ok(None));
        assert!(driver.publish());
        let mut chain = device.new_chain();
        for popped in 0..size {
            assert_eq!(device.in_flight(), popped);
            assert_eq!(device.pop(&mut chain), Ok(true));
        }
        assert_eq!(device.pop(&mut chain), Ok(false));
        for head in 0..size {
            device.push(head, 1).unwrap();
        }
        assert!(device.publish());
        for head in 0..size {
            assert_eq!(driver.pop_used(), Ok(Some((head, 1))));
        }
        assert_eq!(driver.pop_used(), Ok(None));
        assert_eq!((driver.free_descriptors(), device.in_flight()), (size, 0));
    }
}

#[test]
fn a_drained_queue_is_resumed_where_it_stopped() {
    let ram = three_regions();
    for event_idx in [true, false] {
        let config = QueueConfig { event_idx, ..QueueConfig::at(GuestAddress(RINGS), 4) };
        let (mut driver, mut device) = pair(&ram, config);
        let mut served = 0;
        // More rounds than the 16-bit indices have room for would take long here; round_trip starts
        // near the wrap.
        for _ in 0..50 {
            for _ in 0..3 {
                driver.add(&[], &[(GuestAddress(0x8000), 4)]).unwrap().unwrap();
            }
            let _ = driver.publish();
            let mut chain = device.new_chain();
            while device.pop(&mut chain).unwrap() {
                device.push(chain.head(), 4).unwrap();
            }
            let _ = device.publish();
            while driver.pop_used().unwrap().is_some() {
                served += 1;
            }
            driver.disable_interrupts();
            assert_eq!(device.next_avail(), device.next_used());
            device =
                DeviceQueue::resume(ram.memory().clone(), config, device.next_avail(), device.next_used())
                    .unwrap();
            assert!(!device.enable_kicks());

            // The new device does not know whether the driver was notified of everything, so the
            // first batch interrupts.
            driver.add(&[], &[(GuestAddress(0x8000), 4)]).unwrap().unwrap();
            assert!(driver.publish(), "the new device asked for kicks");
            let chain = pop_one(&mut device);
            device.push(chain.head(), 4).unwrap();
            assert!(device.publish());
            assert!(driver.pop_used().unwrap().is_some());
            served += 1;
        }
        assert_eq!(served, 200);
    }
}

#[test]
fn a_driver_survives_a_device_that_answers_nonsense() {
    let ram = three_regions();
    let config = QueueConfig::at(GuestAddress(RINGS), 8);
    let buffers = [(GuestAddress(0x8000), 10), (GuestAddress(0x9000), 6)];
    let fresh = || {
        let mut driver = DriverQueue::new(ram.map().unwrap(), config).unwrap();
        let first = driver.add(&[], &buffers).unwrap().unwrap();
        let second = driver.add(&buffers, &[]).unwrap().unwrap();
        let _ = driver.publish();
        (driver, u32::from(first), u32::from(second))
    };
    let (mut driver, first, second) = fresh();
    for to in [3, 9, 65535] {
        driver.overwrite_used(to, 0, first, 0);
        assert_eq!(driver.pop_used(), Err(QueueError::UsedIndex { from: 0, to, in_flight: 2 }));
    }
    // The second descriptor of the first chain is not a head; the others are not even in use.
    for head in [1, 3, 4, 7, 8, 65535, 65536, 65536 + first, u32::MAX] {
        let (mut driver, ..) = fresh();
        driver.overwrite_used(1, 0, head, 0);
        assert_eq!(driver.pop_used(), Err(QueueError::UsedHead { head }));
        assert_eq!(driver.in_flight(), 2);
    }
    let (mut driver, first, _) = fresh();
    driver.overwrite_used(1, 0, first, 17);
    let (head, written) = (first as u16, 17);
    assert_eq!(driver.pop_used(), Err(QueueError::UsedLength { head, written, writable: 16 }));
    driver.overwrite_used(1, 0, first, 16);
    assert_eq!(driver.pop_used(), Ok(Some((head, 16))));
    driver.overwrite_used(2, 1, first, 0);
    assert_eq!(driver.pop_used(), Err(QueueError::UsedHead { head: first }), "completed twice");
    driver.overwrite_used(2, 1, second, 0);
    assert_eq!(driver.pop_used(), Ok(Some((second as u16, 0))));
    assert_eq!((driver.in_flight(), driver.free_descriptors()), (0, 8));
}

#[test]
fn a_driver_refuses_chains_that_cannot_be() {
    let ram = three_regions();
    let config = QueueConfig::at(GuestAddress(RINGS), 4);
    let buffer = (GuestAddress(0x8000), 16);
    let table = GuestAddress(0x4000);
    let mut driver = DriverQueue::new(ram.map().unwrap(), config).unwrap();
    assert_eq!(driver.add(&[], &[]), Err(QueueError::EmptyChain));
    assert_eq!(driver.add_indirect(table, &[], &[]), Err(QueueError::EmptyChain));
    assert_eq!(driver.add_mixed(2, table, &[buffer; 2], &[]), Err(QueueError::EmptyChain));
    assert_eq!(driver.add_mixed(3, table, &[buffer; 2], &[]), Err(QueueError::EmptyChain));
    assert_eq!(driver.add(&[buffer; 3], &[buffer; 2]), Err(QueueError::ChainTooLong { limit: 4 }));
    let outside = GuestAddress(HIGH_END - 16);
    assert!(matches!(
        driver.add_indirect(outside, &[buffer; 2], &[]),
        Err(QueueError::IndirectUnmapped { .. })
    ));
    let config = QueueConfig { indirect: false, ..config };
    assert_eq!((driver.in_flight(), driver.free_descriptors()), (0, 4));
    let mut plain = DriverQueue::new(ram.map().unwrap(), config).unwrap();
    assert_eq!(plain.add_indirect(table, &[buffer], &[]), Err(QueueError::IndirectNotNegotiated));
}

//! A guest that is reset while requests are in flight, and one that needs a reset.

use std::time::Duration;

use virtio_blk_sim::blk::backend::{Backend, Delay};
use virtio_blk_sim::guest::kvm::{KvmError, KvmOptions};
use virtio_blk_sim::guest::{DriverError, GuestError, Pattern, Workload};
use virtio_blk_sim::virtqueue::Descriptor;
use vm_memory::Bytes;

use crate::rig::{Loop, Rig, arms, attached, kvm, memory, mix, shape};

#[test]
fn a_guest_reset_with_requests_in_flight_starts_again() {
    const DEPTH: u16 = 8;
    if !kvm() {
        return;
    }
    for arm in arms() {
        for drain in [true, false] {
            let mut rig = Rig::new(shape(DEPTH), &KvmOptions::default(), arm.1);
            let device = Loop::new(arm);
            for _ in 0..2 {
                // Long enough that all requests are in flight at once, and that the drain has to
                // wait.
                let delay = Delay { latency: Duration::from_millis(50), spin: false };
                device.attach(&rig, Backend::Delay(delay), None);
                let workload = Workload { pattern: Pattern::RandRead, verify: false, ..mix(DEPTH, 1000) };
                let running = rig.start(workload);
                while device.in_flight() < DEPTH {
                    std::thread::yield_now();
                }
                rig.wires.stop().unwrap();
                match rig.finish(running) {
                    Err(GuestError::Kvm(KvmError::Stopped { in_flight })) => {
                        assert!(in_flight > 0, "{arm:?}")
                    }
                    other => panic!("{arm:?}: {other:?}"),
                }
                // The guest cannot continue without a reset.
                let again = rig.start(mix(1, 1));
                assert!(rig.finish(again).is_err(), "{arm:?}");
                if drain {
                    // The requests complete, although the guest is about to be reset.
                    assert!(device.stop().stats.requests >= u64::from(DEPTH), "{arm:?}");
                } else {
                    device.drop_queue();
                }
                rig.guest().reset().unwrap();
                device.attach(&rig, memory(), None);
                let report = rig.run(mix(DEPTH, 300));
                assert_eq!((report.requests, device.queue_stats().requests), (300, 300), "{arm:?} {drain}");
                device.stop();
                rig.guest().reset().unwrap();
            }
        }
    }
}

#[test]
fn a_misbehaving_guest_gets_a_configuration_interrupt() {
    if !kvm() {
        return;
    }
    for arm in arms() {
        let (mut rig, device) = attached(arm, shape(4), &KvmOptions::default(), memory());
        assert_eq!(rig.run(mix(4, 40)).requests, 40);
        // A next descriptor outside the queue. The guest writes only the addresses, so the wrong
        // flags and the wrong next stay.
        let ports = rig.transport.guest().unwrap();
        let wrong = Descriptor { addr: 0, len: 16, flags: Descriptor::NEXT, next: u16::MAX };
        for head in 0..u64::from(ports.queue.size) {
            let at = ports.queue.desc_table.0 + head * Descriptor::BYTES as u64;
            ports.memory.write_slice(&wrong.to_bytes(), vm_memory::GuestAddress(at)).unwrap();
        }
        let running = rig.start(mix(4, 40));
        let outcome = rig.finish(running);
        assert!(matches!(outcome, Err(GuestError::Driver(DriverError::NeedsReset))), "{arm:?}: {outcome:?}");
        assert!(device.with_queue(|queue| queue.broken()).is_some(), "{arm:?}");
    }
}

/// The chain is returned without a status, because there is no place for it.
#[test]
fn a_chain_that_cannot_be_served_does_not_break_the_queue() {
    if !kvm() {
        return;
    }
    for arm in arms() {
        let (mut rig, device) = attached(arm, shape(4), &KvmOptions::default(), memory());
        assert_eq!(rig.run(mix(4, 40)).requests, 40);
        // The length of an indirect table must be a multiple of 16.
        let ports = rig.transport.guest().unwrap();
        let wrong = Descriptor { addr: 0, len: 7, flags: Descriptor::INDIRECT, next: 0 };
        for head in 0..u64::from(ports.queue.size) {
            let at = ports.queue.desc_table.0 + head * Descriptor::BYTES as u64;
            ports.memory.write_slice(&wrong.to_bytes(), vm_memory::GuestAddress(at)).unwrap();
        }
        let running = rig.start(mix(4, 40));
        let outcome = rig.finish(running);
        assert!(matches!(outcome, Err(GuestError::Status { status: 0xff, .. })), "{arm:?}: {outcome:?}");
        assert_eq!(device.with_queue(|queue| queue.broken()), None, "{arm:?}");
    }
}

//! Interrupts that come while they are masked: by the guest's processor, and by taking the irqfd away.

use virtio_blk_sim::guest::kvm::{KvmOptions, Line};

use crate::rig::{Loop, Rig, arms, kvm, memory, mix, shape};

#[test]
fn interrupts_masked_by_the_guest_are_taken_later() {
    if !kvm() {
        return;
    }
    for arm in arms() {
        for line in [Line::Msi, Line::Level] {
            let options = KvmOptions { line, ..KvmOptions::default() };
            let mut rig = Rig::new(shape(8), &options, arm.1);
            let device = Loop::new(arm);
            device.attach(&rig, memory(), None);
            // Long enough for the device to have answered before the guest sleeps.
            rig.guest().set_masked_turns(2000).unwrap();
            let report = rig.run(mix(8, 400));
            assert_eq!((report.requests, device.queue_stats().requests), (400, 400), "{arm:?} {line:?}");
        }
    }
}

#[test]
fn interrupts_masked_by_the_vmm_are_taken_later() {
    if !kvm() {
        return;
    }
    for arm in arms() {
        for line in [Line::Msi, Line::Level] {
            let options = KvmOptions { line, ..KvmOptions::default() };
            let mut rig = Rig::new(shape(8), &options, arm.1);
            let device = Loop::new(arm);
            device.attach(&rig, memory(), None);
            let running = rig.start(mix(8, 1000));
            let mut kept = 0;
            while !running.is_over() {
                rig.wires.mask().unwrap();
                // Until the device has signalled, or there is nothing any more. Everything waits for this interrupt then.
                while rig.counts().1 == 0 && !running.is_over() {
                    std::thread::yield_now();
                }
                kept += u64::from(rig.counts().1 != 0);
                rig.wires.unmask().unwrap();
                let before = device.queue_stats().requests;
                while device.queue_stats().requests < before + 20 && !running.is_over() {
                    std::thread::yield_now();
                }
            }
            let report = rig.finish(running).unwrap();
            assert_eq!((report.requests, device.queue_stats().requests), (1000, 1000), "{arm:?} {line:?}");
            assert!(kept >= 1, "{arm:?} {line:?}: {kept} interrupts waited in the irqfd");
        }
    }
}

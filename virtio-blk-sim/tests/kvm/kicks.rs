//! Unneeded kicks, and kicks while the ioeventfd is removed from KVM.

use virtio_blk_sim::guest::kvm::{Doorbell, KvmOptions};

use crate::rig::{arms, attached, kvm, memory, mix, shape};

#[test]
fn a_storm_of_kicks_without_suppression_completes_each_request_once() {
    const BURST: u32 = 100;
    if !kvm() {
        return;
    }
    for arm in arms() {
        let (mut rig, device) = attached(arm, shape(8), &KvmOptions::default(), memory());
        rig.guest().set_burst(BURST).unwrap();
        let report = rig.run(mix(8, 512));
        let stats = device.stats();
        assert_eq!((report.requests, device.queue_stats().requests), (512, 512), "{arm:?}");
        // At least one publication per eight requests, each with all of its kicks.
        assert!(
            report.kicks >= 64 * u64::from(BURST) && report.kicks.is_multiple_of(BURST.into()),
            "{report:?}"
        );
        assert_eq!(rig.wires.kick_returns(), 0, "{arm:?}");
        // Kicks are merged: there are no more dispatches than kicks.
        assert!(stats.notifier_dispatches <= report.kicks, "{arm:?}: {stats:?} {report:?}");
    }
}

#[test]
fn removing_and_restoring_an_ioeventfd_loses_no_kick() {
    if !kvm() {
        return;
    }
    // Counted over all arms, because the scheduling of this thread is not predictable.
    let (mut the_long_way, mut by_kvm) = (0, 0);
    for arm in arms() {
        for doorbell in [Doorbell::Pio, Doorbell::Mmio] {
            let options = KvmOptions { doorbell, ..KvmOptions::default() };
            let (mut rig, device) = attached(arm, shape(8), &options, memory());
            let running = rig.start(mix(8, 1500));
            while !running.is_over() {
                rig.wires.cut_kick().unwrap();
                // Wait until a kick has returned from KVM_RUN, or the run is over.
                let before = rig.wires.kick_returns();
                while rig.wires.kick_returns() == before && !running.is_over() {
                    std::thread::yield_now();
                }
                rig.wires.mend_kick().unwrap();
                // Wait for some requests, so that a kick goes through KVM.
                let before = device.queue_stats().requests;
                while device.queue_stats().requests < before + 20 && !running.is_over() {
                    std::thread::yield_now();
                }
            }
            let report = rig.finish(running).unwrap();
            assert_eq!((report.requests, device.queue_stats().requests), (1500, 1500), "{arm:?}");
            the_long_way += rig.wires.kick_returns();
            by_kvm += report.kicks - rig.wires.kick_returns();
        }
    }
    assert!(
        the_long_way > 0 && by_kvm > 0,
        "{the_long_way} kicks returned from KVM_RUN, {by_kvm} handled in KVM"
    );
}

#[test]
fn a_dropped_kick_is_found_when_the_ioeventfd_is_restored() {
    if !kvm() {
        return;
    }
    for arm in arms() {
        let (mut rig, device) = attached(arm, shape(4), &KvmOptions::default(), memory());
        // Wait until the look at the ring that every attach makes is over.
        while device.queue_stats().drains == 0 {
            std::thread::yield_now();
        }
        // Neither KVM nor the vCPU's thread passes kicks on.
        rig.wires.cut_kick().unwrap();
        rig.wires.ignore_returned_kicks(true);
        let running = rig.start(mix(4, 4));
        while rig.wires.kick_returns() == 0 {
            std::thread::yield_now();
        }
        assert_eq!(device.queue_stats().requests, 0, "{arm:?}: the doorbell was not signalled");
        rig.wires.mend_kick().unwrap();
        assert_eq!(rig.finish(running).unwrap().requests, 4, "{arm:?}");
    }
}

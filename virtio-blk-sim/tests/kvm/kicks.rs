//! Kicks that nobody asked for, and kicks while the ioeventfd is in other hands.

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
        // At least one publication for each eight requests, and all kicks of each were made.
        assert!(
            report.kicks >= 64 * u64::from(BURST) && report.kicks.is_multiple_of(BURST.into()),
            "{report:?}"
        );
        assert_eq!(rig.wires.kick_returns(), 0, "{arm:?}");
        // They coalesce: the loop never turns more often than it is kicked, its own wake-ups apart.
        assert!(stats.notifier_dispatches <= report.kicks, "{arm:?}: {stats:?} {report:?}");
    }
}

#[test]
fn an_ioeventfd_that_changes_hands_loses_no_kick() {
    if !kvm() {
        return;
    }
    // In all arms together: which way a kick takes is a matter of when this thread runs.
    let (mut the_long_way, mut by_kvm) = (0, 0);
    for arm in arms() {
        for doorbell in [Doorbell::Pio, Doorbell::Mmio] {
            let options = KvmOptions { doorbell, ..KvmOptions::default() };
            let (mut rig, device) = attached(arm, shape(8), &options, memory());
            let running = rig.start(mix(8, 1500));
            while !running.is_over() {
                rig.wires.cut_kick().unwrap();
                // Until a kick has come the long way, or there are none any more.
                let before = rig.wires.kick_returns();
                while rig.wires.kick_returns() == before && !running.is_over() {
                    std::thread::yield_now();
                }
                rig.wires.mend_kick().unwrap();
                // And until one has come the short way: some requests further.
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
    assert!(the_long_way > 0 && by_kvm > 0, "{the_long_way} kicks the long way, {by_kvm} by KVM");
}

#[test]
fn a_kick_that_nobody_took_is_found_by_the_ring_on_attach() {
    if !kvm() {
        return;
    }
    for arm in arms() {
        let (mut rig, device) = attached(arm, shape(4), &KvmOptions::default(), memory());
        // The look that a queue takes unasked when it is attached is over.
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
        assert_eq!(device.queue_stats().requests, 0, "{arm:?}: nobody has rung");
        rig.wires.mend_kick().unwrap();
        assert_eq!(rig.finish(running).unwrap().requests, 4, "{arm:?}");
    }
}

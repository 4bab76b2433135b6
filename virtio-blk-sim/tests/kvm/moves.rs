//! The device moves between event loops while its guest runs.

use virtio_blk_sim::blk::backend::Backend;
use virtio_blk_sim::blk::backend::Delay;
use virtio_blk_sim::guest::kvm::KvmOptions;
use virtio_blk_sim::guest::{Pattern, Workload};

use crate::rig::{Loop, Rig, arms, kvm, memory, mix, shape};
use std::time::Duration;

/// Moves the queue back and forth until the guest is done.
fn travel(backend: &Backend, workload: Workload, verified: bool) {
    let arms = arms();
    let mut total = 0;
    for (from, to) in arms.iter().zip(arms.iter().cycle().skip(1)) {
        // The reset method of the doorbell stays the same, so use one that both loops support.
        let mut rig = Rig::new(shape(workload.iodepth), &KvmOptions::default(), aio::Reset::Autoreset);
        let loops = [Loop::new(*from), Loop::new(*to)];
        loops[0].attach(&rig, backend.clone(), None);
        let running = rig.start(workload);
        let (mut moves, mut answered) = (0, 0);
        while !running.is_over() {
            let (here, there) = (&loops[moves % 2], &loops[(moves + 1) % 2]);
            // Some requests on each loop, so that the queue is busy when it is moved.
            while here.queue_stats().requests < 20 && !running.is_over() {
                std::thread::yield_now();
            }
            let stopped = here.stop();
            answered += stopped.stats.requests;
            there.attach(&rig, backend.clone(), Some(stopped));
            moves += 1;
        }
        let report = rig.finish(running).unwrap();
        answered += loops[moves % 2].queue_stats().requests;
        let what = format!("{from:?} {to:?} verified {verified}: {moves} moves, {answered} answered");
        assert_eq!(report.requests, answered, "{what}");
        total += moves;
    }
    assert!(total >= 1, "the queue never moved");
}

#[test]
fn a_device_moves_between_event_loops_while_its_guest_runs() {
    if kvm() {
        travel(&memory(), mix(8, 800), true);
    }
}

#[test]
fn a_device_moves_with_requests_in_flight() {
    if kvm() {
        let delay = Backend::Delay(Delay { latency: Duration::from_micros(500), spin: false });
        let workload = Workload { pattern: Pattern::RandRead, verify: false, ..mix(8, 400) };
        travel(&delay, workload, false);
    }
}

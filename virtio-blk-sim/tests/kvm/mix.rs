//! Verified reads and writes on every arm.

use aio::{Method, Reset};
use virtio_blk_sim::blk::device::Features;
use virtio_blk_sim::guest::kvm::{Doorbell, KvmOptions, KvmShape, Line};

use crate::rig::{Arm, TWO_ARMS, arms, attached, kvm, memory, mix, shape};

const DEPTHS: [u16; 3] = [1, 8, 64];

/// Runs `requests` requests and checks all counters.
fn check(arm: Arm, shape: KvmShape, options: &KvmOptions, requests: u64) {
    let (mut rig, device) = attached(arm, shape, options, memory());
    let before = (device.stats(), rig.guest().returns());
    let report = rig.run(mix(shape.slots, requests));
    let (queue, stats) = (device.queue_stats(), device.stats() - before.0);
    let returns = rig.guest().returns() - before.1;
    let (ioeventfd, irqfd) = rig.counts();
    let what = format!(
        "{arm:?} {shape:?} {options:?}: {} requests, {} kicks, {} interrupts, {returns} returns, {ioeventfd} and \
         {irqfd} in the eventfds, {queue:?} {stats:?}",
        report.requests, report.kicks, report.interrupts
    );
    // Exactly once: the guest checks that each head was in flight, the host that each entry
    // completed once.
    assert_eq!((report.requests, queue.requests), (requests, requests), "{what}");
    assert_eq!(report.latency_ns.len(), requests, "{what}");
    assert!((1..=requests).contains(&report.kicks) && report.interrupts >= 1, "{what}");
    // KVM handled every kick; none returned from KVM_RUN.
    assert_eq!(rig.wires.kick_returns(), 0, "{what}");
    // KVM resets the irqfd itself.
    assert_eq!(irqfd, 0, "{what}");
    match options.line {
        // KVM_RUN returned only once per batch.
        Line::Msi => {
            assert!(returns <= requests.div_ceil(256) + 1, "{what}");
            assert!(report.interrupts <= queue.interrupts, "{what}");
        }
        // KVM_RUN also returned for each read of the ISR register.
        Line::Level => assert!(returns >= report.interrupts, "{what}"),
    }
    match arm.1 {
        Reset::Classic | Reset::AutoresetBy(Method::Read) => assert!(stats.syscalls_read >= 1, "{what}"),
        _ => assert_eq!(stats.syscalls_read, 0, "{what}"),
    }
    if arm.1 == Reset::AutoresetBy(Method::Edge) {
        // Nothing has read the eventfd, so its count is the number of the guest's kicks.
        assert_eq!(ioeventfd, report.kicks, "{what}");
    }
}

fn product(each: impl Fn(usize) -> u64) {
    let arms = arms();
    let cases = arms.iter().flat_map(|arm| DEPTHS.map(|depth| (*arm, depth)));
    let total = arms.len() * DEPTHS.len();
    for (arm, depth) in cases {
        check(arm, shape(depth), &KvmOptions::default(), each(total));
    }
}

#[test]
fn a_hundred_thousand_requests_over_all_arms_complete_exactly_once() {
    if kvm() {
        product(|cases| 100_000_u64.div_ceil(cases as u64));
    }
}

/// Takes minutes if KVM emulates the guest:
/// `cargo test --release -p virtio-blk-sim --test kvm -- --ignored --nocapture`
/// `cargo test --release -p virtio-blk-sim --test kvm -- --ignored --nocapture`
#[test]
#[ignore = "takes minutes if KVM emulates the guest"]
fn a_hundred_thousand_requests_on_each_arm_complete_exactly_once() {
    if kvm() {
        product(|_| 100_000);
    }
}

#[test]
fn indices_wrap_in_the_guest_as_in_the_device() {
    if kvm() {
        // More than 2^16 requests on one ring. The blocks are small, so that the host's checks do
        // not dominate the run time.
        let shape = KvmShape { block_bytes: 512, ..shape(64) };
        check(TWO_ARMS[1], shape, &KvmOptions::default(), 66_000);
    }
}

#[test]
fn every_doorbell_and_interrupt_with_and_without_event_idx() {
    if !kvm() {
        return;
    }
    for arm in TWO_ARMS {
        for features in [Features::EVENT_IDX, Features::NONE] {
            for doorbell in [Doorbell::Pio, Doorbell::Mmio] {
                for line in [Line::Msi, Line::Level] {
                    for depth in [1, 16] {
                        let shape = KvmShape { features, ..shape(depth) };
                        let options = KvmOptions { doorbell, line, queue: 3, ..KvmOptions::default() };
                        check(arm, shape, &options, 300);
                    }
                }
            }
        }
    }
}

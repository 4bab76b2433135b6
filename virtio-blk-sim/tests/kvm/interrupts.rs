//! Interrupts that arrive while they are masked: in the guest's processor, or by removing the irqfd
//! from KVM.

use std::sync::Arc;

use aio::MonitorKind;
use virtio_blk_sim::blk::backend::{Backend, FileImage};
use virtio_blk_sim::guest::kvm::{KvmOptions, Line};

use crate::rig::{SECTORS, arms, attached, kvm, memory, mix, shape};

#[test]
fn interrupts_masked_by_the_guest_are_taken_later() {
    if !kvm() {
        return;
    }
    for arm in arms() {
        for line in [Line::Msi, Line::Level] {
            let options = KvmOptions { line, ..KvmOptions::default() };
            let (mut rig, device) = attached(arm, shape(8), &options, memory());
            // Long enough that the device completes requests before the guest sleeps.
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
    // Counted over all arms, because the scheduling of this thread is not predictable.
    let mut kept = 0;
    for arm in arms() {
        for line in [Line::Msi, Line::Level] {
            let options = KvmOptions { line, ..KvmOptions::default() };
            let (mut rig, device) = attached(arm, shape(8), &options, memory());
            let running = rig.start(mix(8, 1000));
            while !running.is_over() {
                rig.wires.mask().unwrap();
                // Wait until the device has signalled the irqfd. That happens soon, because the
                // guest waits for this interrupt; but a level may have been raised already.
                for _ in 0..20_000 {
                    if rig.counts().1 != 0 || running.is_over() {
                        break;
                    }
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
        }
    }
    assert!(kept >= 1, "no interrupt was signalled while the irqfd was masked");
}

/// Pool threads complete requests one by one, at any time. One may complete just after the guest's
/// handler has seen the last entry of the used ring, and before it enables interrupts.
#[test]
fn every_late_completion_is_interrupted_for() {
    if !kvm() {
        return;
    }
    let path = std::env::temp_dir().join(format!("virtio-blk-sim-kvm-{}.img", std::process::id()));
    std::fs::write(&path, vec![0; SECTORS as usize * 512]).unwrap();
    // With io_uring, the ring would execute the requests.
    for arm in arms().into_iter().filter(|(kind, _)| *kind != MonitorKind::IoUring) {
        let image = Arc::new(FileImage::open(&path, false, false).unwrap());
        let (mut rig, device) = attached(arm, shape(16), &KvmOptions::default(), Backend::File(image));
        let report = rig.run(mix(16, 3000));
        let stats = device.queue_stats();
        assert_eq!((report.requests, stats.requests), (3000, 3000), "{arm:?}");
        // Check that they do: more interrupts than queue fills.
        assert!(stats.interrupts > 3000 / 16, "{arm:?}: {stats:?}");
    }
    std::fs::remove_file(path).unwrap();
}

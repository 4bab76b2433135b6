//! Tests of the machine itself: what it refuses, which kicks its ioeventfd matches, and how its
//! program reacts to a faulty device. Tests with a correct device are in `tests/kvm`.

use std::os::fd::AsFd;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use aio::{AioContext, EventNotifier, IoThread, Reset};
use vm_memory::GuestAddress;

use super::*;
use crate::blk::backend::{Backend, Delay};
use crate::blk::device::{BlockDevice, DeviceConfig, Features};
use crate::guest::Pattern;
use crate::queue::Kick;

const SECTORS: u64 = 2048;
const SHAPE: KvmShape = KvmShape { features: Features::EVENT_IDX, slots: 4, block_bytes: 512 };
/// A guard only: a guest that makes no progress for this long has lost an event.
const LONG: Duration = Duration::from_secs(120);

/// Returns true if KVM can be used; prints the reason if not.
fn kvm() -> bool {
    let there = KvmGuest::probe(Path::new("/dev/kvm"));
    if let Err(why) = &there {
        eprintln!("skipped: {why}");
    }
    there.is_ok()
}

fn transport(shape: KvmShape) -> Arc<SimTransport> {
    let device = BlockDevice::new(DeviceConfig::new(SECTORS)).unwrap();
    Arc::new(shape.transport(device, Reset::Autoreset).unwrap())
}

fn device(transport: &Arc<SimTransport>, backend: Backend) -> IoThread {
    let transport = Arc::clone(transport);
    let attach = move |context: &AioContext| transport.attach(context, backend);
    IoThread::spawn_with("device", AioContext::builder(), attach).unwrap()
}

fn reads(stop: Stop) -> Workload {
    Workload { pattern: Pattern::RandRead, iodepth: 4, stop, verify: false, seed: 3 }
}

/// Runs a guest on a separate thread.
fn start(mut guest: KvmGuest, workload: Workload) -> Receiver<Result<GuestReport, GuestError>> {
    let (done, outcome) = channel();
    std::thread::spawn(move || {
        let _ = done.send(guest.run(&workload));
    });
    outcome
}

#[test]
fn an_unusable_kvm_device_is_reported() {
    for (path, words) in [
        ("/nonexistent/kvm", "/nonexistent/kvm cannot be opened: No such file or directory"),
        ("/dev/null", "/dev/null is not a usable KVM device: it lacks version 12 of the KVM interface"),
        ("/", "/ cannot be opened: Is a directory"),
    ] {
        let error = KvmGuest::probe(Path::new(path)).unwrap_err().to_string();
        assert!(error.starts_with(words), "{error}");
        assert!(!error.contains('\n'), "{error}");
    }
    let options = KvmOptions { device: "/nonexistent/kvm".into(), ..KvmOptions::default() };
    let error = KvmGuest::new(&transport(SHAPE), SHAPE, &options).unwrap_err();
    assert!(matches!(error, KvmError::Open { .. }), "{error}");
}

#[test]
fn a_transport_of_another_shape_is_refused() {
    if !kvm() {
        return;
    }
    let larger = KvmShape { block_bytes: 1 << 20, ..SHAPE };
    let deeper = KvmShape { slots: 64, ..SHAPE };
    for (made, asked) in [(SHAPE, larger), (deeper, SHAPE)] {
        let error = KvmGuest::new(&transport(made), asked, &KvmOptions::default()).unwrap_err();
        assert!(matches!(error, KvmError::Shape(_)), "{error}");
    }
    let device = BlockDevice::new(DeviceConfig::new(SECTORS)).unwrap();
    let vast = KvmShape { slots: 8192, block_bytes: 1 << 20, ..SHAPE };
    let error = vast.transport(device, Reset::Autoreset).unwrap_err();
    assert!(error.to_string().contains("do not fit below 3 GiB"), "{error}");
}

#[test]
fn the_program_is_one_object_with_its_entrances_inside() {
    let code = program::code();
    assert!(code.len() <= 4096, "the program has {} bytes; it must fit in a page", code.len());
    let entrances = [
        Entrance::Start,
        Entrance::QueueInterrupt,
        Entrance::ConfigInterrupt,
        Entrance::SpuriousInterrupt,
        Entrance::Count,
    ];
    let offsets = entrances.map(Entrance::offset);
    assert!(offsets.is_sorted_by(|a, b| a < b), "{offsets:?}");
    assert!(offsets.iter().all(|offset| *offset < code.len() as u64), "{offsets:?}");
    // Check some known byte sequences: hlt between sti and cli, and the three iretq.
    let times = |bytes: &[u8]| code.windows(bytes.len()).filter(|window| *window == bytes).count();
    assert_eq!((times(&[0xfb, 0xf4, 0xfa]), times(&[0x48, 0xcf])), (1, 3));
    assert_eq!(code[offsets[3] as usize..][..2], [0x48, 0xcf], "the spurious interrupt just returns");
}

#[test]
fn a_datamatch_matches_its_own_queue_only() {
    if !kvm() {
        return;
    }
    for doorbell in [Doorbell::Pio, Doorbell::Mmio] {
        let transport = transport(SHAPE);
        let options = KvmOptions { doorbell, queue: 2, ..KvmOptions::default() };
        let mut guest = KvmGuest::new(&transport, SHAPE, &options).unwrap();
        // The ioeventfd of queue 1, at the same address.
        let other = EventNotifier::new(Reset::Classic).unwrap();
        let fd = wires::for_kvm(other.as_fd()).unwrap();
        match doorbell {
            Doorbell::Pio => {
                let port = kvm_ioctls::IoEventAddress::Pio(KICK_PORT.into());
                guest.wires.vm.fd().register_ioevent(&fd, &port, 1_u16).unwrap();
            }
            Doorbell::Mmio => {
                let address = kvm_ioctls::IoEventAddress::Mmio(KICK_MMIO_ADDRESS);
                guest.wires.vm.fd().register_ioevent(&fd, &address, 1_u32).unwrap();
            }
        }
        let _device = device(&transport, Backend::memory(SECTORS).unwrap());
        assert_eq!(guest.run(&reads(Stop::Requests(40))).unwrap().requests, 40);
        assert!(!other.test_and_clear().unwrap(), "{doorbell:?}: queue 1 was not kicked");
        assert_eq!(guest.wires.kick_returns(), 0);
        // A kick for queue 1 goes to the other eventfd. Our queue is not kicked; it continues when
        // mend_kick signals the doorbell.
        guest.control(|control| control.kick_value = 1).unwrap();
        let wires = Arc::clone(guest.wires());
        let outcome = start(guest, reads(Stop::Requests(4)));
        while !other.test_and_clear().unwrap() {
            std::thread::yield_now();
        }
        wires.cut_kick().unwrap();
        wires.mend_kick().unwrap();
        assert_eq!(outcome.recv_timeout(LONG).unwrap().unwrap().requests, 4);
    }
}

#[test]
fn a_kick_for_a_missing_queue_stops_the_guest() {
    if !kvm() {
        return;
    }
    for doorbell in [Doorbell::Pio, Doorbell::Mmio] {
        let options = KvmOptions { doorbell, ..KvmOptions::default() };
        let mut guest = KvmGuest::new(&transport(SHAPE), SHAPE, &options).unwrap();
        guest.control(|control| control.kick_value = 9).unwrap();
        let error = guest.run(&reads(Stop::Requests(1))).unwrap_err();
        assert!(matches!(error, GuestError::Kvm(KvmError::Exit(_))), "{error}");
    }
}

#[test]
fn kvm_reports_when_the_guest_acknowledges_a_level() {
    if !kvm() {
        return;
    }
    let transport = transport(SHAPE);
    let options = KvmOptions { line: Line::Level, ..KvmOptions::default() };
    let mut guest = KvmGuest::new(&transport, SHAPE, &options).unwrap();
    let wires = Arc::clone(guest.wires());
    let attach = {
        let transport = Arc::clone(&transport);
        let wires = Arc::clone(&wires);
        move |context: &AioContext| {
            let queue = transport.attach(context, Backend::memory(SECTORS)?)?;
            // The level interrupt, without the handler for the resample eventfd: this test checks
            // that one itself.
            let level = wires.level(context)?.map(|(interrupt, _)| queue.set_interrupt(interrupt));
            assert!(level.is_some());
            Ok(queue)
        }
    };
    let _device = IoThread::spawn_with("device", AioContext::builder(), attach).unwrap();
    let resample = wires.resample().unwrap();
    for _ in 0..10 {
        assert_eq!(guest.run(&Workload { iodepth: 1, ..reads(Stop::Requests(1)) }).unwrap().requests, 1);
        let begin = Instant::now();
        while !resample.test_and_clear().unwrap() {
            assert!(begin.elapsed() < LONG, "the level was not acknowledged");
            std::thread::yield_now();
        }
    }
}

#[test]
fn a_level_raised_before_masking_is_raised_again_after_unmasking() {
    if !kvm() {
        return;
    }
    let transport = transport(SHAPE);
    let options = KvmOptions { line: Line::Level, ..KvmOptions::default() };
    let guest = KvmGuest::new(&transport, SHAPE, &options).unwrap();
    let (wires, ports) = (Arc::clone(guest.wires()), transport.guest().unwrap());
    let outcome = start(guest, Workload { iodepth: 1, ..reads(Stop::Requests(1)) });
    let Kick::Plain(kick) = &ports.kick else { panic!("bounded") };
    while !kick.test_and_clear().unwrap() {
        std::thread::yield_now();
    }
    wires.mask().unwrap();
    // KVM has already consumed the eventfd; only the ISR register still has the interrupt.
    wires.isr().store(1, Ordering::Release);
    wires.unmask().unwrap();
    let begin = Instant::now();
    while wires.isr().load(Ordering::Acquire) != 0 {
        assert!(begin.elapsed() < LONG, "the guest was not interrupted");
        std::thread::yield_now();
    }
    wires.stop().unwrap();
    assert!(outcome.recv_timeout(LONG).unwrap().is_err());
}

#[test]
fn a_completion_of_a_request_not_in_flight_is_detected() {
    if !kvm() {
        return;
    }
    // Ids in the used ring: beyond the queue, u32::MAX, a free one, the same one twice.
    for ids in [&[4_u32][..], &[u32::MAX], &[3], &[0, 0]] {
        let transport = transport(SHAPE);
        let guest = KvmGuest::new(&transport, SHAPE, &KvmOptions::default()).unwrap();
        let ports = transport.guest().unwrap();
        // One request, whose head is 0. This test plays the device.
        let outcome = start(guest, Workload { iodepth: 1, ..reads(Stop::Requests(1)) });
        let Kick::Plain(kick) = &ports.kick else { panic!("bounded") };
        while !kick.test_and_clear().unwrap() {
            std::thread::yield_now();
        }
        let used = ports.queue.used_ring.0;
        for (at, id) in (0..).zip(ids) {
            ports.memory.write_obj(*id, GuestAddress(used + 4 + at * 8)).unwrap();
        }
        ports.memory.write_obj(ids.len() as u16, GuestAddress(used + 2)).unwrap();
        ports.irq.signal();
        let error = outcome.recv_timeout(LONG).unwrap().unwrap_err();
        assert!(matches!(error, GuestError::Kvm(KvmError::NotInFlight)), "{ids:?}: {error}");
    }
}

#[test]
fn a_failed_request_or_wrong_data_is_reported() {
    if !kvm() {
        return;
    }
    let run = |backend: Backend| {
        let transport = transport(SHAPE);
        let mut guest = KvmGuest::new(&transport, SHAPE, &KvmOptions::default()).unwrap();
        let _device = device(&transport, backend);
        guest.run(&Workload { pattern: Pattern::RandRw, verify: true, ..reads(Stop::Requests(2000)) })
    };
    assert!(run(Backend::memory(SECTORS).unwrap()).is_ok());
    // A disk that stores nothing returns data that was not written.
    let forgetful = Backend::Delay(Delay { latency: Duration::ZERO, spin: true });
    let error = run(forgetful).unwrap_err();
    assert!(matches!(error, GuestError::Corrupt { .. }), "{error}");
    // A disk that is shorter than its device reports fails requests.
    let error = run(Backend::memory(SECTORS / 2).unwrap()).unwrap_err();
    assert!(matches!(error, GuestError::Status { status: 1, .. }), "{error}");
}

#[test]
fn a_run_ends_after_its_time_and_the_next_one_works() {
    if !kvm() {
        return;
    }
    let transport = transport(SHAPE);
    let mut guest = KvmGuest::new(&transport, SHAPE, &KvmOptions::default()).unwrap();
    let _device = device(&transport, Backend::memory(SECTORS).unwrap());
    for _ in 0..3 {
        let report = guest.run(&reads(Stop::After(Duration::from_millis(5)))).unwrap();
        assert!(report.requests > 0 && report.latency_ns.len() == report.requests, "{report:?}");
        // A guard: far longer than the run should take.
        assert!(report.elapsed < LONG, "{report:?}");
    }
    assert_eq!(guest.run(&reads(Stop::After(Duration::ZERO))).unwrap().requests, 0);
    assert_eq!(guest.run(&reads(Stop::Requests(0))).unwrap().requests, 0);
    assert!(guest.run(&Workload { iodepth: 5, ..reads(Stop::Requests(1)) }).is_err());
}

#[test]
fn kvm_counts_what_the_guest_does() {
    if !kvm() {
        return;
    }
    let transport = transport(SHAPE);
    let mut guest = KvmGuest::new(&transport, SHAPE, &KvmOptions::default()).unwrap();
    let _device = device(&transport, Backend::memory(SECTORS).unwrap());
    let Some(before) = guest.stats() else {
        eprintln!("skipped: this kernel has no KVM statistics");
        return;
    };
    let report = guest.run(&Workload { iodepth: 1, ..reads(Stop::Requests(100)) }).unwrap();
    let stats = guest.stats().unwrap() - before;
    assert!(stats.exits > 0 && stats.irq_injections >= report.interrupts, "{stats:?} {report:?}");
    assert!(stats.halt_exits >= 1, "{stats:?}");
    match guest.execution() {
        Execution::Interpreted => assert!(stats.insn_emulation > 1000, "{stats:?}"),
        _ => assert!(stats.exits >= report.kicks, "{stats:?}: each kick must exit the guest"),
    }
}

//! A simulated guest and a device on every monitor and reset method. Each request must complete
//! once, and data that was written must be read back.

#[path = "support/arms.rs"]
mod arms;

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use aio::{AioContext, BusyPolling, IoThread, Method, MonitorKind, Reset};
use virtio_blk_sim::blk::Attached;
use virtio_blk_sim::blk::backend::{Backend, Delay, FileImage, Null, OpenError};
use virtio_blk_sim::blk::device::{BlockDevice, DeviceConfig, Features};
use virtio_blk_sim::guest::SimTransport;
use virtio_blk_sim::guest::{BlkDriver, GuestReport, Pattern, Stop, Workload, run as guest_run};
use virtio_blk_sim::queue::QueueStats;

use arms::arms;

const SECTORS: u64 = 2048;
const BLOCK: u32 = 4096;

struct Run {
    kind: MonitorKind,
    reset: Reset,
    iodepth: u16,
    event_idx: bool,
    busy: BusyPolling,
    requests: u64,
}

fn transport(run: &Run) -> SimTransport {
    let mut features = Features::INDIRECT_DESC | Features::FLUSH;
    if run.event_idx {
        features |= Features::EVENT_IDX;
    }
    let device = BlockDevice::new(DeviceConfig::new(SECTORS)).unwrap();
    let queue_size = BlkDriver::queue_size_for(run.iodepth, features);
    let ram = BlkDriver::ram_bytes(queue_size, run.iodepth, BLOCK) as usize;
    SimTransport::new(device, features, queue_size, ram, run.reset).unwrap()
}

/// Runs a verified random read-write mix. Returns the counters of both sides.
fn mix(
    run: &Run,
    backend: impl FnOnce() -> Backend + Send + 'static,
) -> (GuestReport, QueueStats, aio::Stats) {
    let transport = Arc::new(transport(run));
    let mut driver = BlkDriver::new(transport.guest().unwrap(), run.iodepth, BLOCK).unwrap();
    let builder = AioContext::builder().monitor(run.kind).reset(run.reset).busy_polling(run.busy);
    let device = Arc::clone(&transport);
    let (stats, counted) = std::sync::mpsc::channel();
    let thread = IoThread::spawn_with("device", builder, move |context| {
        let queue = Rc::new(device.attach(context, backend())?);
        // Dropped when the loop has ended; sends the counters then.
        struct Report(Rc<Attached>, std::sync::mpsc::Sender<QueueStats>);
        impl Drop for Report {
            fn drop(&mut self) {
                let _ = self.1.send(self.0.stats());
            }
        }
        Ok(Report(queue, stats))
    })
    .unwrap();
    let workload = Workload {
        pattern: Pattern::RandRw,
        iodepth: run.iodepth,
        stop: Stop::Requests(run.requests),
        verify: true,
        seed: 1,
    };
    let report = guest_run(&mut driver, &workload).unwrap();
    let loop_stats = thread.run(|context| context.stats()).unwrap();
    thread.stop().unwrap();
    (report, counted.recv().unwrap(), loop_stats)
}

#[test]
fn every_arm_completes_each_request_once_and_keeps_the_data() {
    for (kind, reset) in arms() {
        for (iodepth, event_idx) in [(1, true), (1, false), (32, true), (32, false)] {
            let run = Run { kind, reset, iodepth, event_idx, busy: BusyPolling::OFF, requests: 2_000 };
            let (report, queue, stats) = mix(&run, || Backend::memory(SECTORS).unwrap());
            let what = format!(
                "{kind} {reset:?} iodepth {iodepth} event_idx {event_idx}: {report:?} {queue:?} {stats:?}"
            );
            assert_eq!(report.requests, run.requests, "{what}");
            assert_eq!(queue.requests, run.requests, "{what}");
            assert_eq!(report.latency_ns.len(), run.requests, "{what}");
            assert!(queue.interrupts <= run.requests && report.kicks <= run.requests, "{what}");
            if reset == Reset::AutoresetBy(Method::Read) {
                assert!(stats.syscalls_read >= 1, "{what}");
            } else {
                assert_eq!(stats.syscalls_read, 0, "{what}");
            }
        }
    }
}

#[test]
fn busy_polling_keeps_the_data_on_every_arm() {
    for (kind, reset) in arms() {
        for iodepth in [1, 32] {
            let busy = BusyPolling::up_to_ns(200_000);
            let run = Run { kind, reset, iodepth, event_idx: true, busy, requests: 2_000 };
            let (report, queue, _) = mix(&run, || Backend::memory(SECTORS).unwrap());
            assert_eq!((report.requests, queue.requests), (run.requests, run.requests), "{kind} {reset:?}");
        }
    }
}

#[test]
fn file_backend_keeps_the_data_on_every_monitor() {
    let path = std::env::temp_dir().join(format!("virtio-blk-sim-{}.img", std::process::id()));
    std::fs::write(&path, vec![0; SECTORS as usize * 512]).unwrap();
    for (kind, reset) in arms() {
        for iodepth in [1, 32] {
            let image = Arc::new(FileImage::open(&path, false, false).unwrap());
            let run = Run { kind, reset, iodepth, event_idx: true, busy: BusyPolling::OFF, requests: 1_000 };
            let (report, queue, _) = mix(&run, move || Backend::File(image));
            assert_eq!((report.requests, queue.requests), (run.requests, run.requests), "{kind} {reset:?}");
        }
    }
    std::fs::remove_file(path).unwrap();
}

#[test]
fn linux_aio_keeps_the_data_on_every_arm() {
    let path = std::env::temp_dir().join(format!("virtio-blk-sim-aio-{}.img", std::process::id()));
    std::fs::write(&path, vec![0; SECTORS as usize * 512]).unwrap();
    for (kind, reset) in arms() {
        for (iodepth, busy) in
            [(1, BusyPolling::OFF), (32, BusyPolling::OFF), (8, BusyPolling::up_to_ns(100_000))]
        {
            let image = match FileImage::open(&path, false, true) {
                Ok(image) => Arc::new(image),
                Err(OpenError::NoDirect(path)) => {
                    eprintln!("skipped: no direct I/O on {}", path.display());
                    continue;
                }
                Err(error) => panic!("{error}"),
            };
            let run = Run { kind, reset, iodepth, event_idx: true, busy, requests: 300 };
            let (report, queue, stats) = mix(&run, move || Backend::LinuxAio(image));
            let what = format!("{kind} {reset:?} iodepth {iodepth} {busy:?}: {queue:?} {stats:?}");
            assert_eq!((report.requests, queue.requests), (run.requests, run.requests), "{what}");
            assert!(queue.submits >= 1 && queue.submits <= run.requests, "{what}");
            if iodepth == 1 {
                // With one request in flight, each is submitted by its own call.
                assert_eq!(queue.submits, run.requests, "{what}");
            }
            let reads = if reset == Reset::AutoresetBy(Method::Read) { 1 } else { 0 };
            if iodepth == 1 && busy == BusyPolling::OFF {
                // The configuration of 2020: per request, the doorbell and the completion eventfd
                // are each read once. A dispatch of one eventfd may also find work of the other, so
                // allow a few reads fewer.
                assert!(stats.syscalls_read >= reads * run.requests * 2 * 9 / 10, "{what}");
            }
            assert!(reads == 1 || stats.syscalls_read == 0, "{what}");
        }
    }
    std::fs::remove_file(path).unwrap();
}

#[test]
fn linux_aio_refuses_a_file_that_uses_the_page_cache() {
    let path = std::env::temp_dir().join(format!("virtio-blk-sim-cached-{}.img", std::process::id()));
    std::fs::write(&path, vec![0; SECTORS as usize * 512]).unwrap();
    let image = Arc::new(FileImage::open(&path, false, false).unwrap());
    std::fs::remove_file(path).unwrap();
    let context = AioContext::new().unwrap();
    let error = Backend::LinuxAio(image).attach(&context, Rc::new(|_, _| {})).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
    assert!(error.to_string().contains("O_DIRECT"), "{error}");
}

#[test]
fn delay_backend_is_never_early() {
    let latency = Duration::from_micros(300);
    for spin in [false, true] {
        for (kind, reset) in arms() {
            let run = Run { kind, reset, iodepth: 4, event_idx: true, busy: BusyPolling::OFF, requests: 40 };
            let transport = Arc::new(transport(&run));
            let mut driver = BlkDriver::new(transport.guest().unwrap(), run.iodepth, BLOCK).unwrap();
            let device = Arc::clone(&transport);
            let builder = AioContext::builder().monitor(kind).reset(reset);
            let thread = IoThread::spawn_with("device", builder, move |context| {
                device.attach(context, Backend::Delay(Delay { latency, spin }))
            })
            .unwrap();
            let workload = Workload {
                pattern: Pattern::RandRead,
                iodepth: 4,
                stop: Stop::Requests(40),
                verify: false,
                seed: 2,
            };
            let report = guest_run(&mut driver, &workload).unwrap();
            assert!(
                u128::from(report.latency_ns.min()) + 1_000 >= latency.as_nanos(),
                "{kind}: {:?}",
                report.latency_ns.min()
            );
            thread.stop().unwrap();
        }
    }
}

#[test]
fn a_misbehaving_driver_gets_needs_reset_and_the_loop_continues() {
    let run = Run {
        kind: MonitorKind::Epoll,
        reset: Reset::Autoreset,
        iodepth: 4,
        event_idx: true,
        busy: BusyPolling::OFF,
        requests: 0,
    };
    let transport = Arc::new(transport(&run));
    let mut driver = BlkDriver::new(transport.guest().unwrap(), 4, BLOCK).unwrap();
    let device = Arc::clone(&transport);
    let thread = IoThread::spawn_with("device", AioContext::builder(), move |context| {
        device.attach(context, Backend::Null(Null::default()))
    })
    .unwrap();
    driver.read(0, 0).unwrap();
    driver.queue_mut().set_avail_idx(1000);
    driver.ports().kick.notify().unwrap();
    let outcome = driver.wait();
    assert!(matches!(outcome, Err(virtio_blk_sim::guest::DriverError::NeedsReset)), "{outcome:?}");
    // The loop must sleep between the two calls: a broken queue is not looked at again.
    let before = thread.run(|context| context.stats()).unwrap();
    let after = thread.run(|context| context.stats()).unwrap();
    assert!(after.turns - before.turns < 10, "{before:?} {after:?}");
}

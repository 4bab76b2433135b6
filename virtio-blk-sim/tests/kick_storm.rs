//! A guest that kicks for every request, with a doorbell that has a maximum. The guest must be held
//! back without losing a kick. The one combination that cannot work must stall, and must be
//! refused.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use aio::Reset::{Autoreset, AutoresetBy, Classic};
use aio::{AioContext, BoundedMethod, BoundedNotifier, EventNotifier, IoThread, Method, MonitorKind};
use virtio_blk_sim::blk::backend::{Backend, Null};
use virtio_blk_sim::blk::device::{BlockDevice, DeviceConfig, Features};
use virtio_blk_sim::guest::SimTransport;
use virtio_blk_sim::guest::{BlkDriver, GuestReport, Kicking, Pattern, Stop, Workload, run as guest_run};
use virtio_blk_sim::queue::Kick;

const SECTORS: u64 = 2048;
const BLOCK: u32 = 4096;
const DEPTH: u16 = 32;
const MAXIMUM: u64 = 4;

fn transport(kick: Kick) -> SimTransport {
    let features = Features::INDIRECT_DESC | Features::FLUSH | Features::EVENT_IDX;
    let device = BlockDevice::new(DeviceConfig::new(SECTORS)).unwrap();
    let queue_size = BlkDriver::queue_size_for(DEPTH, features);
    let ram = BlkDriver::ram_bytes(queue_size, DEPTH, BLOCK) as usize;
    SimTransport::new(device, features, queue_size, ram, Classic).unwrap().with_kick(kick)
}

fn methods() -> impl Iterator<Item = BoundedMethod> {
    BoundedMethod::ALL.into_iter().filter(|method| match method.obstacle() {
        None => true,
        Some(why) => {
            println!("{method} skipped: {why}");
            false
        }
    })
}

/// Runs a verified mix of requests, each with a kick.
fn storm(monitor: MonitorKind, kick: Kick, requests: u64) -> io::Result<GuestReport> {
    let transport = Arc::new(transport(kick));
    let mut driver = BlkDriver::new(transport.guest()?, DEPTH, BLOCK).unwrap();
    driver.set_kicking(Kicking::Always);
    let device = Arc::clone(&transport);
    let thread = IoThread::spawn_with("device", AioContext::builder().monitor(monitor), move |context| {
        device.attach(context, Backend::memory(SECTORS)?)
    })?;
    let workload = Workload {
        pattern: Pattern::RandRw,
        iodepth: DEPTH,
        stop: Stop::Requests(requests),
        verify: true,
        seed: 1,
    };
    let report = guest_run(&mut driver, &workload).unwrap();
    thread.stop()?;
    Ok(report)
}

/// Every monitor, every way to enforce the bound, and every available way to reset the doorbell.
#[test]
fn a_bounded_storm_loses_nothing_with_any_reset() {
    let resets = || Method::ALL.into_iter().map(AutoresetBy).chain([Classic, Autoreset]);
    let mut edges = 0;
    for method in methods() {
        for monitor in MonitorKind::ALL {
            for reset in resets() {
                let builder = BoundedNotifier::builder(MAXIMUM).method(method).reset(reset);
                let Ok(kick) = builder.build() else { continue };
                match storm(monitor, kick.clone().into(), 2_000) {
                    Ok(report) => {
                        assert_eq!(
                            (report.requests, report.kicks),
                            (2_000, 2_000),
                            "{method} {monitor} {reset:?}"
                        );
                        // The last kick may come after its request has completed.
                        assert!(kick.count().unwrap() < MAXIMUM, "{method} {monitor} {reset:?}");
                        edges += u64::from(reset == AutoresetBy(Method::Edge));
                    }
                    Err(e) => println!("skipped: {method} {monitor} {reset:?}: {e}"),
                }
            }
        }
    }
    assert!(edges > 0, "no run used an unread doorbell with a bounded count");
}

/// The guest is held exactly when `maximum - 1` of its kicks are not consumed.
#[test]
fn a_guest_is_held_by_a_device_that_does_not_answer() {
    for method in methods() {
        let kick = BoundedNotifier::builder(MAXIMUM).method(method).build().unwrap();
        let transport = transport(kick.clone().into());
        let mut driver = BlkDriver::new(transport.guest().unwrap(), DEPTH, BLOCK).unwrap();
        driver.set_kicking(Kicking::Always);
        std::thread::scope(|scope| {
            let guest = scope.spawn(move || {
                for slot in 0..8 {
                    driver.read(slot, 0).unwrap();
                    driver.kick().unwrap();
                }
                (driver.kicks(), driver.kicks_held())
            });
            let sleeps = || kick.stats().polls + kick.stats().futex_waits;
            while sleeps() == 0 {
                std::thread::yield_now();
            }
            assert_eq!(kick.count().unwrap(), MAXIMUM - 1, "{method}");
            let ctx = AioContext::new().unwrap();
            let queue = transport.attach(&ctx, Backend::Null(Null::default())).unwrap();
            while queue.stats().requests < 8 {
                ctx.poll(true).unwrap();
            }
            let (kicks, held) = guest.join().unwrap();
            assert!(kicks == 8 && held >= 1, "{method}: {held} of {kicks}");
        });
    }
}

/// The reason why this combination is refused. The device sees every kick and completes every
/// request, but it never reads the eventfd, so nothing lowers the count. After `maximum - 1` kicks
/// the guest cannot kick any more.
#[test]
fn a_bounded_doorbell_that_is_never_read_stalls_its_guest() {
    let kick = BoundedNotifier::builder(MAXIMUM).method(BoundedMethod::Credit).build().unwrap();
    let transport = transport(kick.clone().into());
    let mut driver = BlkDriver::new(transport.guest().unwrap(), DEPTH, BLOCK).unwrap();
    let ctx = AioContext::builder().monitor(MonitorKind::Epoll).build().unwrap();
    // The count is an ordinary eventfd, and a stock kernel does not report that user space bounds
    // it.
    let unread = kick.as_fd().try_clone_to_owned().unwrap();
    let unread = EventNotifier::adopt(unread, AutoresetBy(Method::Edge)).unwrap();
    let queue = transport.attach_on(&ctx, Backend::Null(Null::default()), unread.into()).unwrap();
    for slot in 0..MAXIMUM as u16 - 1 {
        driver.read(slot, 0).unwrap();
        assert!(driver.queue_mut().publish(), "the device must ask for a kick");
        kick.try_notify(1).unwrap();
        while queue.stats().requests <= u64::from(slot) {
            ctx.poll(true).unwrap();
        }
    }
    assert_eq!(ctx.stats().syscalls_read, 0);
    for _ in 0..100 {
        assert_eq!(
            kick.try_notify(1).unwrap_err().kind(),
            io::ErrorKind::WouldBlock,
            "the doorbell must be full"
        );
        ctx.poll(false).unwrap();
    }
    // The guest can kick again after the count was read.
    assert_eq!(kick.try_take().unwrap(), Some(MAXIMUM - 1));
    kick.try_notify(1).unwrap();
}

#[test]
fn a_bounded_doorbell_that_would_never_be_read_is_refused() {
    for method in methods().filter(|method| *method != BoundedMethod::Atomic) {
        let builder = BoundedNotifier::builder(MAXIMUM).method(method).reset(AutoresetBy(Method::Edge));
        let error = builder.build().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::Unsupported);
        assert!(error.to_string().contains("stall"), "{error}");
    }
    if BoundedMethod::Kernel.obstacle().is_some() {
        return;
    }
    // This kernel reports the maximum, so a plain notifier on such an eventfd is refused too.
    let kick = BoundedNotifier::builder(MAXIMUM).method(BoundedMethod::Kernel).build().unwrap();
    let transport = transport(kick.clone().into());
    let _driver = BlkDriver::new(transport.guest().unwrap(), DEPTH, BLOCK).unwrap();
    let ctx = AioContext::builder().monitor(MonitorKind::Epoll).build().unwrap();
    let unread = kick.as_fd().try_clone_to_owned().unwrap();
    let unread = EventNotifier::adopt(unread, AutoresetBy(Method::Edge)).unwrap();
    let error = transport.attach_on(&ctx, Backend::Null(Null::default()), unread.into()).unwrap_err();
    assert!(error.to_string().contains("maximum"), "{error}");
}

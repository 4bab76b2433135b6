//! This crate's guest against its server, over a socket pair.

use std::os::unix::net::UnixStream;
use std::rc::Rc;

use aio::{AioContext, IoThread};

use super::*;
use crate::blk::Disk;
use crate::blk::backend::Backend;
use crate::blk::device::{BlockDevice, DeviceConfig};
use crate::guest::{GuestError, Pattern, Stop, Waiting, Workload, run};
use crate::vhost_user::{Loops, Served, Server};

const SECTORS: u64 = 2048;
/// A guard only: all replies come at once.
const LONG: Duration = Duration::from_secs(60);
const SHAPE: QueueShape =
    QueueShape { size: 64, slots: 16, block_bytes: 4096, features: Features::EVENT_IDX };

/// Starts a server with a disk in memory on a separate loop, and returns a connection to it.
/// Dropping the thread disconnects.
fn server(config: DeviceConfig) -> (IoThread, Frontend) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let serve = move |context: &AioContext| {
        let sectors = config.capacity_sectors;
        let disk = Disk::new(BlockDevice::new(config).unwrap(), Backend::memory(sectors)?);
        let server: Rc<Server<Disk>> = Server::new(Served::new(disk), Loops::own());
        server.serve(context, theirs)?;
        Ok(server)
    };
    let thread = IoThread::spawn_with("server", AioContext::builder(), serve).unwrap();
    (thread, Frontend::from_stream(ours, LONG))
}

fn workload(iodepth: u16) -> Workload {
    Workload { pattern: Pattern::RandRw, iodepth, stop: Stop::Requests(3000), verify: true, seed: 5 }
}

#[test]
fn data_is_read_back_when_sleeping_and_when_spinning() {
    for (features, waiting) in [
        (Features::EVENT_IDX | Features::INDIRECT_DESC, Waiting::Sleeping),
        (Features::NONE, Waiting::Sleeping),
        (Features::EVENT_IDX, Waiting::Spinning),
        (Features::INDIRECT_DESC, Waiting::Spinning),
    ] {
        let (_thread, frontend) = server(DeviceConfig::new(SECTORS));
        let shape = QueueShape { features, ..SHAPE };
        let (mut disk, mut driver) = VhostUserDisk::start(frontend, shape).unwrap();
        assert_eq!(disk.capacity_sectors(), SECTORS);
        for feature in [Features::EVENT_IDX, Features::INDIRECT_DESC] {
            assert_eq!(disk.features().contains(feature), features.contains(feature));
        }
        driver.set_waiting(waiting);
        for iodepth in [1, 16] {
            let report = run(&mut driver, &workload(iodepth)).unwrap();
            assert_eq!(report.requests, 3000);
            assert!(report.kicks > 0);
            assert_eq!(report.interrupts > 0, waiting == Waiting::Sleeping, "{report:?}");
        }
        // Both runs, with no request in flight.
        assert_eq!(disk.stop().unwrap(), 6000);
    }
}

#[test]
fn a_guest_may_switch_between_sleeping_and_spinning() {
    let (_thread, frontend) = server(DeviceConfig::new(SECTORS));
    let (_disk, mut driver) = VhostUserDisk::start(frontend, SHAPE).unwrap();
    for waiting in [Waiting::Spinning, Waiting::Sleeping, Waiting::Spinning] {
        driver.set_waiting(waiting);
        let report = run(&mut driver, &workload(4)).unwrap();
        assert_eq!(report.interrupts > 0, waiting == Waiting::Sleeping);
    }
}

#[test]
fn a_disconnecting_server_wakes_its_guest() {
    for waiting in [Waiting::Sleeping, Waiting::Spinning] {
        let (thread, frontend) = server(DeviceConfig::new(SECTORS));
        let (_disk, mut driver) = VhostUserDisk::start(frontend, SHAPE).unwrap();
        driver.set_waiting(waiting);
        run(&mut driver, &workload(4)).unwrap();
        drop(thread);
        // There is no server to complete the requests.
        let result = run(&mut driver, &workload(4));
        assert!(matches!(result, Err(GuestError::Driver(DriverError::NeedsReset))), "{result:?}");
    }
}

#[test]
fn the_disk_reports_its_properties() {
    let config = DeviceConfig {
        read_only: true,
        logical_block_size: 4096,
        physical_block_size: 4096,
        ..DeviceConfig::new(SECTORS)
    };
    let (_thread, frontend) = server(config);
    let (disk, _driver) = VhostUserDisk::start(frontend, SHAPE).unwrap();
    assert!(disk.features().contains(Features::RO));
    assert_eq!(disk.block_size(), 4096);
}

#[test]
fn a_socket_without_a_server_is_an_error() {
    let error = VhostUserDisk::connect("/nonexistent/socket", LONG, SHAPE).unwrap_err();
    assert!(error.to_string().contains("cannot connect"), "{error}");
    let (ours, theirs) = UnixStream::pair().unwrap();
    drop(theirs);
    assert!(VhostUserDisk::start(Frontend::from_stream(ours, LONG), SHAPE).is_err());
}

//! After a flush has failed, no later flush and no later write may succeed.
//!
//! The tests in this process replace the file behind the image's descriptor for a moment, so that
//! the kernel itself returns the error, through io_uring too. The program is tested under strace.
#![expect(unsafe_code, reason = "dup2(2) onto the descriptor of an image")]

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::process::Stdio;
use std::sync::Arc;

use aio::{AioContext, MonitorKind};
use virtio_blk_sim::blk::backend::{Backend, FileImage};
use virtio_blk_sim::blk::device::{DeviceConfig, Features};
use virtio_blk_sim::guest::BlkDriver;
use virtio_blk_sim::memory::GuestAddress;
use vm_memory::Bytes;

use super::client::{Client, ClientOptions};
use super::memory::{answer, post};
use super::process::{Process, injecting};
use super::server::{Setup, TempPath, TestServer};
use super::{BLOCK, SECTORS, Watchdog, default_options, driver, exercise, finish};

const OK: u8 = 0;
const IOERR: u8 = 1;

fn client_options() -> ClientOptions {
    let options = default_options();
    let more = Features::DISCARD | Features::WRITE_ZEROES | Features::CONFIG_WCE;
    ClientOptions { features: options.features | more, ..options }
}

fn flush(driver: &mut BlkDriver) -> u8 {
    driver.flush(0).unwrap();
    driver.kick().unwrap();
    let mut finished = Vec::new();
    finish(driver, &mut finished, 1);
    finished[0].status
}

/// A read (kind 0) or a write (1) of a block at a sector.
fn transfer(driver: &mut BlkDriver, kind: u32, sector: u64) -> u8 {
    let data = driver.data(1).0;
    post(driver, kind, sector, data, BLOCK);
    answer(driver).unwrap()
}

/// A discard (kind 11) or a write of zeros (13) of the first block.
fn zero(driver: &mut BlkDriver, kind: u32) -> u8 {
    let (memory, data) = (driver.ports().memory.clone(), driver.data(1));
    memory.write_obj(0_u64, data).unwrap();
    memory.write_obj(8_u64, GuestAddress(data.0 + 8)).unwrap();
    post(driver, kind, 0, data.0, 16);
    answer(driver).unwrap()
}

/// Everything that changes the disk fails, and reads go on.
fn assert_failed(driver: &mut BlkDriver, name: &str) {
    for round in 0..3 {
        assert_eq!(flush(driver), IOERR, "{name}, {round}");
        assert_eq!(transfer(driver, 1, 64), IOERR, "{name}, {round}");
        assert_eq!(zero(driver, 11), IOERR, "{name}, {round}");
        assert_eq!(zero(driver, 13), IOERR, "{name}, {round}");
        assert_eq!(transfer(driver, 0, 64), OK, "{name}, {round}");
    }
}

/// Calls `act` while the image's descriptor refers to another file.
fn replaced(image: &FileImage, other: &File, act: impl FnOnce()) {
    let own = image.as_fd().try_clone_to_owned().unwrap();
    let replace = |by: i32| {
        // SAFETY: both descriptors are open. The image keeps its number; `own` keeps its file.
        assert!(unsafe { libc::dup2(by, image.as_fd().as_raw_fd()) } >= 0);
    };
    replace(other.as_raw_fd());
    act();
    replace(own.as_raw_fd());
}

/// A file of which every fdatasync(2) fails with EINVAL, and no read or write.
fn without_sync() -> File {
    File::options().read(true).write(true).open("/dev/zero").unwrap()
}

/// A server for each engine that a file can have.
fn with_each_engine(act: impl Fn(&str, &Arc<FileImage>, TestServer)) {
    let path = TempPath::image();
    let kinds = [MonitorKind::Poll, MonitorKind::Epoll, MonitorKind::IoUring];
    for (kind, direct) in kinds.into_iter().flat_map(|kind| [(kind, false), (kind, true)]) {
        for linux_aio in [false, true].into_iter().take(if direct { 2 } else { 1 }) {
            let builder = AioContext::builder().monitor(kind);
            if let Err(error) = builder.clone().build() {
                println!("skipped: {kind}: {error}");
                continue;
            }
            let image = match FileImage::open(&path, false, direct) {
                Ok(image) => Arc::new(image),
                Err(error) => {
                    println!("skipped: {error}");
                    continue;
                }
            };
            let file = Arc::clone(&image);
            let backend = if linux_aio { Backend::LinuxAio(file) } else { Backend::File(file) };
            let device = Some(DeviceConfig { num_queues: 1, ..image.device_config() });
            let server = TestServer::new(Setup { builder, backend, device, ..Setup::default() });
            act(&format!("{kind}, direct {direct}, Linux AIO {linux_aio}"), &image, server);
        }
    }
}

#[test]
fn after_a_flush_has_failed_nothing_that_writes_succeeds() {
    let _watchdog = Watchdog::new("after_a_flush_has_failed_nothing_that_writes_succeeds");
    with_each_engine(|name, image, server| {
        let mut client = Client::connect(server.socket(), client_options()).unwrap();
        let mut driver = driver(&mut client, 0);
        exercise(&mut driver, 50);
        assert_eq!(flush(&mut driver), OK, "{name}");
        replaced(image, &without_sync(), || assert_eq!(flush(&mut driver), IOERR, "{name}"));
        assert_failed(&mut driver, name);
        // Another session does not change this.
        drop((driver, client));
        server.wait_disconnected();
        let mut client = Client::connect(server.socket(), client_options()).unwrap();
        assert_failed(&mut super::driver(&mut client, 0), name);
    });
}

/// In write-through mode each write is followed by a flush.
#[test]
fn a_durable_write_whose_flush_fails_counts() {
    let _watchdog = Watchdog::new("a_durable_write_whose_flush_fails_counts");
    with_each_engine(|name, image, server| {
        if image.direct().is_some() {
            return;
        }
        let mut client = Client::connect(server.socket(), client_options()).unwrap();
        client.frontend().set_config(32, &[0]).unwrap();
        let mut driver = driver(&mut client, 0);
        assert_eq!(transfer(&mut driver, 1, 64), OK, "{name}");
        // A full disk is an error of the write, after which others succeed.
        let full = File::options().read(true).write(true).open("/dev/full").unwrap();
        replaced(image, &full, || assert_eq!(transfer(&mut driver, 1, 64), IOERR, "{name}"));
        assert_eq!(transfer(&mut driver, 1, 64), OK, "{name}");
        // The ring does both in one operation, which fails as a whole.
        let broken = match name.starts_with("io_uring") {
            true => File::open("/dev/zero").unwrap(),
            false => without_sync(),
        };
        replaced(image, &broken, || assert_eq!(transfer(&mut driver, 1, 64), IOERR, "{name}"));
        assert_failed(&mut driver, name);
    });
}

/// The kernel returns the error of lost data once.
#[test]
fn the_program_does_not_report_success_after_fdatasync_has_failed_once() {
    let _watchdog = Watchdog::new("the_program_does_not_report_success_after_fdatasync_has_failed_once");
    for monitor in ["epoll", "poll"] {
        let (socket, image) = (TempPath::new("sock"), TempPath::image());
        let Some(mut command) = injecting("fdatasync:error=EIO:when=2") else { return };
        command.arg("--socket").arg(socket.as_ref()).arg("--image").arg(image.as_ref());
        let mut server = Process::run(command.args(["--monitor", monitor]), &socket, Stdio::piped());
        server.wait_for_line("listening on");
        let mut client = Client::connect(&socket, client_options()).unwrap();
        let mut driver = driver(&mut client, 0);
        // The number of calls is counted by thread.
        assert_eq!(flush(&mut driver), OK, "{monitor}");
        while flush(&mut driver) == OK {}
        server.wait_for_line("disk image: a flush failed (Input/output error (os error 5))");
        server.wait_for_line("a flush failed: Input/output error (os error 5)");
        let content = std::fs::read(&image).unwrap();
        assert_failed(&mut driver, monitor);
        assert!(std::fs::read(&image).unwrap() == content);
        // SIGHUP changes the size, and does not bring the data back.
        File::options().write(true).open(&image).unwrap().set_len(SECTORS * 1024).unwrap();
        server.signal(libc::SIGHUP);
        server.wait_for_line("the disk now has 4096 sectors");
        assert_failed(&mut driver, monitor);
        server.signal(libc::SIGTERM);
        assert_eq!(server.wait().code(), Some(0));
    }
}

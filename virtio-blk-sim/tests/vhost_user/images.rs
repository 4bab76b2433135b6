//! Images that bypass the page cache, read-only images, and a frontend on an inherited descriptor.

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use virtio_blk_sim::blk::backend::{Backend, FileImage};
use virtio_blk_sim::blk::device::{DeviceConfig, Features};
use virtio_blk_sim::vhost_user::Frontend;

use super::client::{Client, ClientOptions};
use super::process::{Process, inheriting};
use super::requests::{CAPACITY, Posted, Vm, disk_content, image_of, payload, read, write};
use super::server::{Setup, TempPath, TestServer};
use super::{Watchdog, default_options, driver, exercise, finish, options};

/// Opens an image with O_DIRECT. Returns None, after printing the reason, if the file system does
/// not support it.
fn direct(image: &TempPath) -> Option<Arc<FileImage>> {
    match FileImage::open(image, false, true) {
        Ok(image) => {
            assert!(image.direct().is_some());
            Some(Arc::new(image))
        }
        Err(error) => {
            eprintln!("skipped: O_DIRECT: {error}");
            None
        }
    }
}

#[test]
fn a_direct_image_serves_buffers_at_any_address() {
    let _watchdog = Watchdog::new("a_direct_image_serves_buffers_at_any_address");
    let image = image_of(&disk_content(CAPACITY));
    let Some(file) = direct(&image) else { return };
    let device = DeviceConfig { num_queues: 1, ..file.device_config() };
    let setup = || Setup {
        backend: Backend::File(Arc::clone(&file)),
        device: Some(device.clone()),
        ..Setup::default()
    };
    let mut content = disk_content(CAPACITY);
    for (round, placement) in [(4096, 0), (512, 0), (512, 8), (1, 0), (1, 13)].into_iter().enumerate() {
        // Printed when the test fails.
        println!("buffers at multiples of {} plus {}", placement.0, placement.1);
        let server = TestServer::new(setup());
        let mut vm = Vm::new(&server, Features::NONE);
        vm.placement = placement;
        let sector = 8 * (round as u64 + 1);
        let (at, bytes) = (sector as usize * 512, payload(4096));
        assert_eq!(vm.run(&write(sector, 4096)), (1, vec![0]));
        content[at..at + 4096].copy_from_slice(&bytes);
        assert!(std::fs::read(&image).unwrap() == content, "the disk is not as expected");
        assert_eq!(vm.run(&read(sector, 4096)), (4097, [bytes.as_slice(), &[0]].concat()));
        // Split at positions that are not block boundaries; one piece also holds the status byte.
        let pieces = Posted::request(0, 0).writable(1000).writable(3000).writable(97);
        assert_eq!(vm.run(&pieces), (4097, [&content[..4096], &[0]].concat()));
        // A transfer smaller than a block of the disk is refused, not rounded.
        let fine = device.request_alignment <= 512;
        assert_eq!(vm.run(&write(1, 512)), (1, vec![u8::from(!fine)]));
        if fine {
            content[512..1024].copy_from_slice(&payload(512));
        }
        assert!(std::fs::read(&image).unwrap() == content, "the disk is not as expected");
    }
}

#[test]
fn the_program_serves_a_direct_image() {
    let _watchdog = Watchdog::new("the_program_serves_a_direct_image");
    let (socket, image) = (TempPath::new("sock"), TempPath::image());
    if direct(&image).is_none() {
        return;
    }
    for monitor in ["io_uring", "epoll", "poll"] {
        let _server = Process::start(&socket, &image, &["--direct", "--monitor", monitor]);
        let mut client = Client::connect(&socket, default_options()).unwrap();
        exercise(&mut driver(&mut client, 0), 300);
    }
}

#[test]
fn the_program_does_not_write_a_read_only_image() {
    let _watchdog = Watchdog::new("the_program_does_not_write_a_read_only_image");
    let content = disk_content(super::SECTORS);
    let (socket, image) = (TempPath::new("sock"), image_of(&content));
    let _server = Process::start(&socket, &image, &["--read-only"]);
    // With a driver that negotiates RO, and with one that does not.
    for features in [Features::RO, Features::NONE] {
        let options = options(super::DEPTH, features | Features::FLUSH);
        let mut client = Client::connect(&socket, ClientOptions { ..options }).unwrap();
        assert_eq!(client.features().contains(Features::RO), features == Features::RO);
        let offered = Features::from_bits(client.frontend().get_features().unwrap());
        assert!(offered.contains(Features::RO));
        assert!(!offered.contains(Features::DISCARD) && !offered.contains(Features::WRITE_ZEROES));
        let mut driver = driver(&mut client, 0);
        driver.write(0, 0).unwrap();
        driver.read(1, 8).unwrap();
        driver.kick().unwrap();
        let mut finished = Vec::new();
        finish(&mut driver, &mut finished, 2);
        finished.sort_by_key(|completion| completion.slot);
        assert_eq!(finished.iter().map(|completion| completion.status).collect::<Vec<_>>(), [1, 0]);
        drop(client);
    }
    assert!(std::fs::read(&image).unwrap() == content);
}

#[test]
fn the_program_serves_an_inherited_frontend_and_exits_with_it() {
    let _watchdog = Watchdog::new("the_program_serves_an_inherited_frontend_and_exits_with_it");
    let image = TempPath::image();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let server = inheriting(theirs, &["--fd", "3"], &image).spawn().unwrap();
    let frontend = Frontend::from_stream(ours, default_options().timeout);
    let mut client = Client::over(frontend, default_options()).unwrap();
    exercise(&mut driver(&mut client, 0), 300);
    drop(client);
    let outcome = server.wait_with_output().unwrap();
    assert_eq!(outcome.status.code(), Some(0), "{outcome:?}");
}

#[test]
fn descriptors_that_are_not_frontends_are_refused() {
    let _watchdog = Watchdog::new("descriptors_that_are_not_frontends_are_refused");
    let image = TempPath::image();
    let open = || OwnedFd::from(std::fs::File::open(&image).unwrap());
    let tcp = || OwnedFd::from(TcpListener::bind("127.0.0.1:0").unwrap());
    // Standard input, a closed descriptor, an invalid number, a file, and a socket of another kind.
    for (number, fd) in [("0", open()), ("77", open()), ("-1", open()), ("3", open()), ("3", tcp())] {
        let argument = format!("--fd={number}");
        let outcome = inheriting(fd, &[&argument], &image).output().unwrap();
        let said = String::from_utf8_lossy(&outcome.stderr);
        assert_eq!(outcome.status.code(), Some(2), "{number}: {said}");
        assert!(said.contains(&format!("--fd {number}")), "{said}");
    }
}

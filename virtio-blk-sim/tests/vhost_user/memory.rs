//! Guest memory that changes or is truncated while requests are in flight.

use std::fs::File;
use std::os::fd::AsFd;

use virtio_blk_sim::blk::backend::Backend;
use virtio_blk_sim::guest::{BlkDriver, DriverError};
use virtio_blk_sim::memory::{GuestAddress, GuestRam};
use virtio_blk_sim::vhost_user::{Inflight, MemoryRegion};
use vm_memory::Bytes;

use super::client::Client;
use super::server::{Setup, TempPath, TestServer};
use super::{BLOCK, SECTORS, Watchdog, default_options, driver, exercise};

/// Address of the regions that are added and removed.
const ELSEWHERE: u64 = 1 << 32;

fn region(size: u64) -> MemoryRegion {
    MemoryRegion { guest_addr: ELSEWHERE, size, user_addr: ELSEWHERE, mmap_offset: 0 }
}

#[test]
fn the_memory_table_changes_under_load_and_no_request_is_lost() {
    let _watchdog = Watchdog::new("the_memory_table_changes_under_load_and_no_request_is_lost");
    let image = TempPath::image();
    for threads in [0, 1] {
        let server = TestServer::new(Setup { backend: Setup::file(&image), threads, ..Setup::default() });
        let mut client = Client::connect(server.socket(), default_options()).unwrap();
        let mut driver = driver(&mut client, 0);
        let guest = std::thread::spawn(move || exercise(&mut driver, 3_000));
        let more = GuestRam::new(1 << 16).unwrap();
        for _ in 0..25 {
            let (region_of_ram, file) = (client.region(), client.ram().file().try_clone().unwrap());
            client.frontend().set_mem_table(&[(region_of_ram, file.as_fd())]).unwrap();
            client.frontend().add_mem_region(region(1 << 16), more.as_fd()).unwrap();
            client.frontend().remove_mem_region(region(1 << 16)).unwrap();
        }
        guest.join().unwrap();
        assert_eq!(client.stop(0).unwrap(), 3_000);
    }
}

#[test]
fn a_request_reaches_a_region_that_was_added() {
    let _watchdog = Watchdog::new("a_request_reaches_a_region_that_was_added");
    let server = TestServer::new(Setup::default());
    let mut client = Client::connect(server.socket(), default_options()).unwrap();
    let mut driver = driver(&mut client, 0);
    let more = GuestRam::new(1 << 16).unwrap();
    more.memory().write_slice(&[7; 512], GuestAddress(4096)).unwrap();
    client.frontend().add_mem_region(region(1 << 16), more.as_fd()).unwrap();
    post(&mut driver, 1, 1, ELSEWHERE + 4096, 512);
    assert_eq!(answer(&mut driver), Ok(0));
    post(&mut driver, 0, 1, ELSEWHERE, 512);
    assert_eq!(answer(&mut driver), Ok(0));
    assert_eq!(more.memory().read_obj::<[u8; 16]>(GuestAddress(0)).unwrap(), [7; 16]);
    // After the removal, a buffer there is outside guest memory.
    client.frontend().remove_mem_region(region(1 << 16)).unwrap();
    post(&mut driver, 0, 1, ELSEWHERE, 512);
    assert_eq!(answer(&mut driver), Ok(1));
    assert!(!client.take_error(0).unwrap());
    exercise(&mut driver, 100);
}

/// Posts a request whose data may be anywhere: kind 0 reads, 1 writes. Header and status are in the
/// data buffer of slot 0.
pub(crate) fn post(driver: &mut BlkDriver, kind: u32, sector: u64, data: u64, len: u32) {
    let control = driver.data(0);
    let mut header = [0; 16];
    header[..4].copy_from_slice(&kind.to_le_bytes());
    header[8..].copy_from_slice(&sector.to_le_bytes());
    let memory = driver.ports().memory.clone();
    memory.write_slice(&header, control).unwrap();
    let status = GuestAddress(control.0 + 16);
    memory.write_obj(0xff_u8, status).unwrap();
    let data = (GuestAddress(data), len);
    let queue = driver.queue_mut();
    let added = match kind {
        0 => queue.add(&[(control, 16)], &[data, (status, 1)]),
        _ => queue.add(&[(control, 16), data], &[(status, 1)]),
    };
    added.unwrap().unwrap();
    driver.kick().unwrap();
}

/// Returns the status of the only request in flight, or the reason why it will not complete.
pub(crate) fn answer(driver: &mut BlkDriver) -> Result<u8, String> {
    loop {
        if let Some((_, _)) = driver.queue_mut().pop_used().unwrap() {
            let status = GuestAddress(driver.data(0).0 + 16);
            let status = driver.ports().memory.read_obj(status).unwrap();
            assert!(!driver.queue_mut().enable_interrupts());
            return Ok(status);
        }
        if driver.queue_mut().enable_interrupts() {
            continue;
        }
        match driver.wait() {
            Ok(()) => {}
            Err(DriverError::Signal(error)) => return Err(error.kind().to_string()),
            Err(error) => panic!("{error}"),
        }
    }
}

/// Creates a file of one block without seals, which can be truncated.
fn unsealed(path: &TempPath) -> File {
    std::fs::write(path, vec![0xaa; BLOCK as usize]).unwrap();
    File::options().read(true).write(true).open(path).unwrap()
}

#[test]
fn truncated_memory_ends_the_session_and_not_the_server() {
    let _watchdog = Watchdog::new("truncated_memory_ends_the_session_and_not_the_server");
    for threads in [0, 1] {
        let server = TestServer::new(Setup { threads, ..Setup::default() });
        for kind in [0, 1] {
            let path = TempPath::new("ram");
            let file = unsealed(&path);
            let mut client = Client::connect(server.socket(), default_options()).unwrap();
            let mut driver = driver(&mut client, 0);
            client.frontend().add_mem_region(region(BLOCK.into()), file.as_fd()).unwrap();
            post(&mut driver, kind, 0, ELSEWHERE, BLOCK);
            assert_eq!(answer(&mut driver), Ok(0));
            file.set_len(0).unwrap();
            let before = driver.queue_mut().used_idx();
            post(&mut driver, kind, 0, ELSEWHERE, BLOCK);
            // The error interrupt may come first; then the socket is shut down.
            let gone = std::io::ErrorKind::ConnectionAborted.to_string();
            assert_eq!(answer(&mut driver), Err(gone), "kind {kind}");
            assert_eq!(driver.queue_mut().used_idx(), before, "no more requests may complete");
            server.wait_disconnected();
        }
        let mut client = Client::connect(server.socket(), default_options()).unwrap();
        exercise(&mut self::driver(&mut client, 0), 100);
    }
}

/// Here the kernel accesses the missing page, not this process, so only that request fails with an
/// I/O error.
#[test]
fn truncated_memory_accessed_by_the_kernel_fails_only_the_request() {
    let _watchdog = Watchdog::new("truncated_memory_accessed_by_the_kernel_fails_only_the_request");
    let (image, path) = (TempPath::image(), TempPath::new("ram"));
    let server = TestServer::new(Setup { backend: Setup::file(&image), ..Setup::default() });
    let file = unsealed(&path);
    let mut client = Client::connect(server.socket(), default_options()).unwrap();
    let mut driver = driver(&mut client, 0);
    client.frontend().add_mem_region(region(BLOCK.into()), file.as_fd()).unwrap();
    file.set_len(0).unwrap();
    post(&mut driver, 1, 0, ELSEWHERE, BLOCK);
    assert_eq!(answer(&mut driver), Ok(1));
    exercise(&mut driver, 100);
}

/// The memory of the rings themselves is truncated.
#[test]
fn truncated_rings_end_the_session() {
    let _watchdog = Watchdog::new("truncated_rings_end_the_session");
    let path = TempPath::new("ram");
    let server = TestServer::new(Setup { backend: Backend::memory(SECTORS).unwrap(), ..Setup::default() });
    let mut client = Client::connect(server.socket(), default_options()).unwrap();
    let driver = BlkDriver::new(client.ports(0).unwrap(), super::DEPTH, BLOCK).unwrap();
    // The server gets another file of the same size, in which no request is available yet.
    let size = client.region().size;
    std::fs::write(&path, vec![0; size as usize]).unwrap();
    let file = File::options().read(true).write(true).open(&path).unwrap();
    let all = client.region();
    client.frontend().set_mem_table(&[(all, file.as_fd())]).unwrap();
    client.start(0).unwrap();
    file.set_len(0).unwrap();
    driver.ports().kick.notify().unwrap();
    server.wait_disconnected();
}

/// The in-flight region is memory of the frontend too.
#[test]
fn a_truncated_inflight_region_ends_the_session() {
    let _watchdog = Watchdog::new("a_truncated_inflight_region_ends_the_session");
    let path = TempPath::zeroes(BLOCK.into());
    let server = TestServer::new(Setup::default());
    let mut client = Client::connect(server.socket(), default_options()).unwrap();
    let file = File::options().read(true).write(true).open(&path).unwrap();
    let inflight = Inflight { mmap_size: BLOCK.into(), mmap_offset: 0, num_queues: 1, queue_size: 64 };
    client.frontend().set_inflight_fd(inflight, file.as_fd()).unwrap();
    let mut driver = driver(&mut client, 0);
    exercise(&mut driver, 50);
    file.set_len(0).unwrap();
    driver.read(0, 0).unwrap();
    driver.kick().unwrap();
    server.wait_disconnected();
}

//! The console: what goes in comes out, whoever is slow and whoever leaves.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use virtio_blk_sim::chardev::{Chardev, LIMIT, MAX_SEND};
use virtio_blk_sim::memory::GuestRam;
use virtio_blk_sim::vhost_user::{BackendRequest, Listening, Served};

use super::console_device::{Console, Size};
use super::rig::{Ring, TestServer, Vmm, temp_path, wait_until};

const LENGTH: usize = 1 << 20;

/// A console, its chardev, and where that listens. `threads` run the queues.
pub(crate) fn console_server(threads: usize) -> (TestServer, Arc<Chardev>, PathBuf) {
    let console = Console::default();
    console.resize(Size { columns: 80, rows: 25 });
    let (chardev, served) = (Arc::clone(&console.chardev), Arc::clone(&console.chardev));
    let path = temp_path();
    let listener = UnixListener::bind(&path).unwrap();
    let server = TestServer::new(Served::new(console), threads, move |context| {
        Box::new(served.listen(context, listener).unwrap())
    });
    (server, chardev, path)
}

/// A guest with both queues, and a client.
struct Rig {
    server: TestServer,
    chardev: Arc<Chardev>,
    path: PathBuf,
    ram: GuestRam,
    vmm: Vmm,
    rx: Ring,
    tx: Ring,
    client: UnixStream,
}

impl Drop for Rig {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

fn rig(threads: usize) -> Rig {
    let (server, chardev, path) = console_server(threads);
    let (ram, vmm, rx, tx) = boot(&server);
    let client = connect(&chardev, &path);
    Rig { server, chardev, path, ram, vmm, rx, tx, client }
}

fn boot(server: &TestServer) -> (GuestRam, Vmm, Ring, Ring) {
    let ram = GuestRam::new(2 * Ring::BYTES as usize).unwrap();
    let mut vmm = Vmm::new(server, &ram, &[]);
    let (rx, tx) = (Ring::new(&mut vmm, &ram, 0), Ring::new(&mut vmm, &ram, 1));
    (ram, vmm, rx, tx)
}

fn connect(chardev: &Chardev, path: &PathBuf) -> UnixStream {
    let client = UnixStream::connect(path).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    wait_until("the client is served", || chardev.is_connected());
    client
}

/// Test data. A piece that is lost, duplicated or moved changes the result of a comparison.
fn data(seed: u32) -> Vec<u8> {
    let words = (0..LENGTH as u32 / 4).map(|n| n.wrapping_mul(2_654_435_761).wrapping_add(seed));
    words.flat_map(u32::to_le_bytes).collect()
}

impl Rig {
    /// Receives so many bytes in the guest.
    fn receive(&mut self, wanted: usize, pause: Duration) -> Vec<u8> {
        let mut received = Vec::new();
        while received.len() < wanted {
            self.rx.offer();
            received.extend(self.rx.wait(&self.ram));
            std::thread::sleep(pause);
            assert!(self.chardev.buffered().0 < LIMIT + 4096, "the input is bounded");
        }
        received
    }

    /// Sends from the guest, all of it.
    fn send(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            bytes = &bytes[self.tx.send(&self.ram, bytes)..];
            assert!(self.chardev.buffered().1 < LIMIT + MAX_SEND, "the output is bounded");
            if !bytes.is_empty() {
                self.tx.wait(&self.ram);
            }
        }
    }
}

#[test]
fn a_guest_that_echoes_harms_nothing() {
    for threads in [0, 2] {
        let mut rig = rig(threads);
        let (sent, mut reader) = (data(1), rig.client.try_clone().unwrap());
        let mut writer = rig.client.try_clone().unwrap();
        let to_send = sent.clone();
        let send = std::thread::spawn(move || writer.write_all(&to_send).unwrap());
        let read = std::thread::spawn(move || {
            let mut came = vec![0; LENGTH];
            reader.read_exact(&mut came).unwrap();
            came
        });
        let mut echoed = 0;
        while echoed < LENGTH {
            let bytes = rig.receive(1, Duration::ZERO);
            rig.send(&bytes);
            echoed += bytes.len();
        }
        send.join().unwrap();
        assert!(read.join().unwrap() == sent, "{threads} threads");
    }
}

#[test]
fn a_guest_that_reads_slowly_stops_the_client_and_loses_nothing() {
    let mut rig = rig(0);
    let (sent, mut writer) = (data(2), rig.client.try_clone().unwrap());
    let to_send = sent.clone();
    let send = std::thread::spawn(move || writer.write_all(&to_send).unwrap());
    wait_until("the input's bound", || rig.chardev.buffered().0 >= LIMIT);
    std::thread::sleep(Duration::from_millis(50));
    assert!(!send.is_finished(), "the client has to wait");
    assert!(rig.chardev.buffered().0 < LIMIT + 4096);
    assert!(rig.receive(LENGTH, Duration::from_millis(1)) == sent);
    send.join().unwrap();
}

#[test]
fn a_client_that_reads_slowly_stops_the_guest_and_loses_nothing() {
    let mut rig = rig(0);
    let (sent, mut reader) = (data(3), rig.client.try_clone().unwrap());
    let (ram_left, mut posted) = (sent.clone(), 0);
    // Until the device takes no more: the client's socket and the buffer are full.
    wait_until("the output's bound", || {
        posted += rig.tx.send(&rig.ram, &ram_left[posted..]);
        while rig.tx.take(&rig.ram).is_some() {}
        rig.chardev.buffered().1 >= LIMIT
    });
    std::thread::sleep(Duration::from_millis(50));
    assert!(rig.chardev.buffered().1 < LIMIT + Ring::BUFFER as usize);
    assert!(posted < LENGTH, "the guest has to wait");
    let read = std::thread::spawn(move || {
        let mut came = Vec::<u8>::new();
        let mut part = [0; 10_000];
        while came.len() < LENGTH {
            let count = reader.read(&mut part).unwrap();
            came.extend(&part[..count]);
            std::thread::sleep(Duration::from_millis(1));
        }
        came
    });
    rig.send(&sent[posted..]);
    assert!(read.join().unwrap() == sent);
}

#[test]
fn nothing_is_held_when_a_queue_stops() {
    let mut rig = rig(0);
    rig.rx.offer();
    // rx waits for input with all its chains, tx for room.
    wait_until("the output's bound", || {
        rig.tx.send(&rig.ram, &[7; 4096]);
        while rig.tx.take(&rig.ram).is_some() {}
        rig.chardev.buffered().1 >= LIMIT
    });
    rig.tx.send(&rig.ram, &[7; 4096]);
    for (index, ring) in [(0, &rig.rx), (1, &rig.tx)] {
        let base = rig.vmm.frontend.get_vring_base(index).unwrap() as u16;
        assert_eq!(base, ring.driver.used_idx(), "queue {index}");
    }
}

#[test]
fn a_new_size_reaches_the_frontend() {
    let mut rig = rig(0);
    assert_eq!(rig.vmm.frontend.get_config(0, 12).unwrap(), [80, 0, 25, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    rig.vmm.frontend.open_backend_channel().unwrap();
    for (columns, rows) in [(132, 43), (300, 1)] {
        rig.server.ask(move |server: &Listening<Console>| {
            server.device().resize(Size { columns, rows });
            server.config_changed();
        });
        let request = rig.vmm.frontend.wait_backend_request().unwrap();
        assert!(matches!(request, BackendRequest::ConfigChange), "{request:?}");
        let size = [columns.to_le_bytes(), rows.to_le_bytes()].concat();
        assert_eq!(rig.vmm.frontend.get_config(0, 4).unwrap(), size);
    }
    // A read beyond the end.
    assert_eq!(rig.vmm.frontend.get_config(200, 8).unwrap(), [0; 8]);
}

#[test]
fn sizes_on_the_command_line() {
    let parse = |text: &str| text.parse::<Size>().map(|size| (size.columns, size.rows));
    assert_eq!(parse("132x43"), Ok((132, 43)));
    for wrong in ["", "80", "x", "80x", "80x-1", "65536x1", "80x25x1"] {
        assert!(parse(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn input_waits_for_the_next_guest() {
    let mut rig = rig(0);
    rig.rx.offer();
    rig.client.write_all(b"one").unwrap();
    assert_eq!(rig.rx.wait(&rig.ram), b"one");
    for round in 0..3 {
        // Without stopping its queues first.
        rig.vmm.hang_up();
        wait_until("the frontend is gone", || {
            !rig.server.ask(|server: &Listening<Console>| server.is_connected())
        });
        rig.client.write_all(b"meanwhile").unwrap();
        (rig.ram, rig.vmm, rig.rx, rig.tx) = boot(&rig.server);
        assert_eq!(rig.receive(9, Duration::ZERO), b"meanwhile", "round {round}");
        rig.send(b"thanks");
        let mut came = [0; 6];
        rig.client.read_exact(&mut came).unwrap();
        assert_eq!(&came, b"thanks");
    }
}

#[test]
fn a_client_that_leaves_makes_room_for_the_next() {
    let mut rig = rig(0);
    // It has not read everything, so the device gets ECONNRESET.
    rig.send(&[1; 100_000]);
    rig.client.write_all(b"last words").unwrap();
    rig.client = UnixStream::connect(&rig.path).unwrap();
    wait_until("the first client is gone or the second served", || {
        rig.client.set_nonblocking(true).unwrap();
        // The second was hung up on if it came before the first was seen to leave.
        match rig.client.read(&mut [0; 1]) {
            Ok(0) => rig.client = UnixStream::connect(&rig.path).unwrap(),
            Ok(_) => panic!("output for another client"),
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
        rig.chardev.is_connected()
    });
    rig.client.set_nonblocking(false).unwrap();
    assert_eq!(rig.receive(10, Duration::ZERO), b"last words");
    rig.send(b"hello");
    let mut came = [0; 5];
    rig.client.read_exact(&mut came).unwrap();
    assert_eq!(&came, b"hello");
}

#[test]
fn output_without_a_client_is_discarded_and_a_second_client_is_hung_up_on() {
    let mut rig = rig(0);
    let mut second = UnixStream::connect(&rig.path).unwrap();
    assert_eq!(second.read(&mut [0; 1]).unwrap(), 0);
    rig.client.shutdown(std::net::Shutdown::Both).unwrap();
    wait_until("the client is gone", || !rig.chardev.is_connected());
    rig.send(&data(4));
    let last = Ring::SIZE as usize;
    wait_until("all is taken", || {
        while rig.tx.take(&rig.ram).is_some() {}
        rig.tx.driver.free_descriptors() as usize == last
    });
    assert_eq!(rig.chardev.buffered().1, 0);
}

#[test]
fn what_a_client_sent_before_it_left_arrives_however_much_it_was() {
    let mut rig = rig(0);
    // As much as buffer and socket hold.
    rig.client.set_nonblocking(true).unwrap();
    let sent = data(5);
    let mut count = 0;
    wait_until("the socket is full", || match rig.client.write(&sent[count..]) {
        Ok(more) => {
            count += more;
            false
        }
        Err(_) => rig.chardev.buffered().0 >= LIMIT,
    });
    let (gone, _) = UnixStream::pair().unwrap();
    drop(std::mem::replace(&mut rig.client, gone));
    wait_until("the client is gone", || !rig.chardev.is_connected());
    assert!(count > LIMIT + 4096);
    assert!(rig.receive(count, Duration::ZERO) == sent[..count]);
}

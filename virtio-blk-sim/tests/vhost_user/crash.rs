//! The server is killed with writes in flight. The next server finds them in the in-flight region.

use std::os::unix::fs::FileExt;

use virtio_blk_sim::guest::BlkDriver;
use vm_memory::Bytes;

use super::client::{Client, ClientOptions};
use super::process::Process;
use super::server::{Setup, TempPath, TestServer};
use super::{Watchdog, default_options, driver, exercise};

/// Requests in flight.
const DEPTH: u16 = 32;
/// Bytes per write, large enough that some writes are being executed when the kill comes.
const BLOCK: u32 = 128 << 10;
/// Size of the disk in blocks.
const BLOCKS: u64 = 64;

/// A guest that writes the blocks repeatedly and knows what each must contain. Slot `n` uses only
/// the blocks `n`, `n + 32`, ..., so requests in flight never overlap.
struct Writer {
    driver: BlkDriver,
    /// By block: the number of the last acknowledged write, or 0 if there is none.
    acknowledged: Vec<u64>,
    /// By slot: the block and the number of the write in flight.
    in_flight: Vec<Option<(u64, u64)>>,
    count: u64,
    seed: u64,
}

fn image() -> TempPath {
    TempPath::zeroes(BLOCKS * u64::from(BLOCK))
}

fn big_writes() -> ClientOptions {
    ClientOptions::new(64, BlkDriver::ram_bytes(64, DEPTH, BLOCK))
}

/// The data of write `number` to a block.
fn content(block: u64, number: u64) -> Vec<u8> {
    let word = if number == 0 { 0 } else { (block << 40 | number).wrapping_mul(0x9e37_79b9_7f4a_7c15) };
    word.to_le_bytes().repeat(BLOCK as usize / 8)
}

impl Writer {
    fn new(client: &mut Client) -> Self {
        let driver = BlkDriver::new(client.ports(0).unwrap(), DEPTH, BLOCK).unwrap();
        client.start(0).unwrap();
        let in_flight = vec![None; DEPTH.into()];
        Self { driver, acknowledged: vec![0; BLOCKS as usize], in_flight, count: 0, seed: 3 }
    }

    fn submit(&mut self) {
        for slot in 0..DEPTH {
            if self.in_flight[usize::from(slot)].is_none() {
                self.seed =
                    self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let own = BLOCKS / u64::from(DEPTH);
                let block = u64::from(slot) + u64::from(DEPTH) * ((self.seed >> 33) % own);
                self.count += 1;
                let data = self.driver.data(slot);
                self.driver.ports().memory.write_slice(&content(block, self.count), data).unwrap();
                self.driver.write(slot, block * u64::from(BLOCK) / 512).unwrap();
                self.in_flight[usize::from(slot)] = Some((block, self.count));
            }
        }
        self.driver.kick().unwrap();
    }

    /// Takes the acknowledged writes. Returns their number.
    fn reap(&mut self) -> usize {
        let mut finished = Vec::new();
        self.driver.reap(&mut finished).unwrap();
        for completion in &finished {
            assert_eq!(completion.status, 0);
            let (block, number) =
                self.in_flight[usize::from(completion.slot)].take().expect("a write completes only once");
            self.acknowledged[block as usize] = number;
        }
        finished.len()
    }

    /// Waits until no write is in flight.
    fn finish(&mut self) {
        self.reap();
        while self.in_flight.iter().any(Option::is_some) {
            self.driver.wait().unwrap();
            self.reap();
        }
    }

    /// Checks that every acknowledged write is in the image. Blocks with a write in flight may have
    /// any content.
    fn check(&self, image: &TempPath) {
        let image = std::fs::File::open(image).unwrap();
        for (block, &number) in (0..).zip(&self.acknowledged) {
            let unsettled = self.in_flight.iter().flatten().any(|&(in_flight, _)| in_flight == block);
            if !unsettled {
                let mut found = vec![0; BLOCK as usize];
                image.read_exact_at(&mut found, block * u64::from(BLOCK)).unwrap();
                assert!(found == content(block, number), "block {block} does not hold its write {number}");
            }
        }
    }
}

#[test]
fn a_killed_server_loses_no_acknowledged_write_and_the_next_server_finishes_the_rest() {
    let _watchdog =
        Watchdog::new("a_killed_server_loses_no_acknowledged_write_and_the_next_server_finishes_the_rest");
    let (socket, image) = (TempPath::new("sock"), image());
    let mut client: Option<Client> = None;
    let mut writer: Option<Writer> = None;
    let mut left_behind = 0;
    // Heads that servers had taken when they were killed, which the next server must execute again.
    // By engine: ring and pool.
    let mut taken = [0; 2];
    for round in 0.. {
        if round >= 12 && taken.iter().all(|&heads| heads > 0) {
            break;
        }
        assert!(
            round < 400,
            "no kill happened with requests taken, so replay was not tested: ring, pool {taken:?}"
        );
        // With each monitor, and with the queue on the main loop or on an I/O thread.
        let monitor = ["io_uring", "epoll", "poll"][round % 3];
        let threads = ["0", "1"][round % 2];
        let server = Process::start(&socket, &image, &["--monitor", monitor, "--threads", threads]);
        let client: &mut Client = match &mut client {
            Some(client) => {
                client.reconnect(&socket).unwrap();
                client
            }
            none => none.insert(Client::connect(&socket, big_writes()).unwrap()),
        };
        let writer = match &mut writer {
            Some(writer) => {
                writer.driver.set_irq(client.ports(0).unwrap().irq);
                left_behind += writer.in_flight.iter().flatten().count();
                if round % 2 == 0 {
                    writer.finish();
                    writer.check(&image);
                }
                writer
            }
            none => none.insert(Writer::new(client)),
        };
        let mut acknowledged = 0;
        while acknowledged < 100 + 7 * (round % 12) {
            writer.submit();
            writer.driver.wait().unwrap();
            acknowledged += writer.reap();
        }
        if round % 2 == 1 {
            // This server is stopped before it can take the writes.
            server.signal(libc::SIGSTOP);
        }
        writer.submit();
        server.kill();
        taken[usize::from(monitor != "io_uring")] += client.heads_in_flight();
        writer.reap();
        writer.check(&image);
    }
    assert!(left_behind > 0, "no kill happened with writes in flight");
    let _server = Process::start(&socket, &image, &[]);
    let (mut client, mut writer) = (client.unwrap(), writer.unwrap());
    client.reconnect(&socket).unwrap();
    writer.driver.set_irq(client.ports(0).unwrap().irq);
    writer.finish();
    writer.check(&image);
    assert_eq!(u64::from(client.stop(0).unwrap()), writer.count, "each write must be taken once");
}

#[test]
fn a_session_that_ends_with_writes_in_flight_is_resumed() {
    let _watchdog = Watchdog::new("a_session_that_ends_with_writes_in_flight_is_resumed");
    let image = image();
    let server = TestServer::new(Setup { backend: Setup::file(&image), ..Setup::default() });
    let mut client = Client::connect(server.socket(), big_writes()).unwrap();
    let mut writer = Writer::new(&mut client);
    for _ in 0..20 {
        writer.submit();
        client.reconnect(server.socket()).unwrap();
        writer.driver.set_irq(client.ports(0).unwrap().irq);
        writer.finish();
        writer.check(&image);
    }
    assert_eq!(u64::from(client.stop(0).unwrap()), writer.count);
    // An ordinary session on the same server works too.
    drop(client);
    let mut client = Client::connect(server.socket(), default_options()).unwrap();
    exercise(&mut driver(&mut client, 0), 100);
}

//! An image that is locked while it is used changes hands: two servers have it open, and one at a
//! time uses it.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use virtio_blk_sim::blk::backend::{Backend, Delay, FileImage, LockError};

use super::client::Client;
use super::process::Process;
use super::server::{Setup, TempPath, TestServer};
use super::{Watchdog, default_options, driver, exercise, finish};

fn server(image: &TempPath, threads: usize) -> TestServer {
    let image = FileImage::open(image, false, false).unwrap().locked_while_used();
    TestServer::new(Setup { backend: Backend::File(Arc::new(image)), threads, ..Setup::default() })
}

fn client(server: &TestServer) -> Client {
    Client::connect(server.socket(), default_options()).unwrap()
}

/// Whether another program could use the image now.
fn is_free(path: &TempPath) -> bool {
    match FileImage::open(path, false, false).unwrap().try_lock() {
        Ok(()) => true,
        Err(LockError::InUse(_)) => false,
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn the_image_is_locked_while_queues_run() {
    let _watchdog = Watchdog::new("the_image_is_locked_while_queues_run");
    let image = TempPath::image();
    for threads in [0, 1] {
        let server = server(&image, threads);
        assert!(is_free(&image), "nobody has connected");
        let mut client = client(&server);
        assert!(is_free(&image), "no queue has started");
        let mut driver = driver(&mut client, 0);
        assert!(!is_free(&image));
        exercise(&mut driver, 100);
        let base = client.stop(0).unwrap();
        assert!(is_free(&image), "the queue was stopped");
        assert_eq!(base, 100);
        client.start(0).unwrap();
        assert!(!is_free(&image));
        exercise(&mut driver, 100);
        drop(client);
        server.wait_disconnected();
        assert!(is_free(&image), "the frontend is gone");
    }
}

#[test]
fn a_queue_waits_for_the_image_and_takes_nothing_meanwhile() {
    let _watchdog = Watchdog::new("a_queue_waits_for_the_image_and_takes_nothing_meanwhile");
    let image = TempPath::image();
    for threads in [0, 1] {
        let (source, destination) = (server(&image, threads), server(&image, threads));
        let (mut first, mut second) = (client(&source), client(&destination));
        let mut running = driver(&mut first, 0);
        exercise(&mut running, 100);
        let mut waiting = driver(&mut second, 0);
        let before = std::fs::read(&image).unwrap();
        waiting.write(0, 5).unwrap();
        waiting.kick().unwrap();
        // The table of the running guest changes, which stops and starts its ring: it keeps the
        // image all the time.
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let load = scope.spawn(|| {
                while !stop.load(Ordering::Acquire) {
                    exercise(&mut running, 50);
                }
            });
            let look = scope.spawn(|| {
                let other = FileImage::open(&image, false, false).unwrap();
                while !stop.load(Ordering::Acquire) {
                    assert!(other.try_lock().is_err(), "the image is free for a moment");
                }
            });
            for _ in 0..200 {
                let (region, file) = (first.region(), first.ram().file().try_clone().unwrap());
                first.frontend().set_mem_table(&[(region, file.as_fd())]).unwrap();
                assert_eq!(destination.answered(), 0, "the image is used by another process");
            }
            stop.store(true, Ordering::Release);
            load.join().unwrap();
            look.join().unwrap();
        });
        assert_eq!(second.heads_in_flight(), 0, "a request that waits is not taken");
        // It can be stopped while it waits, and continues to wait.
        assert_eq!(second.stop(0).unwrap(), 0);
        second.start(0).unwrap();
        first.stop(0).unwrap();
        let mut finished = Vec::new();
        finish(&mut waiting, &mut finished, 1);
        assert!(!is_free(&image));
        exercise(&mut waiting, 100);
        // And back.
        first.start(0).unwrap();
        second.stop(0).unwrap();
        exercise(&mut running, 100);
        assert_eq!(before.len(), std::fs::read(&image).unwrap().len());
    }
}

/// What a former process left in flight is not carried out before the image is there either.
#[test]
fn what_was_in_flight_waits_too() {
    let _watchdog = Watchdog::new("what_was_in_flight_waits_too");
    let image = TempPath::image();
    let holder = FileImage::open(&image, false, false).unwrap();
    holder.lock().unwrap();
    // A server that never answers leaves a request in flight.
    let stuck = TestServer::new(Setup {
        backend: Backend::Delay(Delay { latency: Duration::from_secs(1), spin: false }),
        ..Setup::default()
    });
    let mut client = client(&stuck);
    let mut driver = driver(&mut client, 0);
    driver.write(0, 3).unwrap();
    driver.kick().unwrap();
    while client.heads_in_flight() == 0 {
        std::thread::yield_now();
    }
    let server = server(&image, 0);
    client.reconnect(server.socket()).unwrap();
    let irq = client.ports(0).unwrap().irq;
    driver.set_irq(irq);
    assert_eq!(client.heads_in_flight(), 1);
    for _ in 0..20 {
        assert_eq!(server.answered(), 0);
        std::thread::sleep(Duration::from_millis(3));
    }
    assert!(std::fs::read(&image).unwrap().iter().all(|byte| *byte == 0), "the image is not written");
    drop(holder);
    let mut finished = Vec::new();
    finish(&mut driver, &mut finished, 1);
    assert_eq!(client.heads_in_flight(), 0);
}

/// Two servers of the program, as an operator starts them.
#[test]
fn two_programs_share_an_image_one_at_a_time() {
    let _watchdog = Watchdog::new("two_programs_share_an_image_one_at_a_time");
    let (image, sockets) = (TempPath::image(), [(); 2].map(|()| TempPath::new("sock")));
    let start = |socket, more: &[&str]| {
        Process::start(socket, &image, &[&["--lock", "running", "--sandbox", "on"], more].concat())
    };
    let servers = [start(&sockets[0], &[]), start(&sockets[1], &["--threads", "1"])];
    let mut clients = sockets.each_ref().map(|socket| Client::connect(socket, default_options()).unwrap());
    let [first, second] = &mut clients;
    let mut drivers = [driver(first, 0), driver(second, 0)];
    servers[1].wait_for_line("a queue waits for the image: another process writes to it");
    for round in 0..4 {
        let user = round % 2;
        exercise(&mut drivers[user], 100);
        clients[user].stop(0).unwrap();
        exercise(&mut drivers[1 - user], 100);
        clients[user].start(0).unwrap();
    }
}

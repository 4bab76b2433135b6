//! Several servers on one loop: none of them holds up another. And queues that change loops.

use std::cell::RefCell;
use std::io::ErrorKind;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::Duration;

use aio::{AioContext, IoThread};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use virtio_blk_sim::blk::Disk;
use virtio_blk_sim::blk::backend::{Backend, Delay};
use virtio_blk_sim::blk::device::{BlockDevice, DeviceConfig};
use virtio_blk_sim::guest::BlkDriver;
use virtio_blk_sim::vhost_user::{Code, Header, Listening, Loops, Served, Server, Throttled};

use super::client::{Client, ClientOptions};
use super::server::{Setup, TempPath, TestServer};
use super::{DEPTH, SECTORS, Watchdog, default_options, driver, exercise, finish};

thread_local! {
    /// The servers of this thread.
    static SERVERS: RefCell<Vec<Listening<Disk>>> = const { RefCell::new(Vec::new()) };
}

/// Servers of disks with these latencies, all on one loop. Their queues run on that loop, or all of
/// them on one other loop.
pub(crate) struct Host {
    sockets: Vec<TempPath>,
    loop_thread: IoThread,
}

impl Host {
    fn new(latencies: &[Duration], elsewhere: bool) -> Self {
        Self::start(latencies, elsewhere, false)
    }

    /// Servers that throttle their frontends.
    pub(crate) fn throttling(servers: usize, elsewhere: bool) -> Self {
        Self::start(&vec![Duration::ZERO; servers], elsewhere, true)
    }

    fn start(latencies: &[Duration], elsewhere: bool, throttles: bool) -> Self {
        let sockets: Vec<_> = latencies.iter().map(|_| TempPath::new("sock")).collect();
        let listeners: Vec<_> = sockets.iter().map(|path| UnixListener::bind(path).unwrap()).collect();
        let latencies = latencies.to_vec();
        let builder = AioContext::builder();
        let queues = elsewhere.then(|| Arc::new(IoThread::spawn("queues", builder.clone()).unwrap()));
        let loop_thread = IoThread::spawn_with("servers", builder, move |context| {
            for (listener, latency) in listeners.into_iter().zip(latencies) {
                let backend = match latency.is_zero() {
                    true => Backend::memory(SECTORS).unwrap(),
                    false => Backend::Delay(Delay { latency, spin: false }),
                };
                let device = BlockDevice::new(DeviceConfig::new(SECTORS)).unwrap();
                let loops = Loops::on(queues.clone(), Vec::new())?;
                let served = Served { throttles, ..Served::new(Disk::new(device, backend)) };
                let server = Server::new(served, loops);
                let listening = server.listen(context, listener)?;
                SERVERS.with_borrow_mut(|servers| servers.push(listening));
            }
            Ok(())
        })
        .unwrap();
        Self { sockets, loop_thread }
    }

    pub(crate) fn throttled(&self, index: usize) -> Throttled {
        self.loop_thread.run(move |_| SERVERS.with_borrow(|servers| servers[index].throttled())).unwrap()
    }

    pub(crate) fn connect(&self, index: usize) -> (Client, BlkDriver) {
        let mut client = Client::connect(&self.sockets[index], default_options()).unwrap();
        let driver = driver(&mut client, 0);
        (client, driver)
    }

    /// Submits requests to a disk, and returns when all of them were taken.
    fn fill(&self, index: usize, driver: &mut BlkDriver) {
        let drains = move |_: &AioContext| {
            SERVERS.with_borrow(|servers| servers[index].stats().iter().map(|(_, stats)| stats.drains).sum())
        };
        let drains = || -> u64 { self.loop_thread.run(drains).unwrap() };
        while drains() == 0 {}
        let before = drains();
        (0..DEPTH).for_each(|slot| driver.read(slot, 0).unwrap());
        driver.kick().unwrap();
        while drains() == before {}
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.loop_thread.run(|_| drop(SERVERS.with_borrow_mut(std::mem::take)));
    }
}

fn ask_to_stop(client: &mut Client) {
    let message = Header::request(Code::GetVringBase.number(), 8).encode();
    client.frontend().send_raw(&[message.as_slice(), &[0; 8]].concat(), &[]).unwrap();
}

fn wait_for_stop(client: &mut Client) {
    let answer = client.frontend().receive_raw().unwrap();
    assert_eq!(answer.header.request, Code::GetVringBase.number());
}

const NO_TIME: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

/// Returns true if the server has sent nothing that was not read yet.
fn is_silent(client: &mut Client) -> bool {
    let mut socket = [PollFd::new(client.frontend(), PollFlags::IN)];
    poll(&mut socket, Some(&NO_TIME)).unwrap() == 0
}

/// A disk that waits for its storage must not keep other disks' frontends waiting.
#[test]
fn a_ring_that_stops_slowly_holds_up_no_other_server() {
    let _watchdog = Watchdog::new("a_ring_that_stops_slowly_holds_up_no_other_server");
    for elsewhere in [false, true] {
        let host = Host::new(&[Duration::from_secs(4), Duration::ZERO], elsewhere);
        let (mut slow, mut slow_driver) = host.connect(0);
        host.fill(0, &mut slow_driver);
        ask_to_stop(&mut slow);
        for _ in 0..3 {
            let (mut quick, mut quick_driver) = host.connect(1);
            exercise(&mut quick_driver, 100);
            quick.stop(0).unwrap();
            drop((quick, quick_driver));
            let gone = |_: &AioContext| SERVERS.with_borrow(|servers| !servers[1].is_connected());
            while !host.loop_thread.run(gone).unwrap() {}
        }
        assert!(is_silent(&mut slow), "the quick disk had its sessions while the slow one was stopping");
        wait_for_stop(&mut slow);
    }
}

/// The wait of one disk does not include those that began after it.
#[test]
fn a_ring_that_stops_does_not_wait_for_another_one() {
    let _watchdog = Watchdog::new("a_ring_that_stops_does_not_wait_for_another_one");
    for elsewhere in [false, true] {
        let host = Host::new(&[Duration::from_secs(1), Duration::from_secs(4)], elsewhere);
        let (mut first, mut first_driver) = host.connect(0);
        let (mut second, mut second_driver) = host.connect(1);
        host.fill(0, &mut first_driver);
        host.fill(1, &mut second_driver);
        ask_to_stop(&mut first);
        ask_to_stop(&mut second);
        wait_for_stop(&mut first);
        assert!(is_silent(&mut second), "the second disk needs four seconds");
        wait_for_stop(&mut second);
    }
}

/// The guest notices nothing of 300 moves, whatever is in flight, and neither does the other queue.
#[test]
fn a_queue_moves_while_it_serves() {
    let _watchdog = Watchdog::new("a_queue_moves_while_it_serves");
    let image = TempPath::image();
    for backend in [Backend::memory(SECTORS).unwrap(), Setup::file(&image)] {
        let server = TestServer::new(Setup { backend, threads: 3, queues: 2, ..Setup::default() });
        let options = ClientOptions { queues: 2, ..default_options() };
        let mut client = Client::connect(server.socket(), options).unwrap();
        let mut drivers = [driver(&mut client, 0), driver(&mut client, 1)];
        let [moved, still] = &mut drivers;
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            // The two queues write to the same sectors, so only one of them verifies.
            scope.spawn(|| {
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    still.read(0, 0).unwrap();
                    still.kick().unwrap();
                    finish(still, &mut Vec::new(), 1);
                }
            });
            let mover = scope.spawn(|| {
                for round in 0..300 {
                    let thread = (round + 1) % 3;
                    let moved =
                        server.ask(move |server, context| context.block_on(server.move_queue(0, thread)));
                    moved.unwrap().unwrap();
                    assert_eq!(server.ask(|server, _| server.loops().place(0)), Some(thread));
                }
            });
            while !mover.is_finished() {
                exercise(moved, 500);
            }
            exercise(moved, 500);
            done.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        for wrong in [(2, 0), (0, 3)] {
            let refused = server.ask(move |server, context| {
                context.block_on(server.move_queue(wrong.0, wrong.1)).unwrap().unwrap_err().kind()
            });
            assert_eq!(refused, ErrorKind::InvalidInput);
        }
    }
}

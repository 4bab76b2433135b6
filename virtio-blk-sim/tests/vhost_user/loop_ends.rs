//! Queues on other loops: what becomes of them if two move one of them at once, or if a loop ends.

use std::cell::RefCell;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use aio::{AioContext, IoThread};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use virtio_blk_sim::blk::Disk;
use virtio_blk_sim::blk::backend::Backend;
use virtio_blk_sim::blk::device::{BlockDevice, DeviceConfig};
use virtio_blk_sim::guest::BlkDriver;
use virtio_blk_sim::vhost_user::{Listening, Loops, Served, Server};

use super::client::Client;
use super::server::TempPath;
use super::{BLOCK, DEPTH, SECTORS, Watchdog, default_options, driver, exercise};

thread_local! {
    static SERVER: RefCell<Option<Listening<Disk>>> = const { RefCell::new(None) };
}

/// A server whose only queue runs on one of `threads`.
struct Host {
    socket: TempPath,
    main: IoThread,
    threads: Vec<Arc<IoThread>>,
}

impl Host {
    fn new(threads: usize) -> Self {
        let builder = AioContext::builder();
        let spawn = |_| Arc::new(IoThread::spawn("queues", builder.clone()).unwrap());
        let threads: Vec<_> = (0..threads).map(spawn).collect();
        let socket = TempPath::new("sock");
        let (listener, of_server) = (UnixListener::bind(&socket).unwrap(), threads.clone());
        let main = IoThread::spawn_with("server", builder, move |context| {
            let device = BlockDevice::new(DeviceConfig::new(SECTORS)).unwrap();
            let disk = Disk::new(device, Backend::memory(SECTORS).unwrap());
            let server = Server::new(Served::new(disk), Loops::on(of_server, Vec::new())?);
            let listening = server.listen(context, listener)?;
            SERVER.with_borrow_mut(|place| *place = Some(listening));
            Ok(())
        })
        .unwrap();
        Self { socket, main, threads }
    }

    fn ask<R: Send + 'static>(
        &self,
        ask: impl FnOnce(&Listening<Disk>, &AioContext) -> R + Send + 'static,
    ) -> R {
        let ask = |context: &AioContext| SERVER.with_borrow(|server| ask(server.as_ref().unwrap(), context));
        self.main.run(ask).unwrap()
    }

    /// Moves the queue in a task. What it returns says when that is done.
    fn start_move(&self, thread: usize) -> std::sync::mpsc::Receiver<()> {
        let (done, is_done) = channel();
        self.ask(move |server, context| {
            let server = std::rc::Rc::clone(server);
            drop(context.spawn(async move {
                server.move_queue(0, thread).await.unwrap();
                done.send(()).unwrap();
            }));
        });
        is_done
    }

    /// Ends a loop by a panic.
    fn end(&self, thread: usize) {
        self.threads[thread].handle().schedule(|_| panic!("this loop ends"));
        while self.threads[thread].is_alive() {
            std::thread::yield_now();
        }
    }

    /// The loop does nothing until what this returns is dropped.
    fn block(&self, thread: usize) -> Sender<()> {
        let (gate, opened) = channel::<()>();
        self.threads[thread].handle().schedule(move |_| {
            let _ = opened.recv();
        });
        gate
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.main.run(|_| drop(SERVER.with_borrow_mut(Option::take)));
    }
}

/// A queue that is about to start on one loop is moved to the next one all the same.
#[test]
fn of_two_moves_at_once_the_last_one_counts() {
    let _watchdog = Watchdog::new("of_two_moves_at_once_the_last_one_counts");
    let host = Host::new(3);
    let mut client = Client::connect(&host.socket, default_options()).unwrap();
    let mut driver = driver(&mut client, 0);
    exercise(&mut driver, 50);
    let gate = host.block(1);
    let first = host.start_move(1);
    // It has left its loop, and waits for the other one to start.
    while host.ask(|server, _| !server.stats().is_empty()) {}
    host.threads[0].run(|_| ()).unwrap();
    std::thread::sleep(Duration::from_millis(50));
    let second = host.start_move(2);
    drop(gate);
    first.recv().unwrap();
    second.recv().unwrap();
    assert_eq!(host.ask(|server, _| server.loops().place(0)), Some(2));
    let _gate = host.block(1);
    driver.read(0, 0).unwrap();
    driver.kick().unwrap();
    let deadline = Instant::now() + Duration::from_secs(5);
    while !driver.queue_mut().has_used() {
        assert!(Instant::now() < deadline, "the queue runs on the loop of the first move");
    }
}

/// Whether the server has hung up, or does so within five seconds.
fn is_hung_up(client: &mut Client) -> bool {
    let mut socket = [PollFd::new(client.frontend(), PollFlags::RDHUP)];
    poll(&mut socket, Some(&Timespec { tv_sec: 5, tv_nsec: 0 })).unwrap() == 1
}

/// The position of a queue is lost with its loop, so the frontend has to set it up again. Then it
/// runs on a loop that is left. Those whose queues are on other loops notice nothing.
#[test]
fn the_session_of_a_queue_whose_loop_has_ended_ends() {
    let _watchdog = Watchdog::new("the_session_of_a_queue_whose_loop_has_ended_ends");
    let host = Host::new(3);
    let mut client = Client::connect(&host.socket, default_options()).unwrap();
    let mut first = driver(&mut client, 0);
    exercise(&mut first, DEPTH.into());
    host.end(2);
    exercise(&mut first, DEPTH.into());
    assert!(!client.take_error(0).unwrap());
    host.end(0);
    assert!(is_hung_up(&mut client), "nobody tells the frontend");
    assert!(client.take_error(0).unwrap(), "its error eventfd is not signalled");
    // Answered once. What was in flight is for the frontend to find out, with its in-flight region.
    assert_eq!(first.queue_mut().used_idx(), 2 * DEPTH);
    while host.ask(|server, _| server.is_connected()) {}
    let mut client = Client::connect(&host.socket, default_options()).unwrap();
    exercise(&mut driver(&mut client, 0), 50);
    assert_eq!(host.ask(|server, _| server.loops().place(0)), Some(1));
}

/// Also if nothing runs on it at the moment: the queue is waiting to move there.
#[test]
fn a_queue_on_its_way_to_a_loop_that_ends_ends_its_session_or_runs_elsewhere() {
    let _watchdog =
        Watchdog::new("a_queue_on_its_way_to_a_loop_that_ends_ends_its_session_or_runs_elsewhere");
    for ends in [0, 1] {
        let host = Host::new(3);
        let mut client = Client::connect(&host.socket, default_options()).unwrap();
        let mut first = driver(&mut client, 0);
        exercise(&mut first, 50);
        host.end(ends);
        host.start_move(1).recv().unwrap();
        if ends == 0 {
            // It was there.
            assert!(is_hung_up(&mut client));
            continue;
        }
        assert_eq!(host.ask(|server, _| server.loops().place(0)), Some(2));
        exercise(&mut first, 50);
    }
}

/// A loop that has failed has still to drop what it had, and that can take long.
#[test]
fn no_queue_starts_on_a_loop_that_is_ending() {
    struct Slow(Receiver<()>);

    impl Drop for Slow {
        fn drop(&mut self) {
            let _ = self.0.recv();
        }
    }

    let _watchdog = Watchdog::new("no_queue_starts_on_a_loop_that_is_ending");
    let host = Host::new(2);
    let (gate, opened) = channel::<()>();
    let slow = Slow(opened);
    let task = host.threads[0].handle().spawn(move |_| async move {
        let _slow = slow;
        std::future::pending::<()>().await;
    });
    host.threads[0].run(|_| ()).unwrap();
    host.threads[0].handle().schedule(|_| panic!("this loop ends"));
    while host.threads[0].failure().is_none() {
        std::thread::yield_now();
    }
    assert!(host.threads[0].is_alive());
    let mut client = Client::connect(&host.socket, default_options()).unwrap();
    exercise(&mut driver(&mut client, 0), 50);
    assert_eq!(host.ask(|server, _| server.loops().place(0)), Some(1));
    drop((gate, task));
}

/// Without any loop, a frontend gets an error, and nothing else ends.
#[test]
fn without_a_loop_no_queue_starts() {
    let _watchdog = Watchdog::new("without_a_loop_no_queue_starts");
    let host = Host::new(2);
    (0..2).for_each(|index| host.end(index));
    for _ in 0..3 {
        let mut client = Client::connect(&host.socket, default_options()).unwrap();
        let mut driver = BlkDriver::new(client.ports(0).unwrap(), DEPTH, BLOCK).unwrap();
        driver.read(0, 0).unwrap();
        let started = client.start(0);
        assert!(started.is_err() || client.take_error(0).unwrap(), "{started:?}");
    }
}

/// A context that ends ends its frontends, also those that wait, and leaves nothing behind.
#[test]
fn the_end_of_the_context_frees_the_device() {
    let _watchdog = Watchdog::new("the_end_of_the_context_frees_the_device");
    let context = AioContext::new().unwrap();
    let device = BlockDevice::new(DeviceConfig::new(SECTORS)).unwrap();
    let served = Served::new(Disk::new(device, Backend::memory(SECTORS).unwrap()));
    let device = Arc::downgrade(&served.device);
    let server = Server::new(served, Loops::own());
    let pair = || std::os::unix::net::UnixStream::pair().unwrap();
    let (gone, served) = pair();
    server.serve(&context, served).unwrap();
    context.poll(false).unwrap();
    drop(gone);
    let (_waiting, waits) = pair();
    server.serve(&context, waits).unwrap();
    drop(context);
    assert!(!server.is_connected());
    drop(server);
    assert!(device.upgrade().is_none());
}

//! Queues on other loops: what becomes of them if two move one of them at once, or if a loop ends.

use std::cell::RefCell;
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use aio::{AioContext, EventNotifier, IoThread, Reset};
use virtio_blk_sim::blk::Disk;
use virtio_blk_sim::blk::backend::Backend;
use virtio_blk_sim::blk::device::{BlockDevice, DeviceConfig};
use virtio_blk_sim::vhost_user::{Listening, Loops, ProtocolFeatures, Served, Server};

use super::client::{Client, ClientOptions};
use super::server::TempPath;
use super::{DEPTH, SECTORS, Watchdog, default_options, driver, exercise, finish};

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

/// The position of a queue is lost with its loop. What the guest has got answers to is not done
/// again.
#[test]
fn a_queue_whose_loop_has_ended_goes_on_after_its_last_answer() {
    let _watchdog = Watchdog::new("a_queue_whose_loop_has_ended_goes_on_after_its_last_answer");
    let host = Host::new(2);
    let protocol = Some(ProtocolFeatures::MQ | ProtocolFeatures::CONFIG);
    let mut client = Client::connect(&host.socket, ClientOptions { protocol, ..default_options() }).unwrap();
    let mut driver = driver(&mut client, 0);
    exercise(&mut driver, DEPTH.into());
    host.threads[0].handle().schedule(|_| panic!("this loop ends"));
    while host.threads[0].is_alive() {
        std::thread::yield_now();
    }
    host.start_move(1).recv().unwrap();
    let kick = EventNotifier::new(Reset::Classic).unwrap();
    client.frontend().set_vring_kick(0, Some(kick.as_fd())).unwrap();
    client.frontend().get_features().unwrap();
    // The look at the ring that its start causes.
    while host.ask(|server, _| server.stats().iter().all(|(_, stats)| stats.drains == 0)) {}
    let requests = host.ask(|server, _| server.stats()[0].1.requests);
    assert_eq!(requests, 0, "requests were carried out twice");
    driver.read(0, 0).unwrap();
    driver.kick().unwrap();
    kick.notify().unwrap();
    finish(&mut driver, &mut Vec::new(), 1);
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

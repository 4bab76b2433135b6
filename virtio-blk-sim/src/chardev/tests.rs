use std::cell::Cell;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use super::*;
use crate::memory::{GuestAddress, GuestRam};
use crate::virtqueue::{Chain, DeviceQueue, DriverQueue, QueueConfig};

/// More turns than a loop needs when nothing more arrives.
const TURNS: usize = 1000;

/// A chardev that serves one client.
struct Rig {
    context: AioContext,
    chardev: Arc<Chardev>,
    clients: Clients,
    client: UnixStream,
}

impl Rig {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("chardev-{}-{count}", std::process::id());
        let address = SocketAddr::from_abstract_name(name).unwrap();
        let listener = UnixListener::bind_addr(&address).unwrap();
        let (context, chardev) = (AioContext::new().unwrap(), Arc::<Chardev>::default());
        let clients = Arc::clone(&chardev).listen(&context, listener).unwrap();
        let client = UnixStream::connect_addr(&address).unwrap();
        let rig = Self { context, chardev, clients, client };
        while !rig.chardev.is_connected() {
            rig.context.poll(true).unwrap();
        }
        rig.settle();
        rig
    }

    fn settle(&self) {
        let turns = (0..TURNS).take_while(|_| self.context.poll(false).unwrap()).count();
        assert!(turns < TURNS, "the loop spins");
    }

    /// Takes input with a chain; returns how many bytes.
    fn receive(&self, bytes: u32) -> u32 {
        self.chardev.receive(chain(0, bytes).writable())
    }
}

/// A chain of which so many bytes are readable and writable.
fn chain(readable: u32, writable: u32) -> Chain {
    let ram = GuestRam::new(4 << 20).unwrap();
    let config = QueueConfig::at(GuestAddress(0), 4);
    let mut driver = DriverQueue::new(ram.map().unwrap(), config).unwrap();
    let at = |address, len| (GuestAddress(address), len);
    let (input, output) = ([at(1 << 20, readable)], [at(3 << 20, writable)]);
    let readable = if readable == 0 { &[][..] } else { &input };
    let writable = if writable == 0 { &[][..] } else { &output };
    driver.add(readable, writable).unwrap().unwrap();
    let _ = driver.publish();
    let mut device = DeviceQueue::new(ram.memory().clone(), config).unwrap();
    let mut chain = device.new_chain();
    assert!(device.pop(&mut chain).unwrap());
    chain
}

#[test]
fn dropping_the_clients_hangs_up_and_makes_room() {
    let Rig { context, chardev, clients, mut client } = Rig::new();
    let wakes = Rc::<Cell<u32>>::default();
    let count = Rc::clone(&wakes);
    let wake = context.bottom_half(move |_| count.set(count.get() + 1));
    chardev.on_room(wake.handle());
    chardev.send(chain(LIMIT as u32, 0).readable());
    assert!(!chardev.has_room());
    drop(clients);
    while context.poll(false).unwrap() {}
    assert!(!chardev.is_connected() && chardev.has_room());
    assert_eq!(wakes.get(), 1, "the queue that waits for room is woken");
    chardev.send(chain(LIMIT as u32, 0).readable());
    assert!(chardev.has_room(), "output is discarded");
    assert_eq!(client.read(&mut [0; 1]).unwrap(), 0);
}

#[test]
fn a_client_that_hung_up_does_not_keep_the_loop_busy() {
    let mut rig = Rig::new();
    rig.client.set_nonblocking(true).unwrap();
    let mut sent = 0;
    while let Ok(more) = rig.client.write(&[7; 8192]) {
        sent += more;
        rig.settle();
    }
    assert!(sent > LIMIT + 8192, "the socket is full too");
    let (other, _) = UnixStream::pair().unwrap();
    drop(std::mem::replace(&mut rig.client, other));
    // Most of what it sent is still in the socket.
    rig.settle();
    assert!(!rig.chardev.is_connected());
    let mut received = 0;
    while rig.chardev.has_input() {
        received += rig.receive(50_000) as usize;
        rig.settle();
    }
    assert_eq!(received, sent);
}

#[test]
fn the_socket_is_looked_at_only_if_there_was_no_room_for_input() {
    let mut rig = Rig::new();
    rig.client.write_all(&[7; 6]).unwrap();
    rig.settle();
    assert_eq!(rig.receive(4), 4);
    assert!(!rig.context.poll(false).unwrap(), "there was room");
    assert_eq!(rig.receive(4), 2);
}

#[test]
fn a_queue_does_not_wait_for_the_sockets_system_calls() {
    let rig = Rig::new();
    // The lock is held over system calls.
    let state = rig.chardev.state();
    let (chardev, (tell, told)) = (Arc::clone(&rig.chardev), mpsc::channel());
    let queue = std::thread::spawn(move || tell.send((chardev.has_input(), chardev.has_room())));
    let answer = told.recv_timeout(Duration::from_secs(10));
    drop(state);
    queue.join().unwrap().unwrap();
    assert_eq!(answer, Ok((false, true)));
}

#[test]
fn what_a_guest_sends_at_once_arrives_up_to_the_limit() {
    let rig = Rig::new();
    rig.chardev.send(chain(5000, 0).readable());
    assert_eq!(rig.chardev.buffered(), (0, 5000));
    rig.chardev.send(chain(MAX_SEND as u32 + 1, 0).readable());
    assert_eq!(rig.chardev.buffered(), (0, 5000 + MAX_SEND));
}
